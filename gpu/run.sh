#!/usr/bin/env bash
# Runs the kit that this script lies in, on a machine without internet:
#
#   bash gpu-kit/run.sh --out DIR [--only STAGE|PROGRAM,...] [--device cuda:0] [--quick] [--python PYTHON]
#
# Stages: correctness, cgspn, bench (these three unless told otherwise), memcheck (under compute-sanitizer), and tests, which
# runs the device tests by pytest. Exit code 0: all right; 3: a result is wrong; 1: something did not run; 2: bad arguments.
#
# Makes an environment beside the kit that sees this machine's python3 with its torch, and installs the kit's wheels into it.
# --python uses an interpreter as it is, with treadle installed.
set -euo pipefail
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python='' only='' out='' device=cuda:0 rest=()

usage() {
  echo "run.sh: $1" >&2
  sed -n '4p' "${BASH_SOURCE[0]}" | cut -c3- >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --python | --only | --out | --device) [ $# -gt 1 ] || usage "$1 needs a value" ;;&
    --python) python=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --quick) rest+=("$1"); shift ;;
    *) usage "unknown argument $1" ;;
  esac
done
[ -n "$out" ] || usage "--out DIR is missing"
[[ $device =~ ^(cpu|cuda(:[0-9]{1,4})?)$ ]] || usage "--device $device is neither cuda:N nor cpu"

if [ -z "$python" ]; then
  python3 "$kit/gpu/machine.py" "$device" --wheels
  env=$kit/.env
  if [ ! -e "$env/ready" ]; then
    rm -rf "$env"
    python3 -m venv --system-site-packages --without-pip "$env"
    # Where python3 is itself in an environment, --system-site-packages shows the system's packages and not that one's.
    own=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    python3 -c 'import site; [print(f"import site; site.addsitedir({d!r})") for d in site.getsitepackages()]' >"$own/parent.pth"
    python3 -m pip --python "$env/bin/python" install --quiet --no-index --find-links "$kit/wheels" treadle
    touch "$env/ready"
  fi
  python=$env/bin/python
else
  "$python" "$kit/gpu/machine.py" "$device"
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$kit"
if [ "$only" = tests ]; then
  TREADLE_KIT=$kit exec "$python" -m pytest -p no:cacheprovider --import-mode=importlib -o markers=gpu -q tests --junitxml "$out/tests.xml"
fi
PYTHONUNBUFFERED=1 exec "$python" -m gpu --kit "$kit" --out "$out" --device "$device" ${only:+--only "$only"} "${rest[@]}"
