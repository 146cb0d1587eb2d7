"""Matrices of a warp: mma.sync, ldmatrix, stmatrix, movmatrix. All lanes take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import fragments, products
from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.effects.warp import Masks, together
from treadle.codegen.ptxsim.engines import refuse_unless, shared_address
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import DivergenceHazard, refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.syntax import Imm, Instr, Operand, elements

_ALL = Imm(0xFFFFFFFF)


def _whole_warps(instr: Instr, m: Machine, act: Callable[[Gang], None]) -> Step:
    def checked(gang: Gang, masks: Masks) -> None:
        if gang.n != WARP * len(gang.warps):
            raise m.hazard(DivergenceHazard, "lanes of the warp have left the kernel, or were never there", gang, 0)
        act(gang)

    return together(instr, m, _ALL, checked)


def registers(operand: Operand, count: int, type_: str, instr: Instr, m: Machine) -> Callable[[Gang], NDArray[Any]]:
    """What reads a vector of `count` registers: [registers, threads]."""
    items = elements(operand)
    if len(items) != count:
        raise refuse(instr, f"{len(items)} registers for {count}")
    gets = [m.reader(i, type_, instr) for i in items]
    return lambda gang: np.stack([np.broadcast_to(get(gang), (gang.n,)) for get in gets])


def results(operand: Operand, count: int, type_: str, instr: Instr, m: Machine) -> Callable[[Gang, NDArray[Any]], None]:
    """What assigns [registers, threads] to a vector of registers."""
    items = elements(operand)
    if len(items) != count:
        raise refuse(instr, f"{len(items)} registers for {count}")
    puts = [m.writer(i, type_, instr) for i in items]

    def put(gang: Gang, values: NDArray[Any]) -> None:
        for one, value in zip(puts, values, strict=True):
            one(gang, value)

    return put


@effect("mma.sync")
def multiply(instr: Instr, m: Machine) -> Step:
    product = products.mma(instr.mods)
    if product is None or len(instr.operands) != 4:
        raise refuse(instr)
    wide = "b64" if product.d == "f64" else "b32"
    to, a, b, c = instr.operands
    put = results(to, product.result.registers, wide, instr, m)
    left = registers(a, product.left.registers, wide, instr, m)
    right = registers(b, product.right.registers, wide, instr, m)
    add = registers(c, product.result.registers, wide, instr, m)

    def act(gang: Gang) -> None:
        sums = product.from_result(add(gang))
        put(gang, product.to_registers(product.from_left(left(gang)), product.from_right(right(gang)), sums))

    return _whole_warps(instr, m, act)


def _eights(instr: Instr) -> tuple[int, bool]:
    """How many 8 x 8 matrices ldmatrix and stmatrix move, and whether transposed."""
    mods = instr.mods
    refuse_unless(mods[:3] == ("sync", "aligned", "m8n8") and mods[3] in ("x1", "x2", "x4") and mods[-1] == "b16", instr)
    refuse_unless(all(x in ("trans", "shared", "shared::cta") for x in mods[4:-1]), instr)
    return int(mods[3][1:]), "trans" in mods


@effect("ldmatrix")
def load(instr: Instr, m: Machine) -> Step:
    count, transposed = _eights(instr)
    target, source = instr.operands
    put, address = results(target, count, "b32", instr, m), shared_address(source, instr, m)
    fragment = fragments.eight_by_eight(transposed)

    def act(gang: Gang) -> None:
        rows = gang.lane_of < 8 * count  # the lanes whose addresses count
        raw = m.shared.load(gang.narrow(rows), address(gang)[rows], 8, 2)
        matrices = np.ascontiguousarray(raw).view(np.uint16).reshape(-1, count, 8, 8)
        word = np.dtype(np.uint32)
        put(gang, np.concatenate([fragment.split(matrices[:, i], word) for i in range(count)]))

    return _whole_warps(instr, m, act)


@effect("stmatrix")
def store(instr: Instr, m: Machine) -> Step:
    count, transposed = _eights(instr)
    target, source = instr.operands
    get, address = registers(source, count, "b32", instr, m), shared_address(target, instr, m)
    fragment = fragments.eight_by_eight(transposed)

    def act(gang: Gang) -> None:
        rows = gang.lane_of < 8 * count
        matrices = np.stack([fragment.join(r[None], np.dtype(np.uint16)) for r in get(gang)], axis=1)
        m.shared.store(gang.narrow(rows), address(gang)[rows], matrices.reshape(-1, 8).view(np.uint64))

    return _whole_warps(instr, m, act)


@effect("movmatrix")
def transpose(instr: Instr, m: Machine) -> Step:
    refuse_unless(instr.mods == ("sync", "aligned", "m8n8", "trans", "b16"), instr)
    target, source = instr.operands
    put, get = m.writer(target, "b32", instr), m.reader(source, "b32", instr)
    straight, across = fragments.eight_by_eight(False), fragments.eight_by_eight(True)

    def act(gang: Gang) -> None:
        matrices = straight.join(get(gang)[None], np.dtype(np.uint16))
        put(gang, across.split(matrices, np.dtype(np.uint32))[0])

    return _whole_warps(instr, m, act)
