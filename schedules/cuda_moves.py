"""Moves of the CUDA schedules: the steps that several of them take, each named for what it does and why the hardware wants it.

They emit S-TIR loops. Whatever crosses threads is a *phase*, a loop over the threads of a block with nothing between threads
inside it; TVM puts the barriers between phases, and made serial (schedules/serial.py) the phases still run in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir import dims as dm
from treadle.ir.dims import Size
from treadle.ir.expr import Expr
from treadle.schedules.emit import at
from treadle.schedules.target import Target

#: Threads of a block; bytes of shared memory that a block may declare statically.
MOST_THREADS = 1024
STATIC_SHARED = 48 << 10
#: 32-bit registers that one thread can address, and the most it may keep data in from one phase to the next.
MOST_REGISTERS, MOST_KEPT = 255, 64


def i64(value: int) -> Expr:
    return tirx.const(value, "int64")


def f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def elements_of(size_bytes: int, dtype: str) -> int:
    """How many elements an access of so many bytes moves."""
    return max(1, size_bytes // find_dtype(dtype).itemsize)


def product(sizes: Sequence[Size]) -> Expr:
    total = i64(1)
    for size in sizes:
        total = total * size
    return dm.simplify(total)


def index_type(program: Program, size: Size) -> str:
    """int32 where the bounds of the dimensions prove that `size` and a block beyond it fit, else int64."""
    most = dm.evaluate(size, {name: d.hi for name, d in program.dims.items()} | dict(program.bound))
    return "int32" if most < (1 << 31) - (1 << 20) else "int64"


def narrow(program: Program, size: Size) -> Expr:
    """A size in the narrowest index type that provably holds it: 64-bit addresses cost two instructions per step."""
    known = dm.constant(size)
    kind = index_type(program, size)
    return tirx.const(known, kind) if known is not None else size.astype(kind)


def known(condition: Expr | bool) -> bool | None:
    """Whether a condition is decided at compile time, and how."""
    if isinstance(condition, bool):
        return condition
    value = dm.constant(dm.simplify(condition))
    return None if value is None else bool(value)


def divides(lanes: int, size: Size) -> Expr:
    return tirx.truncmod(size, lanes) == 0 if dm.constant(size) is None else tirx.const(dm.constant(size) % lanes == 0, "bool")


def always_divides(lanes: int, size: Size) -> bool:
    return known(tirx.floormod(size, i64(lanes)) == 0) is True


def never_divides(lanes: int, size: Size) -> bool:
    return known(tirx.floormod(size, i64(lanes)) == 0) is False


def either(condition: Expr | bool, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Emit one of two bodies: decided at compile time if possible, else by a branch that whole warps take together."""
    decided = known(condition)
    if decided is not None:
        then() if decided else otherwise()
        return
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


@contextmanager
def when(condition: Expr | bool) -> Iterator[None]:
    """A guard, absent where it is known to hold."""
    if known(condition) is True:
        yield
        return
    with T.If(condition), T.Then():
        yield


@contextmanager
def blocks(count: Expr) -> Iterator[Expr]:
    """A loop over blockIdx.x, the only grid axis that goes beyond 65,535; its index has 32 bits, as no grid has 2^31 blocks."""
    with T.thread_binding(i64(0), count, thread="blockIdx.x") as b:
        yield b.astype("int32")


@contextmanager
def phase(threads: int) -> Iterator[Expr]:
    """All threads of a block, until the next barrier."""
    with T.thread_binding(0, threads, thread="threadIdx.x") as t:
        yield t


def split_block(block: Expr, inner: Expr) -> tuple[Expr, Expr]:
    """(block // inner, block % inner) in 32 bits: a launch has fewer than 2^31 blocks, hence so has each factor."""
    if dm.constant(dm.simplify(inner)) == 1:
        return block, tirx.const(0, "int32")
    inner = inner.astype("int32")
    return tirx.truncdiv(block, inner), tirx.truncmod(block, inner)


@dataclass(frozen=True)
class Flat:
    """A tensor as one row of elements in memory order, reached by index [0, .., 0, i]: runs need not end where axes do."""

    buffer: tirx.Var
    rank: int

    @staticmethod
    def of(tensor: te.Tensor, buffers: dict[str, tirx.Var]) -> Flat:
        return Flat(buffers[tensor.op.name], len(tensor.shape))

    def index(self, i: Expr) -> list[Expr]:
        return [*([i64(0)] * (self.rank - 1)), i]

    def __getitem__(self, i: Expr) -> Expr:
        return self.buffer[*self.index(i)]

    def store(self, i: Expr, value: Expr) -> None:
        T.buffer_store(self.buffer, value, self.index(i))


@dataclass(frozen=True)
class Registers:
    """Elements that one thread holds. `thread` is given where they outlive a phase: each thread's own row of a local buffer."""

    buffer: tirx.Var
    thread: tuple[Expr, ...] = ()

    @staticmethod
    def private(count: int, dtype: str) -> Registers:
        """Registers for the rest of this phase."""
        return Registers(T.alloc_buffer((count,), dtype, scope="local"))

    def __getitem__(self, slot: Expr | int) -> Expr:
        return self.buffer[*self.thread, slot]

    def store(self, slot: Expr | int, value: Expr) -> None:
        T.buffer_store(self.buffer, value, [*self.thread, slot])


def hold(index: Expr) -> Expr:
    """An index computed once, in a register. A bound variable would not do: TVM multiplies it out again, `(a * b + c) * 4` to
    `a * b * 4 + c * 4`, and nvcc 13.0 then leaves the four stores of a vector apart (seen in PTX, 2026-11-24)."""
    register = Registers.private(1, str(index.ty.dtype))
    register.store(0, index)
    return register[0]


