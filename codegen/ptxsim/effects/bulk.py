"""cp.async.bulk and cp.reduce.async.bulk of plain runs of bytes, bulk groups, and st.async and red.async."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import types
from treadle.codegen.ptxsim.bulk_groups import BulkGroups, Load, Store, Write
from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.engines import Engines, aligned, every, refuse_unless, run, shared_address, without_policy
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, MisalignedHazard
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.mbarriers import Mbarriers
from treadle.codegen.ptxsim.memory import RANK_SHIFT, Addresses, Engine, Space
from treadle.codegen.ptxsim.pure.table import find as find_pure
from treadle.codegen.ptxsim.syntax import Instr, elements

_SMALLEST = 16
_CLUSTER, _CTA = ("shared::cluster",), ("shared::cta", "shared::cluster")
_REPORTS = "mbarrier::complete_tx::bytes"


def read(m: Machine, engine: Engine, warp: int, space: Space, address: Addresses, width: int) -> NDArray[Any]:
    """Elements [n, 1] that an engine reads for a warp, by the asynchronous proxy."""
    m.part(Engines).require_fence(engine, np.array([warp]), space, address, width)
    return space.load(engine, address, width)


def claim(m: Machine, engine: Engine, warp: int, space: Space, address: Addresses, values: NDArray[Any]) -> Write:
    """Elements [n, 1] that an engine will write for a warp."""
    width = values.dtype.itemsize
    m.part(Engines).require_fence(engine, np.array([warp]), space, address, width)
    return Write(space, space.claim(engine, address, width), values)


def everywhere(m: Machine, gang: Gang, index: int, address: int, mask: int | None) -> list[int]:
    """A shared address in every CTA of a multicast mask; in the CTA that it names without one."""
    if mask is None:
        return [address]
    if mask >> m.ctas:
        raise m.hazard(BoundsHazard, f"a multicast to CTAs {mask:#x} of a cluster of {m.ctas}", gang, index)
    within = address & ((1 << RANK_SHIFT) - 1)
    return [within | rank << RANK_SHIFT for rank in range(m.ctas) if mask >> rank & 1]


def reduction(operation: str, type_: str) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] | None:
    """What cp.reduce makes of old and new elements, raw [n, 1] of the type's width."""
    wanted = types.dtype(type_)
    name = "add" if operation in ("inc", "dec") else operation
    mods = ("rn", type_) if name == "add" and type_ in ("f16", "bf16", "f32", "f64") else (type_,)
    pure = find_pure(name, (f"b{type_[1:]}",) if name in ("and", "or", "xor") else mods)
    if pure is None or wanted is None or operation not in ("add", "min", "max", "and", "or", "xor"):
        return None
    fn, raw = pure.fn, types.raw(type_)

    def combine(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        made = fn(old[:, 0].view(wanted), np.ascontiguousarray(new[:, 0]).view(wanted))
        return np.asarray(made, wanted).view(raw)[:, None]

    return combine


def _check_run(m: Machine, gang: Gang, i: int, size: int, *addresses: int) -> None:
    if size % _SMALLEST or size < 0:
        raise m.hazard(MisalignedHazard, f"a bulk copy of {size} bytes, no multiple of {_SMALLEST}", gang, i)
    for address in addresses:
        aligned(m, gang, i, address, _SMALLEST, "the address of a bulk copy")


@effect("cp.async.bulk.shared::cluster.global", "cp.async.bulk.shared::cta.global")
def load(instr: Instr, m: Machine) -> Step:
    """`[to], [from], size, [mbarrier]{, mask}`: global to shared memory."""
    return _to_shared(instr, m, False, instr.mods[4:])


@effect("cp.async.bulk.shared::cluster.shared::cta")
def between_ctas(instr: Instr, m: Machine) -> Step:
    """`[to], [from], size, [mbarrier]`: to another CTA of the cluster."""
    return _to_shared(instr, m, True, instr.mods[4:])


@effect("cp.reduce.async.bulk.shared::cluster.shared::cta")
def reduce_between_ctas(instr: Instr, m: Machine) -> Step:
    """The same, combined with what is there."""
    return _to_shared(instr, m, True, instr.mods[5:-2], instr.mods[-2:])


def _to_shared(instr: Instr, m: Machine, from_shared: bool, mods: tuple[str, ...], reduces: tuple[str, ...] = ()) -> Step:
    known = {_REPORTS, "multicast::cluster", "L2::cache_hint"}
    refuse_unless(bool(mods) and mods[0] == _REPORTS and set(mods) <= known, instr)
    combine = reduction(*reduces) if reduces else None
    refuse_unless(not reduces or combine is not None, instr)
    item = types.raw(reduces[1]).itemsize if reduces else 0
    to, source, size, report, *rest = without_policy(instr)
    refuse_unless(len(rest) == ("multicast::cluster" in mods), instr)
    target, barrier_at = shared_address(to, instr, m), shared_address(report, instr, m)
    origin, length = m.address(source, instr), m.reader(size, "u32", instr)
    masks = m.reader(rest[0], "u16", instr) if rest else None
    space: Space = m.shared if from_shared else m.global_

    def step(gang: Gang) -> None:
        there, here, bars, sizes = (every(f, gang) for f in (origin, target, barrier_at, length))
        mask = every(masks, gang) if masks else [None] * gang.n
        for i in range(gang.n):
            _check_run(m, gang, i, sizes[i], there[i], here[i])
            engine, warp = m.part(Engines).engine(gang, i), int(gang.warp_of[i])
            bases = zip(everywhere(m, gang, i, here[i], mask[i]), everywhere(m, gang, i, bars[i], mask[i]), strict=True)
            if not sizes[i]:
                values: NDArray[Any] = np.zeros((0, 1), np.uint64)
            elif item:
                values = read(m, engine, warp, space, np.arange(there[i], there[i] + sizes[i], item, dtype=np.uint64), item)
            else:
                values = read(m, engine, warp, space, *run(there[i], sizes[i]))
            parts = []
            for base, bar in bases:
                addresses = np.arange(base, base + sizes[i], values.dtype.itemsize, dtype=np.uint64)
                if combine is None:
                    write = claim(m, engine, warp, m.shared, addresses, values)
                else:
                    write = Write(m.shared, m.shared.atomic(engine, addresses, item), values, combine)
                parts.append((write, m.part(Mbarriers).claim(engine, warp, bar), sizes[i]))
            m.defer(Load(m, engine, parts))

    return step


@effect("cp.async.bulk.global.shared::cta")
def store(instr: Instr, m: Machine) -> Step:
    """`[to], [from], size`: shared to global memory, in the thread's bulk group."""
    return _to_global(instr, m, instr.mods[4:])


@effect("cp.reduce.async.bulk.global.shared::cta")
def reduce(instr: Instr, m: Machine) -> Step:
    """The same, combined with what is there."""
    *mods, operation, type_ = (x for x in instr.mods[5:] if x != "noftz")
    return _to_global(instr, m, tuple(mods), (operation, type_))


def _to_global(instr: Instr, m: Machine, mods: tuple[str, ...], reduces: tuple[str, ...] = ()) -> Step:
    refuse_unless(bool(mods) and mods[0] == "bulk_group" and set(mods) <= {"bulk_group", "L2::cache_hint"}, instr)
    combine = reduction(*reduces) if reduces else None
    refuse_unless(not reduces or combine is not None, instr)
    to, source, size = without_policy(instr)
    target, origin, length = m.address(to, instr), shared_address(source, instr, m), m.reader(size, "u32", instr)
    groups = m.part(BulkGroups)

    def step(gang: Gang) -> None:
        there, here, sizes = (every(f, gang) for f in (target, origin, length))
        for i in range(gang.n):
            _check_run(m, gang, i, sizes[i], there[i], here[i])
            if not sizes[i]:
                continue
            group, warp = groups.group(gang, i), int(gang.warp_of[i])
            addresses, width = run(there[i], sizes[i])
            if combine is not None:
                width = types.raw(reduces[1]).itemsize
                addresses = np.arange(there[i], there[i] + sizes[i], width, dtype=np.uint64)
            values = read(m, group.reader, warp, m.shared, addresses - np.uint64(there[i]) + np.uint64(here[i]), width)
            if combine is None:
                write = claim(m, group.writer, warp, m.global_, addresses, values)
            else:
                write = Write(m.global_, m.global_.atomic(group.writer, addresses, width), values, combine)
            groups.add(group, Store([write]))

    return step


@effect("cp.async.bulk.prefetch")
def prefetch(instr: Instr, m: Machine) -> Step:
    """A hint."""
    return lambda gang: None


@effect("cp.async.bulk.commit_group")
def commit(instr: Instr, m: Machine) -> Step:
    groups = m.part(BulkGroups)

    def step(gang: Gang) -> None:
        for thread in gang.threads.tolist():
            groups.commit(thread)

    return step


@effect("cp.async.bulk.wait_group")
def wait(instr: Instr, m: Machine) -> Step:
    groups, read_only = m.part(BulkGroups), "read" in instr.mods
    left = m.reader(instr.operands[0], "u32", instr)

    def step(gang: Gang) -> None:
        for thread, n in zip(gang.threads.tolist(), every(left, gang), strict=True):
            groups.wait(thread, n, read_only)

    return step


@effect("st.async", "red.async")
def store_async(instr: Instr, m: Machine) -> Step:
    """`[to], value, [mbarrier]`: into another CTA's shared memory, whose mbarrier counts the bytes. By the generic proxy."""
    *mods, type_ = (x for x in instr.mods[1:] if x not in ("weak", "relaxed", "cluster", "shared::cluster", _REPORTS))
    refuse_unless(_REPORTS in instr.mods and "shared::cluster" in instr.mods, instr)
    combine = None
    if instr.opcode == "red":
        combine = reduction(mods.pop(), type_)
        refuse_unless(combine is not None, instr)
    refuse_unless(mods in ([], ["v2"], ["v4"]), instr)
    to, source, report = instr.operands
    target, barrier_at = shared_address(to, instr, m), shared_address(report, instr, m)
    raw = types.raw(type_)
    gets = [m.reader(s, type_, instr) for s in elements(source)]

    def step(gang: Gang) -> None:
        here, bars = every(target, gang), every(barrier_at, gang)
        given = np.stack([np.broadcast_to(get(gang).view(raw), (gang.n,)) for get in gets], axis=1)
        for i in range(gang.n):
            warp = int(gang.warp_of[i])
            engine = m.part(Engines).engine(gang, i, m.part(Engines).agent(warp, fencer=warp))
            addresses = np.uint64(here[i]) + np.arange(given.shape[1], dtype=np.uint64) * np.uint64(raw.itemsize)
            aligned(m, gang, i, here[i], given.shape[1] * raw.itemsize, "the address of an asynchronous store")
            if combine is None:
                offsets = m.shared.claim(engine, addresses, raw.itemsize)
            else:
                offsets = m.shared.atomic(engine, addresses, raw.itemsize)
            write = Write(m.shared, offsets, given[i][:, None].copy(), combine)
            barrier = m.part(Mbarriers).claim(engine, warp, bars[i])
            m.defer(Load(m, engine, [(write, barrier, given.shape[1] * raw.itemsize)]))

    return step
