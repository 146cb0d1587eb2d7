"""What both CPU scan schedules share: a line emitted from the Scan itself, and the split of the space into tasks.

Reads that look along the line, and the carry, come from padded rows in L1, so every load is safe and a missing neighbour is
one vector select, needed only in the first and last block of a line. What is left has no condition in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir import expr as ex
from treadle.ir.expr import Expr
from treadle.ir.scan import CARRY, Read, Scan

#: Elements before and after a padded row, a cache line: neighbours of the ends may be loaded, not used.
PAD = 16


def used_reads(scan: Scan) -> dict[str, Read]:
    """The reads that source, terms and outputs really make (an adjoint keeps the names of more)."""
    exprs = [scan.source, *(t.weight for t in scan.terms), *(o.value for o in scan.outputs)]
    return {n: scan.reads[n] for n, s in scan.symbols.items() if any(ex.depends(e, s) for e in exprs)}


def stream_of(scan: Scan, read: Read) -> str:
    """Names what a read walks over: reads that differ only in their shift share one stream."""
    index = read.index([tirx.Var(name, "int64") for name in scan.space])
    return f"{read.tensor.op.name}{[str(i) for i in index]}{read.back:+d}"


def streams(scan: Scan) -> dict[str, list[Read]]:
    found: dict[str, list[Read]] = {}
    for read in used_reads(scan).values():
        found.setdefault(stream_of(scan, read), []).append(read)
    return found


def reach(scan: Scan) -> int:
    """How far along the line a step looks."""
    return max([0, *(abs(t.offset) for t in scan.terms), *(abs(r.shift) for r in used_reads(scan).values())])


def runs_along(scan: Scan, index: Callable[[Sequence[Expr]], tuple[Expr, ...]], axis: int) -> bool:
    """Whether an index follows an axis of the space in its last, contiguous dimension and nowhere else."""
    position = [tirx.Var(name, "int64") for name in scan.space]
    *others, last = index(position)
    return position[axis].same_as(last) and not any(ex.depends(e, position[axis]) for e in others)


def refusals(scan: Scan) -> list[str]:
    """What neither schedule can emit."""
    reasons = [
        f"a read {r.back} steps back: only neighbouring steps are known to exist"
        for r in used_reads(scan).values()
        if abs(r.back) > 1
    ]
    reasons += ["a read that looks before the walk" for r in used_reads(scan).values() if r.back > 0 and r.beyond is not None]
    summed = {a for o in scan.outputs for a, _ in o.shared}
    if len(summed) > 1:
        reasons.append("outputs are summed over more than one axis")
    if summed & {scan.axis, scan.line}:
        reasons.append("an output is summed along the walk or the line")
    if reach(scan) > PAD:
        reasons.append(f"a step looks {reach(scan)} positions along the line: rows are padded by {PAD}")
    return reasons


def opaque(expr: Expr, dtype: str = "int64") -> Expr:
    """A value computed here, once. TVM's simplifiers copy a bound expression into every index, and take minutes over it;
    what a call returns they leave alone, and LLVM inlines this one."""
    return T.bind(T.call_extern(dtype, f"treadle_once_{dtype}", expr))


def flag(condition: Expr) -> Expr:
    return opaque(tirx.Select(condition, tirx.const(1, "int32"), tirx.const(0, "int32")), "int32") != 0


@dataclass(frozen=True)
class Step:
    """What exists around a step of the walk: something carried in, an earlier and a later step of its chunk; or it is the last."""

    carries: Expr
    earlier: Expr
    later: Expr
    last: Expr

    @staticmethod
    def of(scan: Scan, step: Expr) -> Step:
        first = tirx.any(step == 0, scan.starts(step))  # also where a chunk counted from the end starts the walk short
        earlier = flag(tirx.Not(first))
        carries = earlier if scan.init is None else flag(tirx.any(step == 0, earlier))
        return Step(carries, earlier, flag(tirx.Not(scan.ends(step))), flag(step == scan.steps - 1))

    def within(self, read: Read) -> Expr | None:
        """Whether the chunk holds the step that a read looks at; None where it always does."""
        return self.earlier if read.back > 0 else self.later if read.back < 0 else None

    def has(self, read: Read) -> Expr | None:
        """The same, or something stands beyond the walk for it."""
        within = self.within(read)
        return within if within is None or read.beyond is None else tirx.any(within, self.last)


@dataclass(frozen=True)
class Cell:
    """One position of a line, or a vector of them: turns expressions of the step into loads.

    Where `guarded`, a product with a factor that does not exist is selected away, never multiplied. Every load must be safe.
    """

    scan: Scan
    step: Step
    position: Expr
    guarded: bool
    load: Callable[[Read], Expr]

    def carry(self, carried: Callable[[int], Expr]) -> Expr:
        """source + sum over terms of weight * carry one step earlier, `carried(offset)`."""
        return ex.add(self.value(self.scan.source), self.terms(carried))

    def terms(self, carried: Callable[[int], Expr]) -> Expr:
        total: Expr = tirx.const(0.0, CARRY)
        for term in self.scan.terms:
            product = ex.mul(term.weight, self.scan.carry)
            total = ex.add(total, self.value(product, carried(term.offset), [self.step.carries], term.offset))
        return total

    def value(self, expr: Expr, carry: Expr | None = None, exists: Sequence[Expr] = (), offset: int = 0) -> Expr:
        """`carry`, and conditions under which it `exists`, beside the `offset` along the line at which it stands."""
        kind = type(expr).__name__
        if kind in ("Add", "Sub"):
            a, b = (self.value(e, carry, exists, offset) for e in (expr.a, expr.b))
            return a + b if kind == "Add" else a - b
        product = self.scan.value(expr, self.load, carry)
        if not self.guarded:
            return product
        reads = [self.scan.reads[n] for n, s in self.scan.symbols.items() if ex.depends(expr, s)]
        conditions = [*exists, *(c for c in map(self.step.has, reads) if c is not None)]
        conditions += [self.scan.inside(self.position + s) for s in sorted({offset, *(r.shift for r in reads)} - {0})]
        return tirx.Select(tirx.all(*conditions), product, tirx.const(0.0, CARRY)) if conditions else product


@dataclass(frozen=True)
class Line:
    """How a line is cut: blocks of `block` elements in vectors of `lanes`; lanes = 0 is one position at a time.

    A block is emitted twice. Inside the line, where nothing can be missing, it has no condition; near the ends, and all along
    lines where a chunk starts or ends, its products are selected. Positions outside the blocks are walked one by one.
    """

    scan: Scan
    lanes: int
    block: int

    def emit(
        self,
        step: Step,
        load: Callable[[Read, Expr], Expr],
        cell: Callable[[Cell], None],
        lead: Expr | None = None,
        ahead: Callable[[Expr], None] = lambda start: None,
        done: Callable[[Expr, Expr | None], None] = lambda start, count: None,
    ) -> None:
        """Emit every cell of a line. `lead` positions come before the first block.

        `ahead(start)` is called before each block and `done(start, None)` after it; `done(start, count)` after stray positions.
        """
        scan, width, zero = self.scan, self.scan.width, tirx.const(0, "int64")
        begin = zero if lead is None else opaque(tirx.min(lead, width))
        size = self.block.bit_length() - 1
        blocks = opaque(tirx.shift_right(width - begin, tirx.const(size, "int64"))) if self.lanes else zero
        end = opaque(begin + blocks * self.block)

        def at(position: Expr, guarded: bool) -> None:
            cell(Cell(scan, step, position, guarded, lambda read: load(read, position)))

        def vectors(start: Expr, guarded: bool) -> None:
            with T.serial(0, self.block // self.lanes) as v, T.vectorized(0, self.lanes) as lane:
                at(start + v * self.lanes + lane, guarded)

        with T.serial(0, 2) as side:
            first, count = opaque(tirx.Select(side == 0, zero, end)), opaque(tirx.Select(side == 0, begin, width - end))
            with T.serial(0, count) as j:
                at(first + j, True)
            done(first, count)
        if not self.lanes:
            return
        whole, far = flag(tirx.all(step.carries, step.earlier, step.later)), reach(scan)
        with T.serial(0, blocks) as b:
            # A walk to lower rows takes its blocks backwards too: then all of memory is walked in one direction, which the
            # hardware's prefetchers follow.
            start = opaque(begin + (blocks - 1 - b if scan.reverse else b) * self.block)
            ahead(start)
            with T.If(tirx.all(whole, start >= far, start + (self.block + far) <= width)):
                with T.Then():
                    vectors(start, False)
                with T.Else():
                    vectors(start, True)
            done(start, None)