def read_vector(source: Flat, group: Expr, into: Registers, slot: int, lanes: int) -> None:
    """One access for elements [group * lanes, (group + 1) * lanes): a quarter to an eighth of the instructions in flight."""
    if lanes == 1:
        into.store(slot, source[group])
    else:
        into.store(T.ramp(slot, 1, lanes), source[T.ramp(group * lanes, tirx.const(1, group.ty), lanes)])


def write_vector(target: Flat, group: Expr, values: Registers, slot: int, lanes: int) -> None:
    if lanes == 1:
        target.store(group, values[slot])
    else:
        target.store(T.ramp(group * lanes, tirx.const(1, group.ty), lanes), values[T.ramp(slot, 1, lanes)])


def read_guarded(source: Flat, position: Expr, inside: Expr | bool, dtype: str) -> Expr:
    """One element, or zero outside; nothing outside is touched."""
    if known(inside) is True:
        return source[position]
    return tirx.if_then_else(inside, source[position], tirx.const(0.0, dtype))


def access_refusals(program: Program, size_bytes: int) -> list[str]:
    item = find_dtype(program.dtype).itemsize
    return [f"an access of {size_bytes} bytes is less than one {program.dtype}"] if size_bytes < item else []


def register_refusals(target: Target, threads: int, kept: int) -> list[str]:
    """What a thread may keep: a third of its registers, at most 64. Twice that spilled (seen at 256 and 1,024 threads)."""
    each = min(MOST_REGISTERS, min(g.registers for g in target.gpus) // threads)
    most = min(MOST_KEPT, each // 3)
    return [f"a thread would keep {kept} registers of data, over {most} beside {threads} threads"] if kept > most else []


def widest(program: Program, run: Size) -> int:
    """Bytes of the widest access that a run may be a multiple of."""
    return next(b for b in (16, 8, 4, 2) if not never_divides(elements_of(b, program.dtype), run))


def stages(result: te.Tensor) -> list[te.Tensor]:
    """The tensor expressions behind a result, each after what it reads."""
    found: list[te.Tensor] = []

    def visit(tensor: te.Tensor) -> None:
        for source in tensor.op.input_tensors:
            if isinstance(source.op, te.ComputeOp) and source not in found:
                visit(source)
                found.append(source)

    visit(result)
    return found


def padded(width: int, dtype: str) -> int:
    """The row length of a shared tile that is read by columns: four bytes more, so that columns spread over all banks."""
    return width + max(1, 4 // find_dtype(dtype).itemsize)


@dataclass(frozen=True)
class Teams:
    """How a block shares out rows: `across` threads to a row, `rows` rows at a time, neighbouring threads along a row."""

    across: int
    rows: int

    @property
    def threads(self) -> int:
        return self.across * self.rows

    def refusals(self) -> list[str]:
        if self.threads <= MOST_THREADS:
            return []
        return [f"{self.rows} rows of {self.across} threads are {self.threads}, over the {MOST_THREADS} of a block"]

    def row(self, block: Expr, thread: Expr) -> Expr:
        return block.astype("int64") * self.rows + tirx.truncdiv(thread, self.across)

    def lane(self, thread: Expr) -> Expr:
        return tirx.truncmod(thread, self.across)


class TeamSum:
    """A sum over the threads of each team, through shared memory in phases: publish, (thin,) read.

    After the barrier every thread adds up what its team published, all lanes reading the same word at once (a broadcast, no
    bank conflict), so the sum needs no second barrier to come back. Above 32 threads, 16 of them thin the list in between.
    """

    DIRECT, THINNED = 32, 16

    def __init__(self, teams: Teams) -> None:
        self._teams = teams
        self._published = T.sblock_alloc_buffer((teams.threads,), "float32", scope="shared")
        self._thin = teams.across > self.DIRECT
        self._thinned = T.sblock_alloc_buffer((teams.rows * self.THINNED,), "float32", scope="shared") if self._thin else None

    def publish(self, thread: Expr, value: Expr) -> None:
        T.buffer_store(self._published, value, [thread])

    def thin(self) -> None:
        """The phase between, where there is one."""
        if not self._thin:
            return
        teams, width = self._teams, self.THINNED
        with phase(teams.threads) as thread, when(thread < teams.rows * width):
            team, lane = tirx.truncdiv(thread, width), tirx.truncmod(thread, width)
            first = team * teams.across + lane
            T.buffer_store(self._thinned, self._add(self._published, first, teams.across // width, width), [thread])

    def read(self, thread: Expr) -> Expr:
        team = tirx.truncdiv(thread, self._teams.across)
        if self._thin:
            return self._add(self._thinned, team * self.THINNED, self.THINNED, 1)
        return self._add(self._published, team * self._teams.across, self._teams.across, 1)

    @staticmethod
    def _add(words: tirx.Var, first: Expr, count: int, stride: int) -> Expr:
        total = Registers.private(1, "float32")
        total.store(0, words[first])
        with T.unroll(count - 1) as other:
            total.store(0, total[0] + words[first + (other + 1) * stride])
        return total[0]


def summand(total: te.Tensor, load: Callable[[te.Tensor, Sequence[Expr]], Expr]) -> Expr:
    """One term of a sum, its reads replaced."""
    body = total.op.body[0]
    variables = [a.var for a in (*total.op.axis, *body.axis)]
    return at(body.source[0], variables, [i64(0)] * len(variables), load)
