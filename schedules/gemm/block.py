"""A thread block under construction: one text that is a CUDA kernel or, phase by phase, its emulation.

A kernel is written as block-uniform control flow around phases. On CUDA a phase is what every thread does, and the
barrier between two phases is written where the hardware needs it. Under emulation a phase is a serial loop over the
threads, each with its own row of every register array, and the barrier is nothing: each phase runs to its end before the
next begins. What the emulation proves is therefore the mapping (who loads, multiplies and stores which element, at which
address), and not that no barrier is missing; that is left to the PTX machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir.dims import constant
from treadle.ir.expr import Expr


@dataclass(frozen=True)
class Registers:
    """A register array of every thread."""

    buffer: tirx.Var
    stride: int

    def at(self, thread: Expr, i: Expr | int) -> Expr:
        """Where thread `thread` keeps element i; on CUDA a thread sees only its own."""
        return thread * self.stride + i if self.stride else i

    def get(self, thread: Expr, i: Expr | int) -> Expr:
        return self.buffer[self.at(thread, i)]

    def put(self, thread: Expr, i: Expr | int, value: Expr) -> None:
        T.buffer_store(self.buffer, value, [self.at(thread, i)])


class Block:
    """The thread block of a kernel, real or emulated."""

    def __init__(self, cuda: bool, threads: int) -> None:
        self.cuda, self.threads = cuda, threads
        self._thread: Expr | None = None

    @contextmanager
    def grid(self, blocks: Expr) -> Iterator[Expr]:
        """All blocks of the launch; the body is one of them."""
        if not self.cuda:
            with T.serial(0, blocks) as block:
                yield block
            return
        with T.thread_binding(0, blocks, "blockIdx.x") as block, T.thread_binding(0, self.threads, "threadIdx.x") as thread:
            self._thread = thread
            yield block

    @contextmanager
    def phase(self) -> Iterator[Expr]:
        """What every thread does between two barriers; yields the thread."""
        if self.cuda:
            assert self._thread is not None
            yield self._thread
        else:
            with T.serial(0, self.threads) as thread:
                yield thread

    def barrier(self) -> None:
        if self.cuda:
            T.evaluate(T.tvm_storage_sync("shared.dyn"))

    def unroll(self, count: int) -> AbstractContextManager[Expr]:
        """A loop over register indices, which must be constants on CUDA."""
        return T.unroll(0, count) if self.cuda else T.serial(0, count)

    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """a * b + c rounded once, as nvcc makes it of the plain expression (TVM has no CUDA rule for the call)."""
        return a * b + c if self.cuda else T.fma(a, b, c)

    def shared(self, *needs: tuple[int, str]) -> list[tirx.Var]:
        """Shared memory for arrays of (size, dtype) that are never alive together: all start at its first byte.

        One allocation with views of it: TVM would overlap separate arrays too, but of a 16-byte copy it sees only the
        first element touched, and then cuts the rest of the last copy off the array.
        """
        nbytes = max(size * find_dtype(dtype).itemsize for size, dtype in needs)
        scope = "shared.dyn" if self.cuda else "global"
        words = T.alloc_buffer((-(-nbytes // 4),), "float32", scope=scope)
        return [
            words if dtype == "float32" else T.decl_buffer((size,), dtype, data=words.data, scope=scope)
            for size, dtype in needs
        ]

    def registers(self, size: int, dtype: str) -> Registers:
        if self.cuda:
            return Registers(T.alloc_buffer((size,), dtype, scope="local"), 0)
        return Registers(T.alloc_buffer((self.threads * size,), dtype), size)


def decided(condition: Expr | bool) -> Expr | bool:
    """A condition that is always true, as True."""
    return True if condition is True or (not isinstance(condition, bool) and constant(condition) == 1) else condition


def either(condition: Expr | bool, first, second) -> None:
    """Emit one of two statements, chosen when the kernel runs; by a block-uniform condition where phases follow."""
    if condition is True:
        first()
        return
    with T.If(condition):
        with T.Then():
            first()
        if second is not None:
            with T.Else():
                second()


def at_least_one(size: Expr) -> Expr:
    """A size in a form that TVM's simplifier knows to be no zero, which it would try to divide by."""
    return tirx.max(size, tirx.const(1, "int64"))


def split(position: Expr, sizes: Sequence[Expr]) -> list[Expr]:
    """The index at a row-major position, each part bound to a variable; sizes of 1 cost nothing."""
    index: list[Expr] = []
    for size in reversed(sizes[1:]):
        size = at_least_one(size)
        index.insert(0, T.bind(position % size))
        position = T.bind(position // size)
    return [position, *index]
