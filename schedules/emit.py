"""Writing loops by hand: what the schedules share that S-TIR cannot express (recurrences, packed contractions).

fn = Function(program)
with fn as buffers:
    with T.parallel(0, n) as i: ...
return fn.primfunc
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import tvm_ffi
from tvm import ir, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from treadle.dtypes import dtype as find_dtype
from treadle.ir import Program
from treadle.ir.expr import Expr, substitute

Load = Callable[[te.Tensor, Sequence[Expr]], Expr]
#: An attribute of functions written by hand: their buffers have the size they need.
SIZED = "treadle.sized"


class Function:
    """A function under construction, whose parameters are a Program's arguments and results.

    Buffers are element-aligned, because callers pass any offset view (numpy promises 16 bytes at best).
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._builder = IRBuilder()
        self._frame: ir.Node | None = None

    def __enter__(self) -> dict[str, tirx.Var]:
        self._builder.__enter__()
        self._frame = T.prim_func(s_tir=True)
        self._frame.__enter__()
        T.func_name(self._program.symbol)
        T.func_attr({"tirx.noalias": True, "global_symbol": self._program.symbol, SIZED: True})
        buffers = {}
        for tensor in (*self._program.args, *self._program.results):
            name, kind = tensor.op.name, str(tensor.dtype)
            buffers[name] = T.arg(name, T.buffer(tensor.shape, kind, align=find_dtype(kind).itemsize))
        return buffers

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._frame is not None
        self._frame.__exit__(kind, error, trace)
        self._builder.__exit__(kind, error, trace)

    @property
    def primfunc(self) -> tirx.PrimFunc:
        return self._builder.get()


def value(tensor: te.Tensor, index: Sequence[Expr], load: Load) -> Expr:
    """The scalar that a tensor expression computes at an index, its reads replaced by `load(tensor, index)`."""
    return at(tensor.op.body[0], [a.var for a in tensor.op.axis], index, load)


def at(body: Expr, variables: Sequence[tirx.Var], index: Sequence[Expr], load: Load) -> Expr:
    """A scalar expression with its variables bound to an index and its tensor reads replaced."""
    bound = substitute(body, dict(zip(variables, index, strict=True)))

    def read(call: ir.Call) -> Expr:
        if getattr(call.op, "name", "") != "te.tensor_load":
            return call
        source, *where = call.args
        return load(source, where)

    return tvm_ffi.structural_map(bound, (ir.Call, read))


def without_rest(body: Expr, rest: Callable[[Expr, Expr], Expr | None]) -> Expr:
    """The same scalar where `x - sum / count` also takes off `rest(sum, count)`, what the rounded mean falls short by.

    A mean in float32 is off by up to half a unit in its last place, which the division by a small deviation magnifies: in
    rows of three numbers that lie close together, one result in thousands was over twice as wrong as torch's.
    """

    def swap(difference: tirx.Sub) -> Expr:
        mean = difference.b
        short = rest(mean.a, mean.b) if isinstance(mean, tirx.Div) else None
        return difference if short is None else difference - short

    return tvm_ffi.structural_map(body, (tirx.Sub, swap))
