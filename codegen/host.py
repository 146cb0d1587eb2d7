"""The generated host function: a Plan as straight-line C++, the same for every kind of memory.

Per call: read the sizes from the inputs' shapes, lay the regions out one after another, make views of the values, and call
the kernels in order. No interpreter, no allocation after the largest call, nothing looked up. On CUDA the calls enqueue
and return; which stream, and what growing the arena means there, is in `memory_cuda.h`.

The calls stand in functions of `_STEPS` each, which make the views that they use: a C++ compiler's time grows with the
square of a function (hence noinline), and in one the 733 calls of a large encoder took g++ three minutes.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from treadle.codegen.plan import ENTRY, Plan
from treadle.dtypes import dtype as find_dtype
from treadle.errors import TreadleError
from treadle.ir import dims as dm
from treadle.ir.graph import Node, Value

_STEPS = 8
#: What a library offers to callers without an allocator of their own.
_DEVICE_MEMORY = {"cpu": (), "cuda": ("device_new", "device_free", "device_copy")}
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "/", ast.Mod: "%"}


def host_source(plan: Plan, kind: str, manifest_digest: str, plan_digest: str) -> str:
    """The translation unit of a bundle's library beside its kernels; `kind` is where its memory lives, cpu or cuda.

    The digests of manifest.json and plan.json are in it, so that no other manifest or plan is ever taken for the library's.
    """
    kernels = sorted({n.program.symbol for n in plan.nodes})
    count = 1 + len(plan.graph.inputs) + len(plan.graph.outputs)
    call = "treadle::{}<Memory>(args, count{})".format
    lines = [
        f"// {plan.graph.name}: generated from its plan; plan.json says the same.",
        f'#include "memory_{kind}.h"',
        "",
        "namespace {",
        f"using Memory = treadle::{kind.capitalize()};",
        "}",
        "",
        *(f"TREADLE_KERNEL({k});" for k in kernels),
        "",
        "TREADLE_EXPORT int treadle_abi_version() { return treadle::kAbiVersion; }",
        f'TREADLE_EXPORT const char* treadle_manifest_digest() {{ return "{manifest_digest}"; }}',
        f'TREADLE_EXPORT const char* treadle_plan_digest() {{ return "{plan_digest}"; }}',
        "",
        "namespace {",
        *_steps(plan),
        "}",
        "",
        *_function("treadle_session_new", [f"return {call('session_new', f', {len(plan.graph.weights)}, result')};"]),
        *_function("treadle_session_clone", [f"return {call('session_clone', ', result')};"]),
        *_function("treadle_session_free", [f"return {call('session_free', '')};"]),
        *_function("treadle_arena_bytes", [f"return {call('arena_bytes', ', result')};"]),
        *(line for name in _DEVICE_MEMORY[kind] for line in _function(f"treadle_{name}", [f"return treadle::{name}(args, count, result);"])),
        *_function(f"treadle_run_{ENTRY}", _body(plan, count)),
    ]
    return "\n".join(lines) + "\n"


def _function(name: str, body: list[str]) -> list[str]:
    head = f"TREADLE_EXPORT int __tvm_ffi_{name}(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {{"
    return [head, "  (void)result;", *(f"  {line}".rstrip() for line in body), "}", ""]


def _body(plan: Plan, count: int) -> list[str]:
    graph, ports = plan.graph, _ports(plan)
    lines = [f"auto* s = treadle::session<Memory>(args, count, {count});", "if (!s) return -1;"]
    for i, port in enumerate(ports):
        lines.append(f"const DLTensor* {port} = treadle::tensor(args[{i + 1}]);")
    missing = " || ".join(f"!{p} || {p}->ndim != {len(v.shape)}" for p, v in ports.items())
    message = f"{graph.name}: an argument is no tensor of the right rank"
    lines.append(f'if ({missing}) return treadle::fail("TypeError", "{message}");')

    lines += ["", "// sizes"]
    lines += [f"const int64_t {name} = {text};" for name, text in _sizes(graph.inputs, graph.dims).items()]
    lines += ["", "Memory::Turn turn(*s);", "if (turn.begin()) return -1;", "const DLDevice device = s->device();"]
    lines += ["", "// arena"]
    end = "0"
    for region in plan.regions:
        lines.append(f"const int64_t at_{region.name} = {end};")
        end = f"at_{region.name} + treadle::aligned({cpp(region.bytes)})"
    if plan.regions:
        lines += [f"char* arena = s->arena.reserve({end}, {plan.bytes_with}, turn);", "if (!arena) return -1;"]

    lines += ["", f"const Call call{{{', '.join(_shared(plan))}}};"]
    lines += [f"if (steps_{i}(call)) return -1;" for i in range(len(_chunks(plan)))]
    return [*lines, f"return turn.finish({_where(plan.nodes[-1])});"]


def _ports(plan: Plan) -> dict[str, Value]:
    """The entry point's tensors by their names in C++."""
    graph = plan.graph
    return {**{f"in_{n}": v for n, v in graph.inputs.items()}, **{f"out_{n}": v for n, v in graph.outputs.items()}}


