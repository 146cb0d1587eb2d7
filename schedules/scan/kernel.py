"""One CUDA kernel of a scan: grid, phases, barriers, rows of memory.

A phase is a thread loop of its own, and barriers stand between phases, never inside: run one after another, the threads of
a phase then do on a CPU what they do side by side on a GPU (`schedules/serial.py`). Barriers are written out. TVM's planner
cannot place one inside a host-side choice between kernels, and takes two halves of one buffer for the same memory; where it
looks (static shared memory) it must find nothing to add, which checks ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tvm import DataType, ir, sym, te, tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.script import builder as T

from treadle.ir import Program
from treadle.ir import expr as ex
from treadle.ir.dims import constant
from treadle.ir.expr import Expr
from treadle.ir.scan import Read, Scan

#: blocks along y and z of a grid; along x there may be 2^31 - 1
GRID_Y = 65535
#: bytes of the widest load or store of a thread
VECTOR = 16


def int64(value: int) -> Expr:
    return tirx.const(value, "int64")


def itemsize(kind: str) -> int:
    return DataType(kind).bits // 8


def both(*conditions: Expr | None) -> Expr:
    given = [c for c in conditions if c is not None]
    return tirx.all(*given) if given else tirx.const(True, "bool")


def product(sizes: Sequence[Expr]) -> Expr:
    total: Expr = int64(1)
    for size in sizes:
        total = total * size
    return total


def barrier() -> None:
    T.evaluate(T.tvm_storage_sync("shared"))


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


def decided(program: Program, condition: Expr) -> bool | None:
    """Whether a condition on the sizes is true or false within the bounds of a Program's dimensions."""
    analyzer = sym.Analyzer()
    for v in ex.symbols(condition):
        if dim := program.dims.get(v.name):
            analyzer.bind(v, ir.Range.from_min_extent(int64(dim.lo), int64(dim.hi - dim.lo + 1)))
    found = constant(analyzer.simplify(condition))
    return None if found is None else bool(found)


def choose(program: Program, cases: Sequence[tuple[Expr, Callable[[], None]]]) -> None:
    """Kernels for the sizes that may occur, each launched by the host where its condition holds."""
    for condition, emit in cases:
        holds = decided(program, condition)
        if holds:
            emit()
        elif holds is None:
            with when(condition):
                emit()


@contextmanager
def phase(threads: int, lanes: int = 1) -> Iterator[tuple[Expr, Expr]]:
    """The body that every thread of a block runs between two barriers: (position along the line, line)."""
    with ExitStack() as open_:
        ty = open_.enter_context(T.thread_binding(0, lanes, thread="threadIdx.y")) if lanes > 1 else tirx.const(0, "int32")
        yield open_.enter_context(T.thread_binding(0, threads, thread="threadIdx.x")), ty


@contextmanager
def grid(scan: Scan, lanes: int = 1, ctas: int = 1) -> Iterator[Block]:
    """Blocks over the two independent axes: the inner one along x, so that blocks running together share its gate lines.

    No division is needed to find a block's place: the outer axis lies on y, and on z what goes beyond 65535. Of more than
    one, `ctas` neighbouring blocks are a cluster and share a place.
    """
    outer, inner = independent(scan)
    count, n = scan.sizes[inner], scan.sizes[outer]
    with ExitStack() as open_:
        places = tirx.floordiv(count + (lanes - 1), lanes)
        x = open_.enter_context(T.thread_binding(int64(0), places * ctas if ctas > 1 else places, thread="blockIdx.x"))
        rank: Expr = tirx.const(0, "int32")
        if ctas > 1:
            rank = open_.enter_context(T.thread_binding(0, ctas, thread="clusterCtaIdx.x"))
            x = tirx.floordiv(x, ctas)
        known = constant(n)
        if known is not None and known <= GRID_Y:
            y, exists = open_.enter_context(T.thread_binding(int64(0), n, thread="blockIdx.y")), None
        else:
            z = open_.enter_context(T.thread_binding(int64(0), tirx.floordiv(n + (GRID_Y - 1), GRID_Y), thread="blockIdx.z"))
            y = open_.enter_context(T.thread_binding(int64(0), tirx.min(n, int64(GRID_Y)), thread="blockIdx.y"))
            y = z * GRID_Y + y
            exists = y < n
        yield Block(scan, lanes, {outer: y, inner: x}, inner, exists, ctas, rank)


def independent(scan: Scan) -> list[int]:
    return [a for a in range(len(scan.sizes)) if a not in (scan.axis, scan.line)]


@dataclass(frozen=True)
class Block:
    """The place of a block among the independent axes; `lanes` neighbours of the inner axis are walked side by side.

    `rank` is the block's number in its cluster of `ctas`.
    """

    scan: Scan
    lanes: int
    at: dict[int, Expr]
    inner: int
    exists: Expr | None
    ctas: int
    rank: Expr

    def position(self, ty: Expr, time: Expr, l: Expr) -> list[Expr]:
        at = {**self.at, self.scan.axis: time, self.scan.line: l}
        if self.lanes > 1:
            at[self.inner] = at[self.inner] * self.lanes + ty
        return [at[a] for a in range(len(self.scan.sizes))]

    def active(self, ty: Expr) -> Expr | None:
        """Whether this thread's line exists at all; None where it always does."""
        if self.lanes == 1:
            return self.exists
        return both(self.exists, self.at[self.inner] * self.lanes + ty < self.scan.sizes[self.inner])


