"""wgmma: products of a warpgroup, whose B, and A if it likes, lie in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import descriptor, products
from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.effects.matrix import registers, results
from treadle.codegen.ptxsim.engines import Engines, refuse_unless
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import DivergenceHazard, HazardError, refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.memory import RANK_SHIFT, Engine
from treadle.codegen.ptxsim.syntax import Imm, Instr, Operand, Vec
from treadle.codegen.ptxsim.warpgroups import Group, Warpgroups, register_names


def _uniform(m: Machine, gang: Gang, values: NDArray[Any], what: str) -> Any:
    """The one value that all threads of the warpgroup have."""
    one = np.broadcast_to(values, (gang.n,))
    different = one != one[0]
    if different.any():
        raise m.hazard(DivergenceHazard, f"threads of the warpgroup have different {what}", gang, int(different.argmax()))
    return one[0]


class _InShared:
    """An operand given by a descriptor: `lines` rows of A or columns of B."""

    def __init__(self, operand: Operand, instr: Instr, m: Machine, lines: int, type_: str, across: bool) -> None:
        self.m, self.lines, self.type, self.across = m, lines, type_, across
        self._get = m.reader(operand, "b64", instr)

    def matrix(self, gang: Gang, engine: Engine) -> NDArray[Any]:
        """As numbers, [lines, depth]."""
        m = self.m
        found = descriptor.decode(int(_uniform(m, gang, self._get(gang), "matrix descriptors")))
        if found.fault:
            raise m.hazard(HazardError, found.fault, gang, 0)
        raw = products.ELEMENTS[self.type].raw
        chunks = found.chunks(self.lines, 32, not self.across)
        address = (chunks.ravel() + (int(m.cta_of(gang)[0]) << RANK_SHIFT)).astype(np.uint64)
        m.part(Engines).require_fence(engine, gang.warps, m.shared, address, 16)
        words = m.shared.load(engine, address, 8, 2)
        elements = np.ascontiguousarray(words).reshape(chunks.shape[0], -1).view(raw)
        values = products.numbers(elements, self.type)
        return values.T if self.across else values


@effect("wgmma.mma_async")
def multiply(instr: Instr, m: Machine) -> Step:
    """`d, a, b, scale-d{, scale-a, scale-b{, trans-a}, trans-b}`; no trans-a where A comes from registers."""
    product = products.wgmma(instr.mods)
    if product is None:
        raise refuse(instr)
    to, a, b, scale, *rest = instr.operands
    from_registers = isinstance(a, Vec)
    immediates = [_immediate(i, instr) for i in rest]
    may_lie_across = product.a in ("f16", "bf16")
    wanted = 0 if product.d == "s32" else 2 + (2 - from_registers if may_lie_across else 0)
    refuse_unless(len(immediates) == wanted and all(abs(i) == 1 for i in immediates[:2]), instr)
    signs = immediates[:2] or [1, 1]
    a_across, b_across = (*[0] * (2 - len(immediates[2:])), *immediates[2:])
    warpgroups = m.part(Warpgroups)
    put = results(to, product.result.registers, "b32", instr, m)
    sums = registers(to, product.result.registers, "b32", instr, m)
    left = registers(a, product.left.registers, "b32", instr, m) if from_registers else None
    left_shared = None if from_registers else _InShared(a, instr, m, product.m, product.a, bool(a_across))
    right = _InShared(b, instr, m, product.n, product.b, bool(b_across))
    adds = m.reader(scale, "pred", instr)
    accumulators, operands = register_names(instr, 0), register_names(instr, 1)

    def act(gang: Gang, group: Group) -> None:
        warpgroups.hold(gang, group, product, accumulators, operands)
        engine = m.part(Engines).engine(gang, 0, warpgroups.agent(gang, group))
        if left is not None:
            first = product.from_left(left(gang))
        else:
            assert left_shared is not None
            first = left_shared.matrix(gang, engine)[None]
        second = right.matrix(gang, engine).T[None]
        added = bool(_uniform(m, gang, adds(gang), "scale-d"))
        c = product.from_result(sums(gang)) if added else None
        put(gang, product.to_registers(signs[0] * signs[1] * first, second, c))

    return warpgroups.together(act)


def _immediate(operand: Operand, instr: Instr) -> int:
    if not isinstance(operand, Imm):
        raise refuse(instr, "an immediate that is none")
    return operand.value


@effect("wgmma.fence")
def fence(instr: Instr, m: Machine) -> Step:
    def act(gang: Gang, group: Group) -> None:
        group.fenced = True
        group.touched.clear()

    return m.part(Warpgroups).together(act)


@effect("wgmma.commit_group")
def commit(instr: Instr, m: Machine) -> Step:
    warpgroups = m.part(Warpgroups)
    return warpgroups.together(warpgroups.commit)


@effect("wgmma.wait_group")
def wait(instr: Instr, m: Machine) -> Step:
    warpgroups, left = m.part(Warpgroups), instr.operands[0]
    if not isinstance(left, Imm):
        raise refuse(instr, "a number of groups that is no immediate")
    count = left.value
    return warpgroups.together(lambda gang, group: warpgroups.wait(gang, group, count))
