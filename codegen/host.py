"""The generated host function: a Plan as straight-line C++.

Per call: read the sizes from the inputs' shapes, lay the regions out one after another, make one view per value, and call
the kernels in order. No interpreter, no allocation after the largest call, nothing looked up.
"""

from __future__ import annotations

import ast

from treadle.codegen.plan import ENTRY, Plan
from treadle.dtypes import dtype as find_dtype
from treadle.errors import TreadleError
from treadle.ir import dims as dm
from treadle.ir.graph import Value

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "/", ast.Mod: "%"}


def host_source(plan: Plan) -> str:
    """The translation unit of a bundle's library beside its kernels."""
    kernels = sorted({n.program.symbol for n in plan.nodes})
    weights = list(plan.graph.weights)
    count = 1 + len(plan.graph.inputs) + len(plan.graph.outputs)
    lines = [
        f"// {plan.graph.name}: generated from its plan; plan.json says the same.",
        '#include "host.h"',
        "",
        "namespace {",
        "constexpr DLDevice kDevice{kDLCPU, 0};",
        "}",
        "",
        *(f"TREADLE_KERNEL({k});" for k in kernels),
        "",
        "TREADLE_EXPORT int treadle_abi_version() { return treadle::kAbiVersion; }",
        "",
        *_function("treadle_session_new", [f"return treadle::session_new(args, count, {len(weights)}, result);"]),
        *_function(
            "treadle_session_free",
            ["auto* s = treadle::session(args, count, 1);", "delete s;", "return s ? 0 : -1;"],
        ),
        *_function(
            "treadle_arena_bytes",
            [
                "const auto* s = treadle::session(args, count, 1);",
                "if (!s) return -1;",
                "result->type_index = kTVMFFIInt;",
                "result->v_int64 = s->arena.size();",
                "return 0;",
            ],
        ),
        *_function(f"treadle_run_{ENTRY}", _body(plan, count)),
    ]
    return "\n".join(lines) + "\n"


def _function(name: str, body: list[str]) -> list[str]:
    head = f"TREADLE_EXPORT int __tvm_ffi_{name}(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {{"
    return [head, "  (void)result;", *(f"  {line}" for line in body), "}", ""]


def _body(plan: Plan, count: int) -> list[str]:
    graph = plan.graph
    ports = {**{f"in_{n}": v for n, v in graph.inputs.items()}, **{f"out_{n}": v for n, v in graph.outputs.items()}}
    lines = [f"auto* s = treadle::session(args, count, {count});", "if (!s) return -1;"]
    for i, port in enumerate(ports):
        lines.append(f"const DLTensor* {port} = treadle::tensor(args[{i + 1}]);")
    missing = " || ".join(f"!{p} || {p}->ndim != {len(v.shape)}" for p, v in ports.items())
    lines.append(f'if ({missing}) return treadle::fail("TypeError", "{graph.name}: an argument is no tensor of the right rank");')

    lines += ["", "// sizes"]
    lines += [f"const int64_t {name} = {text};" for name, text in _sizes(graph.inputs, graph.dims).items()]
    lines += ["", "// arena"]
    end = "0"
    for region in plan.regions:
        lines.append(f"const int64_t at_{region.name} = {end};")
        end = f"at_{region.name} + treadle::aligned({cpp(region.bytes)})"
    lines += [f"char* arena = s->arena.reserve({end}, {plan.bytes_with});", "if (!arena) return -1;"] if plan.regions else []

    lines += ["", "// values"]
    views: dict[tuple[Value, tuple[str, ...]], str] = {}
    weights = {n: i for i, n in enumerate(graph.weights)}
    pointers = {"input": "treadle::data(in_{0})", "output": "treadle::data(out_{0})", "arena": "arena + at_{0}"}
    calls = []
    for node in plan.nodes:
        names = []
        for value in (*node.inputs, *node.outputs):
            shape = tuple(dm.text(s) for s in value.shape)
            key = (value.root, shape)
            if key not in views:
                views[key] = f"v{len(views)}"
                place, kind = plan.place(value), find_dtype(value.dtype)
                pointer = f"s->weights[{weights[place.of]}]" if place.kind == "weight" else pointers[place.kind].format(place.of)
                sizes = ", ".join(cpp(t) for t in shape)
                dtype = f"DLDataType{{{kind.code}, {kind.bits}, 1}}"
                lines.append(f"treadle::View<{len(shape)}> {views[key]}({pointer}, kDevice, {dtype}, {sizes});  // {value.name}")
            names.append(views[key])
        calls.append(f"if (treadle::call(__tvm_ffi_{node.program.symbol}, {', '.join(names)})) return -1;  // {node.name}")
    return [*lines, "", "// steps", *calls, "return 0;"]


def _sizes(inputs: dict[str, Value], dims: dict[str, dm.Dim]) -> dict[str, str]:
    """C++ expressions of the dimensions: each read off the first input axis that is the dimension, or a multiple of it."""
    found: dict[str, str] = {}
    for name, value in inputs.items():
        for axis, size in enumerate(value.shape):
            symbol, factor = dm.scaled_symbol(size)
            if symbol and symbol not in found:
                found[symbol] = f"in_{name}->shape[{axis}]" + (f" / {factor}" if factor > 1 else "")
    if lost := set(dims) - set(found):
        raise TreadleError("a dimension must be the size of some input's axis", given=sorted(lost), expected=sorted(found))
    return found


def cpp(size: str) -> str:
    """A size expression as C++ over int64 variables. Sizes are non-negative, so / is the floor division."""
    return _cpp(ast.parse(size, mode="eval").body)


def _cpp(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return f"INT64_C({node.value})" if node.value > 2**31 - 1 else str(node.value)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.BinOp):
        return f"({_cpp(node.left)} {_OPERATORS[type(node.op)]} {_cpp(node.right)})"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"std::{node.func.id}<int64_t>({', '.join(_cpp(a) for a in node.args)})"
    raise TreadleError("not a size expression", given=ast.unparse(node))