@dataclass(frozen=True)
class Rows:
    """A tensor seen as rows of its last dimension, one element after another, read and written in pieces.

    `wide` promises that rows are multiples of `columns`: every piece then starts at a multiple of it, which TVM can see in
    `(row * pieces + piece) * columns`, and becomes one 16-byte access. Otherwise each element is accessed alone.
    """

    flat: tirx.Var
    tensor: te.Tensor
    columns: int
    pieces: Expr | None

    @property
    def vector(self) -> int:
        return min(self.columns, VECTOR // itemsize(str(self.tensor.dtype)))

    def row(self, index: Sequence[Expr]) -> Expr:
        total: Expr = int64(0)
        for i, size in zip(index[:-1], self.tensor.shape[:-1], strict=True):
            total = total * size + i
        return total

    def load(
        self, row: Expr, piece: Expr, inside: Callable[[Expr], Expr], put: tirx.Var, where: Sequence[Expr], first: int = 0
    ) -> None:
        """Copy one piece to `put[*where, first...]`; `inside` says which columns exist where pieces are not whole."""
        if self.pieces is not None:
            for k in range(0, self.columns, self.vector):
                with T.vectorized(self.vector) as v:
                    T.buffer_store(put, self.flat[(row * self.pieces + piece) * self.columns + k + v], [*where, first + k + v])
            return
        for k in range(self.columns):
            with when(inside(piece * self.columns + k)):
                T.buffer_store(put, self.flat[row * self.tensor.shape[-1] + piece * self.columns + k], [*where, first + k])

    def store(
        self, row: Expr, piece: Expr, inside: Callable[[Expr], Expr], take: tirx.Var, where: Sequence[Expr], first: int = 0
    ) -> None:
        if self.pieces is not None:
            for k in range(0, self.columns, self.vector):
                with T.vectorized(self.vector) as v:
                    T.buffer_store(self.flat, take[*where, first + k + v], [(row * self.pieces + piece) * self.columns + k + v])
            return
        for k in range(self.columns):
            with when(inside(piece * self.columns + k)):
                T.buffer_store(self.flat, take[*where, first + k], [row * self.tensor.shape[-1] + piece * self.columns + k])


def rows(buffers: dict[str, tirx.Var], tensor: te.Tensor, columns: int, pieces: Expr | None) -> Rows:
    total = product(tensor.shape)
    flat = T.decl_buffer((total,), str(tensor.dtype), data=buffers[tensor.op.name].data)
    return Rows(flat, tensor, columns, pieces)


def multiple(size: Expr, of: int) -> Expr:
    return tirx.floormod(size, of) == 0 if of > 1 else tirx.const(True, "bool")


@dataclass(frozen=True)
class Stream:
    """A tensor walked at a fixed distance from the step: reads of it differ only in their shift along the line."""

    name: str
    tensor: te.Tensor
    read: Read
    shifts: tuple[int, ...] = field(compare=False)

    @property
    def back(self) -> int:
        return self.read.back


def same_stream(a: Read, b: Read) -> bool:
    return a.tensor.same_as(b.tensor) and a.index is b.index and a.back == b.back


def streams(reads: Sequence[Read]) -> list[Stream]:
    found: list[list[Read]] = []
    for read in reads:
        group = next((g for g in found if same_stream(g[0], read)), None)
        if group is None:
            found.append([read])
        else:
            group.append(read)
    return [Stream(g[0].tensor.op.name, g[0].tensor, g[0], tuple(sorted({r.shift for r in g}))) for g in found]


class Arena:
    """The dynamic shared memory of a block, cut into buffers of any type and of symbolic size.

    The pieces are plain pointers: TVM sees all dynamic shared memory as one buffer, and would put a barrier between
    accesses to different pieces. Sizes are rounded up to 16 bytes.
    """

    def __init__(self, wanted: Sequence[tuple[Sequence[Expr], str]]) -> None:
        offsets: list[Expr] = [int64(0)]
        for shape, kind in wanted:
            words = tirx.floordiv(product(shape) * itemsize(kind) + 15, 16) * 4
            offsets.append(offsets[-1] + words)
        whole = T.alloc_buffer((offsets[-1],), "float32", scope="shared.dyn")
        # TVM shrinks an allocation to what it sees accessed: show it the last element.
        T.bind(T.address_of(whole[offsets[-1] - 1]))
        self.buffers = []
        for (shape, kind), offset in zip(wanted, offsets, strict=False):
            pointer = T.bind(ir.Call("tirx.address_of", [whole[offset]], ret_ty=PointerType(PrimType(kind), "global")))
            self.buffers.append(T.decl_buffer(shape, kind, data=pointer))
