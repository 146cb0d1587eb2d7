"""Non-temporal stores in TIR: full vectors written past the caches.

An ordinary store first reads the cache line it overwrites; for an output that nobody reads soon, that read is wasted. TIR
has no such store, but TVM links LLVM IR into a function that asks for it (`pragma_import_llvm`), and LLVM inlines it.
Gain: t2b, 4x64x256x256 fp32, 11.8 -> 10.5 ms (AMD EPYC Zen 4, 2 cores, 2026-11-24).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx
from tvm.tirx.script import builder as T
from tvm.tirx.script.builder.frame import AttrFrame

from treadle.dtypes import dtype as find_dtype
from treadle.ir.expr import Expr
from treadle.schedules.space import knob

KNOB = knob(32, (0, 1, 32), "MiB above which an output is written past the caches: about their usual size; 0 = never")

#: Per dtype: LLVM IR that turns %v, LANES floats, into %r, what is stored. bfloat16: to nearest, ties to even, NaN quiet.
_ROUND = {
    "float32": ("float", "%r = bitcast <LANES x float> %v to <LANES x float>"),
    "float16": ("half", "%r = fptrunc <LANES x float> %v to <LANES x half>"),
    "bfloat16": (
        "i16",
        """%bits = bitcast <LANES x float> %v to <LANES x i32>
  %upper = lshr <LANES x i32> %bits, splat (i32 16)
  %odd = and <LANES x i32> %upper, splat (i32 1)
  %up = add <LANES x i32> %bits, splat (i32 32767)
  %even = add <LANES x i32> %up, %odd
  %quiet = or <LANES x i32> %bits, splat (i32 4194304)
  %nan = fcmp uno <LANES x float> %v, %v
  %kept = select <LANES x i1> %nan, <LANES x i32> %quiet, <LANES x i32> %even
  %high = lshr <LANES x i32> %kept, splat (i32 16)
  %r = trunc <LANES x i32> %high to <LANES x i16>""",
    ),
}

#: `store` and `lead` of one dtype.
_FUNCTIONS = """
define linkonce_odr i32 @treadle_stream_DTYPE(ptr %p, <LANES x float> %v) alwaysinline nounwind {
  ROUND
  store <LANES x TYPE> %r, ptr %p, align BYTES, !nontemporal !0
  ret i32 0
}
define linkonce_odr i64 @treadle_lead_DTYPE(ptr %p) alwaysinline nounwind readnone {
  %at = ptrtoint ptr %p to i64
  %up = sub i64 0, %at
  %behind = urem i64 %up, BYTES
  %elements = udiv i64 %behind, ITEM
  ret i64 %elements
}
"""

#: A value that TVM's simplifiers do not look into.
_ONCE = "".join(
    f"define linkonce_odr {kind} @treadle_once_{dtype}({kind} %x) alwaysinline nounwind readnone {{\n  ret {kind} %x\n}}\n"
    for dtype, kind in (("int32", "i32"), ("int64", "i64"))
)


def imported(lanes: int) -> AttrFrame:
    """The scope in which `store` and `lead`, and scan_common.opaque, may be used: the only LLVM IR a function can import."""
    text = "!0 = !{i32 1}\n" + _ONCE
    for dtype, (kind, body) in _ROUND.items():
        item = find_dtype(dtype).itemsize
        found = _FUNCTIONS.replace("ROUND", body).replace("DTYPE", dtype).replace("TYPE", kind).replace("ITEM", str(item))
        text += found.replace("BYTES", str(lanes * item)).replace("LANES", str(lanes))
    return T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text)


def pays(tensor: te.Tensor, above: int) -> Expr:
    """Whether an output is larger than the knob says, decided at run time: a smaller one is left to its reader in cache."""
    if not above:
        return tirx.const(False, "bool")
    size: Expr = tirx.const(find_dtype(str(tensor.dtype)).itemsize, "int64")
    for extent in tensor.shape:
        size = size * extent
    return size > (above << 20)


def store(buffer: tirx.Var, index: Sequence[Expr], value: Expr) -> None:
    """Store a vector of floats at `index`, whose address must be a multiple of the vector's size."""
    T.evaluate(T.call_extern("int32", f"treadle_stream_{buffer.dtype}", T.address_of(buffer[*index]), value))


def lead(buffer: tirx.Var, index: Sequence[Expr]) -> Expr:
    """How many elements lie between `index` and the first address where `store` may write a vector."""
    return T.call_extern("int64", f"treadle_lead_{buffer.dtype}", T.address_of(buffer[*index]))


def fence() -> None:
    """Non-temporal stores are not ordered by the barrier that ends a parallel region: call at the end of a task."""
    T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.sfence"))