def _chunks(plan: Plan) -> list[Sequence[Node]]:
    return [plan.nodes[i : i + _STEPS] for i in range(0, len(plan.nodes), _STEPS)]


def _shared(plan: Plan) -> dict[str, str]:
    """What all steps of a call know, by name, with its type in C++."""
    return {
        "s": "treadle::Session<Memory>*", "device": "DLDevice", **dict.fromkeys(_ports(plan), "const DLTensor*"),
        **dict.fromkeys(_sizes(plan.graph.inputs, plan.graph.dims), "int64_t"),
        **({"arena": "char*"} if plan.regions else {}), **{f"at_{r.name}": "int64_t" for r in plan.regions},
    }  # fmt: skip


def _steps(plan: Plan) -> list[str]:
    """The calls, a function for each chunk of them."""
    shared = _shared(plan)
    lines = ["struct Call {", *(f"  {kind} {name};" for name, kind in shared.items()), "};", ""]
    for i, nodes in enumerate(_chunks(plan)):
        body = [f"const auto& [{', '.join(shared)}] = call;", *_chunk(plan, nodes), "return 0;"]
        lines += [f"__attribute__((noinline)) int steps_{i}(const Call& call) {{", *(f"  {line}" for line in body), "}", ""]
    return lines


def _chunk(plan: Plan, nodes: Sequence[Node]) -> list[str]:
    views: dict[tuple[Value, tuple[str, ...]], str] = {}
    weights = {n: i for i, n in enumerate(plan.graph.weights)}
    pointers = {"input": "treadle::data(in_{0})", "output": "treadle::data(out_{0})", "arena": "arena + at_{0}"}
    made, calls = [], []
    for node in nodes:
        names = []
        for value in (*node.inputs, *node.outputs):
            shape = tuple(dm.text(s) for s in value.shape)
            key = (value.root, shape)
            if key not in views:
                views[key] = f"v{len(views)}"
                place, kind = plan.place(value), find_dtype(value.dtype)
                pointer = f"s->weight({weights[place.of]})" if place.kind == "weight" else pointers[place.kind].format(place.of)
                sizes = ", ".join(cpp(t) for t in shape)
                dtype = f"DLDataType{{{kind.code}, {kind.bits}, 1}}"
                made.append(f"treadle::View<{len(shape)}> {views[key]}({pointer}, device, {dtype}, {sizes});  // {value.name}")
            names.append(views[key])
        one = f"treadle::call<{len(node.outputs)}>(__tvm_ffi_{node.program.symbol}, {', '.join(names)})"
        calls.append(f"if ({one}) return treadle::failed_in({_where(node)});")
    return [*made, *calls]


def _where(node: Node) -> str:
    return f'"{node.name}", "{node.program.symbol}"'


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
