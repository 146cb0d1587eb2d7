#!/usr/bin/env bash
# Runs the kit that this script lies in, on a machine without internet:
#
#   bash gpu-kit/run.sh --out DIR [--only correctness|cgspn|bench|tests] [--device cuda:0] [--quick] [--python PYTHON]
#
# Makes an environment beside the kit that sees this machine's python3 with its torch, and installs the kit's wheels into it.
# --python uses an interpreter as it is, with treadle installed. --only tests runs the device tests, by pytest.
set -euo pipefail
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python='' only='' out='' rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --python) python=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --device) rest+=("$1" "$2"); shift 2 ;;
    --quick) rest+=("$1"); shift ;;
    *) echo "run.sh: unknown argument $1" >&2; sed -n 4p "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || { echo "run.sh: --out DIR is missing" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)

if [ -z "$python" ]; then
  env=$kit/.env
  if [ ! -e "$env/ready" ]; then
    rm -rf "$env"
    python3 -m venv --system-site-packages --without-pip "$env"
    # Where python3 is itself in an environment, --system-site-packages shows the system's packages and not that one's.
    python3 -c 'import site; print(*site.getsitepackages(), sep="\n")' >"$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
    python3 -m pip --python "$env/bin/python" install --quiet --no-index --find-links "$kit/wheels" treadle
    touch "$env/ready"
  fi
  python=$env/bin/python
fi

cd "$kit"
if [ "$only" = tests ]; then
  TREADLE_KIT=$kit exec "$python" -m pytest -p no:cacheprovider -q tests --junitxml "$out/tests.xml"
fi
PYTHONUNBUFFERED=1 exec "$python" -m gpu --kit "$kit" --out "$out" ${only:+--only "$only"} "${rest[@]}"
