"""python -m treadle.codegen.ptxsim.standin PROGRAM ...: runs a program with the stand-in as its CUDA."""

from __future__ import annotations

import os
import sys

from treadle.codegen.ptxsim.standin import environment
from treadle.errors import TreadleError


def main() -> None:
    """Replaces this process."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    try:
        os.execvpe(sys.argv[1], sys.argv[1:], environment())
    except (TreadleError, OSError) as wrong:
        raise SystemExit(f"{sys.argv[1]}: {wrong}") from None


if __name__ == "__main__":
    main()
