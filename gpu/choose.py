"""What goes into the kit: which kernels, and at which sizes each is checked and timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from gpu import sweeps
from gpu.cases import Case, Tensor, Work
from treadle.bench.scan.gspn_ladder import DTYPES, RUNGS, SIZES, meant
from treadle.cases import _carry_weights, draw_sizes, generator
from treadle.codegen.lower import Lowered, lower, spaces
from treadle.ir import Program, build, definitions
from treadle.ir import dims as dm
from treadle.schedules.space import Space
from treadle.schedules.target import Target

#: Sizes that fill a large GPU. G follows C.
TIMED: Mapping[str, Mapping[str, int]] = {
    "gemm.linear": {"N": 1, "P": 8192, "K": 4096, "M": 4096},
    "image.mean_pool": {"N": 64, "C": 1152, "P": 1024},
    "image.patch_embed": {"N": 64, "C": 3, "H": 37, "W": 37, "M": 1152},
    "image.to_planes": {"N": 64, "P": 1024, "C": 1152},
    "norm.add_rms_norm": {"R": 16384, "C": 4096},
    "norm.layer_norm": {"R": 65536, "C": 1152},
    "norm.rms_norm": {"R": 16384, "C": 4096},
    "norm.rms_norm_adjoint": {"R": 16384, "C": 4096},
    "norm.rms_norm_gated": {"R": 16384, "G": 8, "S": 512},
    "norm.rms_norm_gated_adjoint": {"R": 16384, "G": 8, "S": 512},
    "scan.causal_conv1d": {"B": 4, "L": 4096, "D": 6144},
    "scan.causal_conv1d_adjoint": {"B": 4, "L": 4096, "D": 6144},
    "scan.gspn": {"N": 8, "C": 64, "H": 256, "W": 256, "G": 64},
    "scan.gspn_adjoint": {"N": 4, "C": 64, "H": 256, "W": 256, "G": 64},
    "scan.gspn_gates": {"N": 8, "G": 64, "H": 256, "W": 256},
    "scan.gspn_merge": {"N": 8, "C": 64, "P": 65536},
    **sweeps.SIZES,
}
#: Values of attributes that are numbers, to check beside the default.
OTHER: Mapping[str, tuple[int, ...]] = {"chunk": (7,), "patch": (16,)}
#: The dtype whose default kernels are also tried at other Points, and the Programs that both routes must get right.
TUNED, ROUTE_B = "bfloat16", ("norm.layer_norm", "scan.gspn")
#: Random awkward sizes per kernel, and how large the one is that occupies many blocks and still has a quick oracle.
AWKWARD, MIDDLE_BYTES, MIDDLE_FLOPS = 3, 4 << 20, 1 << 29


def kernels(target: Target, names: Sequence[str] | None, dtypes: Sequence[str], candidates: int) -> Iterator[Lowered]:
    """Each Program by its default schedule and Point, under every choice of attributes; then further Points of some."""
    for name in names or definitions():
        if build(name, definitions()[name].dtypes[0]).updates:
            continue  # a call changes what the next one reads: gpu/decode.py holds and times these
        for dtype in definitions()[name].dtypes:
            if dtype not in dtypes:
                continue
            for program in _variants(name, dtype):
                yield lower(program, target)
            if dtype == TUNED and target.kind == "cuda":
                space = spaces(build(name, dtype), target)[0]
                for point in islice(_neighbours(space), candidates):
                    yield lower(space.program, target, space, point)


def ladder(target: Target, names: Sequence[str] | None, dtypes: Sequence[str]) -> Iterator[Lowered]:
    """Every rung of scan.gspn by its default Point, beside those that `kernels` chose already."""
    if target.kind != "cuda" or (names and "scan.gspn" not in names):
        return
    for rung in RUNGS:
        for dtype in (d for d in DTYPES if d in dtypes):
            program = build("scan.gspn", dtype, {"direction": rung.direction})
            for rank, space in enumerate(spaces(program, target)):
                if space.name == rung.schedule and rank > 0:
                    yield lower(program, target, space)


def cases(kernel: Lowered, target: Target, library: str, route: str = "C") -> list[Case]:
    """The kernel as the kit knows it; a rung of the ladder once more for each of the sizes at which rungs are compared."""
    whole = case(kernel, target, library, route)
    p = kernel.program
    rung = next((r for r in RUNGS if (r.schedule, r.direction) == (kernel.schedule, p.attrs.get("direction"))), None)
    by_name = {s.name: s for s in spaces(p, target)}
    if p.name != "scan.gspn" or rung is None or p.attrs["chunk"] or p.dtype not in DTYPES or route != "C":
        return [whole]
    if kernel.point != by_name[kernel.schedule].point():
        return [whole]
    found = [whole if whole.default else replace(whole, timed=None)]
    for sizes in SIZES.values():
        if meant(rung, sizes, kernel.point):
            turned = sizes if rung.direction == "t2b" else {**sizes, "H": sizes["W"], "W": sizes["H"]}
            found.append(replace(whole, checked=(), timed=_work(p, turned), rung=rung.number))
    return found


def _variants(name: str, dtype: str) -> Iterator[Program]:
    """A Program with its default attributes, and with one attribute at a time at each other value."""
    yield build(name, dtype)
    for attr, kind in definitions()[name].attrs.items():
        for value in (*(c for c in kind.choices if c != kind.default), *OTHER.get(attr, ())):
            yield build(name, dtype, {attr: value})


def _neighbours(space: Space) -> Iterator[Any]:
    """Legal Points that differ from the default in one knob, a different knob each time for as long as there are any."""
    default = asdict(space.point())
    by_knob: dict[str, list[Any]] = {}
    for point in space.legal():
        changed = [knob for knob, value in asdict(point).items() if value != default[knob]]
        if len(changed) == 1:
            by_knob.setdefault(changed[0], []).append(point)
    while by_knob:
        for knob in list(by_knob):
            yield by_knob[knob].pop(0)
            if not by_knob[knob]:
                del by_knob[knob]


def case(kernel: Lowered, target: Target, library: str, route: str = "C") -> Case:
    """The kernel as the kit knows it. Timed are those with default attributes, a scan in every direction."""
    p = kernel.program
    carry = _carry_weights(p)

    def tensor(t: Any) -> Tensor:
        name = t.op.name
        return Tensor(name, tuple(dm.text(s) for s in t.shape), str(t.dtype), 1 / carry[name] if name in carry else None)

    checked = [draw_sizes(p, generator(0, p.symbol, i)) for i in range(AWKWARD)]
    timed = TIMED.get(p.name)
    if timed:
        checked.append(_middle(p, timed))
    default = {n: a.default for n, a in p.definition.attrs.items()}
    worth_timing = timed and {**p.attrs, "direction": None} == {**default, "direction": None}
    space = spaces(p, target)[0]
    return Case(
        program=p.name, dtype=p.dtype, attrs=dict(p.attrs), schedule=kernel.schedule, point=asdict(kernel.point),
        default=(kernel.schedule, kernel.point) == (space.name, space.point()), route=route, library=library, symbol=p.symbol,
        args=tuple(map(tensor, p.args)), results=tuple(map(tensor, p.results)), checked=tuple(_work(p, s) for s in checked),
        timed=_work(p, timed) if timed and worth_timing else None,
    )  # fmt: skip


def _middle(p: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """The timed sizes, the largest halved until a float64 oracle on the CPU takes no time; odd, so that tails stay ragged."""
    found = dict(sizes)
    while (cost := p.cost(found)).bytes > MIDDLE_BYTES or cost.flops > MIDDLE_FLOPS:
        largest = max((n for n in found if n != "G" or "C" not in found), key=lambda n: found[n])
        found[largest] = found[largest] // 2 | 1
        if "G" in found and "C" in found:
            found["G"] = found["C"]
    return found


def _work(p: Program, sizes: Mapping[str, int]) -> Work:
    cost = p.cost(sizes)
    return Work(dict(sizes), cost.bytes, cost.flops)
