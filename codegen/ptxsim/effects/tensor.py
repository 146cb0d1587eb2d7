"""cp.async.bulk.tensor: boxes of a tensor to shared memory and back, by a tensor map; tile mode only."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import tensor_map, types
from treadle.codegen.ptxsim.bulk_groups import BulkGroups, Load, Store, Write
from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.effects.bulk import claim, everywhere, read, reduction
from treadle.codegen.ptxsim.engines import Engines, aligned, every, refuse_unless, shared_address, without_policy
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import BoundsHazard, HazardError
from treadle.codegen.ptxsim.machine import WINDOWS, Machine
from treadle.codegen.ptxsim.mbarriers import Mbarriers
from treadle.codegen.ptxsim.memory import Addresses, Engine
from treadle.codegen.ptxsim.syntax import Addr, Instr, Operand
from treadle.codegen.ptxsim.tensor_map import TensorMap
from treadle.errors import ArgumentError

_SHARED_ALIGN = 128
_MAP_ALIGN = 64
_REPORTS = "mbarrier::complete_tx::bytes"
_HINTS = {"tile", "L2::cache_hint", "cta_group::1", "cta_group::2"}
_decode = lru_cache(maxsize=256)(tensor_map.decode)


class _Box:
    """The operand `[map, {coordinates}]`."""

    def __init__(self, operand: Operand, instr: Instr, m: Machine) -> None:
        refuse_unless(isinstance(operand, Addr), instr)
        assert isinstance(operand, Addr)
        self.m = m
        self._map = m.address(Addr(operand.base, operand.offset), instr)
        self._coordinates = [m.reader(c, "s32", instr) for c in operand.rest]
        self._rank = int(next(x for x in instr.mods if x[:-1].isdigit() and x.endswith("d"))[:-1])
        refuse_unless(len(self._coordinates) == self._rank, instr)

    def of(self, gang: Gang) -> list[tuple[TensorMap, list[int]]]:
        """Map and coordinates of every thread."""
        where = [every(c, gang) for c in self._coordinates]
        return [(self._read(gang, i, a), [c[i] for c in where]) for i, a in enumerate(every(self._map, gang))]

    def _read(self, gang: Gang, i: int, address: int) -> TensorMap:
        m = self.m
        aligned(m, gang, i, address, _MAP_ALIGN, "the address of a tensor map")
        window, within = address >> 48 << 48, address & ((1 << 48) - 1)
        name = next((s for s in ("param", "global") if WINDOWS[s] == window), None)
        if name is None:
            raise m.hazard(
                BoundsHazard, f"a tensor map at {address:#x}, neither a parameter nor in global memory", gang, i, address
            )
        one = Gang(np.repeat(gang.threads[i : i + 1], 2))
        raw = m.space(name).load(one, np.array([within, within + 64], np.uint64), 8, 8)
        try:
            found = _decode(raw.tobytes())
        except ArgumentError as wrong:
            raise m.hazard(HazardError, f"the tensor map at {address:#x}: {wrong}", gang, i, address) from None
        if found.rank != self._rank:
            raise m.hazard(HazardError, f"a tensor map of rank {found.rank} for a copy of rank {self._rank}", gang, i, address)
        return found


def _inside(map_: TensorMap, coordinates: list[int]) -> tuple[Addresses, int, NDArray[np.bool_]]:
    """The box's elements that lie in the tensor: their addresses and width; and which 1-wide places of the box they are."""
    tile = map_.tile(coordinates)
    mask = np.zeros((map_.rows, map_.row_bytes), bool)
    mask[tile.inside, tile.first : tile.last] = True
    if tile.empty:
        return np.zeros(0, np.uint64), map_.dtype.itemsize, mask
    length = tile.last - tile.first
    lows = int(np.bitwise_or.reduce(tile.rows)) | length | 8
    width = lows & -lows
    addresses = tile.rows[:, None] + np.arange(0, length, width, dtype=np.uint64)
    return addresses.ravel(), width, mask


@effect(*(f"cp.async.bulk.tensor.{d}d.shared::{s}.global" for d in range(1, 6) for s in ("cluster", "cta")))
def load(instr: Instr, m: Machine) -> Step:
    """`[to], [map, {...}], [mbarrier]{, mask}`."""
    mods = instr.mods[6:]
    refuse_unless(_REPORTS in mods and set(mods) <= _HINTS | {_REPORTS, "multicast::cluster"}, instr)
    to, source, report, *rest = without_policy(instr)
    refuse_unless(len(rest) == ("multicast::cluster" in mods), instr)
    box = _Box(source, instr, m)
    target, barrier_at = shared_address(to, instr, m), shared_address(report, instr, m)
    masks = m.reader(rest[0], "u16", instr) if rest else None

    def step(gang: Gang) -> None:
        here, bars = every(target, gang), every(barrier_at, gang)
        mask = every(masks, gang) if masks else [None] * gang.n
        for i, (map_, coordinates) in enumerate(box.of(gang)):
            aligned(m, gang, i, here[i], _SHARED_ALIGN, "the shared address of a tensor copy")
            engine, warp = m.part(Engines).engine(gang, i), int(gang.warp_of[i])
            values = _gather(m, engine, warp, map_, coordinates)
            parts = []
            for base, bar in zip(
                everywhere(m, gang, i, here[i], mask[i]), everywhere(m, gang, i, bars[i], mask[i]), strict=True
            ):
                write = claim(m, engine, warp, m.shared, _places(map_, base), values)
                parts.append((write, m.part(Mbarriers).claim(engine, warp, bar), map_.bytes))
            m.defer(Load(m, engine, parts))

    return step


