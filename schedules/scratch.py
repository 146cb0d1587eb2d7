"""Device memory that a function keeps between its kernels, taken and given back on the caller's stream.

Host code asks two functions for it that the library's entry points bring along (`codegen/cuda_source.py`). Where the threads
are made serial it is an ordinary buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import ir, tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.schedules.target import Target

TAKE, GIVE_BACK = "treadle_scratch", "treadle_give_back"


@contextmanager
def scratch(target: Target, words: Expr) -> Iterator[tirx.Var]:
    """A flat buffer of float32."""
    if target.kind == "emulate":
        yield T.alloc_buffer((words,), "float32")
        return
    memory = T.bind(ir.Call("tirx.call_extern", [TAKE, words * 4], ret_ty=PointerType(PrimType("float32"), "global")))
    yield T.decl_buffer((words,), "float32", data=memory)
    T.evaluate(T.call_extern("int32", GIVE_BACK, memory))
