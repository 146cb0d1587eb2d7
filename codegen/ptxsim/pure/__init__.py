"""The opcodes whose results depend on their operands alone. Importing a file enters its opcodes in the table."""

from __future__ import annotations

from treadle.codegen.ptxsim.pure import approx, bits, carry, compare, convert, float, fma, fp8, integer
from treadle.codegen.ptxsim.pure.table import Pure, dtype, find, names

__all__ = ["Pure", "approx", "bits", "carry", "compare", "convert", "dtype", "find", "float", "fma", "fp8", "integer", "names"]
