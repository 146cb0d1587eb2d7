"""The steps of multi-word arithmetic. CC.CF is state, so it is an argument and a result here: carry, or borrow of sub.

`add.cc` gives (sum, carry); `addc` takes the carry as its last argument, and gives one too if it has `.cc`.
"""

from __future__ import annotations

import numpy as np

from treadle.codegen.ptxsim.pure.integer import product
from treadle.codegen.ptxsim.pure.table import Array, Mods, NotThis, Pure, dtype, opcode

_KINDS = ("u32", "s32", "u64", "s64")
_NONE = np.False_


def _plus(a: Array, b: Array, carry: Array) -> tuple[Array, Array]:
    total = a + b + carry
    return total, (total < a) | (carry & (total == a))


def _minus(a: Array, b: Array, borrow: Array) -> tuple[Array, Array]:
    return a - b - borrow, (a < b) | (borrow & (a == b))


@opcode("add", "addc", "sub", "subc")
def _sum(mods: Mods) -> Pure:
    gives, takes = mods.flag("cc"), mods.opcode.endswith("c")
    unsigned = "u" + mods.type(*_KINDS)[1:]  # the carry is that of the bits
    mods.end()
    if not (gives or takes):
        raise NotThis
    step = _plus if mods.opcode.startswith("add") else _minus
    args, out = (unsigned, unsigned), (unsigned, "pred")
    if not takes:
        return Pure(out, args, lambda a, b: step(a, b, _NONE))
    if not gives:
        return Pure(out[:1], (*args, "pred"), lambda a, b, carry: step(a, b, carry)[0])
    return Pure(out, (*args, "pred"), step)


@opcode("mad", "madc")
def _mad(mods: Mods) -> Pure:
    gives, takes = mods.flag("cc"), mods.opcode == "madc"
    part = mods.need("lo", "hi")
    kind = mods.type(*_KINDS)
    mods.end()
    if not (gives or takes):
        raise NotThis
    unsigned = "u" + kind[1:]
    multiply = product(kind, part)[1]  # the upper half depends on the sign
    bits = dtype(unsigned)
    args, out = (kind, kind, unsigned), (unsigned, "pred")

    def step(a: Array, b: Array, c: Array, carry: Array) -> tuple[Array, Array]:
        return _plus(multiply(a, b).view(bits), c, carry)

    if not takes:
        return Pure(out, args, lambda a, b, c: step(a, b, c, _NONE))
    if not gives:
        return Pure(out[:1], (*args, "pred"), lambda a, b, c, carry: step(a, b, c, carry)[0])
    return Pure(out, (*args, "pred"), step)