def _places(map_: TensorMap, base: int) -> Addresses:
    """Where the box's 8-byte elements lie in shared memory, in the order of the box."""
    chunks = map_.chunks(base)
    return (chunks[:, None] + np.array([0, 8])).ravel().astype(np.uint64)


def _gather(m: Machine, engine: Engine, warp: int, map_: TensorMap, coordinates: list[int]) -> NDArray[Any]:
    """A box as 8-byte elements [n, 1], filled where it is outside."""
    addresses, width, mask = _inside(map_, coordinates)
    box = np.tile(map_.fill, (map_.rows, 1))
    if len(addresses):
        raw = read(m, engine, warp, m.global_, addresses, width)
        box[mask] = map_.loaded(np.ascontiguousarray(raw).reshape(-1).view(np.uint8))
    return box.reshape(-1).view(np.uint64)[:, None]


@effect(*(f"cp.async.bulk.tensor.{d}d.global.shared::cta" for d in range(1, 6)))
def store(instr: Instr, m: Machine) -> Step:
    """`[map, {...}], [from]`: what lies outside the tensor is not written."""
    return _to_tensor(instr, m, instr.mods[6:], None)


@effect(*(f"cp.reduce.async.bulk.tensor.{d}d.global.shared::cta" for d in range(1, 6)))
def reduce(instr: Instr, m: Machine) -> Step:
    """The same, combined with what is there."""
    return _to_tensor(instr, m, instr.mods[8:], instr.mods[7])


def _to_tensor(instr: Instr, m: Machine, mods: tuple[str, ...], operation: str | None) -> Step:
    refuse_unless("bulk_group" in mods and set(mods) <= _HINTS | {"bulk_group"}, instr)
    target, source = without_policy(instr)
    box, origin, groups = _Box(target, instr, m), shared_address(source, instr, m), m.part(BulkGroups)

    def step(gang: Gang) -> None:
        here = every(origin, gang)
        for i, (map_, coordinates) in enumerate(box.of(gang)):
            aligned(m, gang, i, here[i], _SHARED_ALIGN, "the shared address of a tensor copy")
            group, warp = groups.group(gang, i), int(gang.warp_of[i])
            whole = read(m, group.reader, warp, m.shared, _places(map_, here[i]), 8)
            addresses, width, mask = _inside(map_, coordinates)
            if operation is not None:
                width = map_.dtype.itemsize
                addresses = _elements(addresses, mask, map_, width)
            if not len(addresses):
                groups.add(group, Store([]))
                continue
            inside = np.ascontiguousarray(whole).reshape(-1).view(np.uint8).reshape(mask.shape)[mask]
            values = inside.view(f"u{width}")[:, None]
            if operation is None:
                write = claim(m, group.writer, warp, m.global_, addresses, values)
            else:
                combine = reduction(operation, _type(map_, operation))
                if combine is None:
                    raise m.hazard(HazardError, f"a reduction by {operation} of a tensor of {map_.type}", gang, i)
                write = Write(m.global_, m.global_.atomic(group.writer, addresses, width), values, combine)
            groups.add(group, Store([write]))

    return step


def _elements(addresses: Addresses, mask: NDArray[np.bool_], map_: TensorMap, item: int) -> Addresses:
    """Addresses of single elements, from those of wider accesses."""
    if not len(addresses):
        return addresses
    wide = int(mask.sum()) // len(addresses)
    return (addresses[:, None] + np.arange(0, wide, item).astype(np.uint64)).ravel()


def _type(map_: TensorMap, operation: str) -> str:
    """The PTX type that a reduction of the tensor's elements works in."""
    bits = 8 * map_.dtype.itemsize
    plain = map_.type.split(".")[0]
    if operation in ("and", "or", "xor"):
        return f"b{bits}" if plain[0] in "us" else plain
    return plain if types.dtype(plain) is not None else ""


@effect(*(f"cp.async.bulk.prefetch.tensor.{d}d" for d in range(1, 6)))
def prefetch(instr: Instr, m: Machine) -> Step:
    """A hint."""
    return lambda gang: None
