"""The PTX reader: what nvcc emits and what is written by hand, word for word; whatever else is a typed error with its line."""

import random
import re
import struct
import time

import pytest

from treadle.codegen.ptxsim.inline import flatten
from treadle.codegen.ptxsim.lexer import PtxError
from treadle.codegen.ptxsim.parse import parse
from treadle.codegen.ptxsim.syntax import Addr, Imm, Not, Pair, Reg, Sym, Vec
from treadle.errors import ToolchainError

from . import kernels
from .texts import HEAD, bare, compiled, float_of, written

BUILDS = [("calls",), ("calls", "-DINLINED"), ("calls", "-G"), ("calls", "-lineinfo"), ("calls", "-rdc=true"), ("asm",)]
BUILDS += [("asm", "-G"), ("asm", "-lineinfo")]


def body(text, before=""):
    """The instructions of a kernel `k` of one pointer, with a few registers."""
    return kernel(text, before).body


def kernel(text, before=""):
    registers = ".reg .pred %p<5>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .f64 %fd<3>;"
    return parse(f"{HEAD}{before}.visible .entry k(.param .u64 a)\n{{ {registers}\n{text}\n}}\n", "t").functions["k"]


def same_when_written(text):
    read = parse(text, "t")
    again = parse(written(read), "t")
    assert bare(again) == bare(read)
    assert written(again) == written(read)
    return read


@pytest.mark.parametrize("build", BUILDS, ids=" ".join)
def test_what_nvcc_emits(build):
    read = same_when_written(compiled(*build))
    assert read.version == (9, 0) and read.target == "sm_90a"
    assert {v.space for v in read.variables} >= {"global", "const"}


@pytest.mark.parametrize("name", kernels.NAMES)
def test_our_test_kernels(name):
    read = same_when_written(kernels.file(name).read_text())
    assert any(f.entry for f in read.functions.values())


def test_every_statement_is_read():
    """As many instructions as there are statements: counted in the text by a rule of its own."""
    text = kernels.file("gemm_ws").read_text()
    bodies = re.sub(r"//[^\n]*|\.loc[^\n]*|[\w$]+:\s", "", text).split("{", 1)[1]
    statements = [s.strip() for s in re.split(r"[;{}]", bodies)]
    wanted = sum(bool(re.match(r"(@!?%?\w+\s+)?[a-z]\w*(\.|$|\s)", s)) for s in statements)
    assert sum(len(f.body) for f in parse(text, "t").functions.values()) == wanted > 100


def test_a_bundle_is_read_in_a_second():
    one = compiled("calls", "-DINLINED")
    kernel = one[one.index(".visible .entry calls(") : one.index("// .globl\tchecked")]
    head = one[: one.index(".visible .entry calls(")]
    text = head + "".join(kernel.replace("calls", f"calls{i}") for i in range(-(-714_000 // len(kernel))))
    start = time.perf_counter()
    assert len(list(parse(text, "t").functions.values())) > 50
    assert time.perf_counter() - start < 3, "aimed at one second; three on a busy machine"


def test_instructions():
    found = body("""
      @!%p1 add.rn.f32 %f1, %f2, 0f3F800000;
      @%p2 bra.uni L;
      ld.global.nc.L2::cache_hint.v2.b32 {%r1, _}, [%rd1+-8], %rd2;
      setp.lt.and.s32 %p1|%p2, %r1, -5, !%p3;
      mov.u32 %r1, %tid.x;
      cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2, 3}], [%r3+4-2*8];
      membar.gl;
    L: ld.param.u64 %rd1, [a];""")
    assert [i.line for i in found] == list(range(7, 15))
    assert found[0].opcode == "add" and found[0].mods == ("rn", "f32") and found[0].guard == Not(Reg("%p1"))
    assert found[0].operands == (Reg("%f1"), Reg("%f2"), Imm(0x3F800000, 32))
    assert found[1].guard == Reg("%p2") and found[1].operands == (Sym("L"),)
    assert found[2].name == "ld.global.nc.L2::cache_hint.v2.b32"
    assert found[2].operands == (Vec((Reg("%r1"), Reg("_"))), Addr(Reg("%rd1"), -8), Reg("%rd2"))
    assert found[3].operands == (Pair(Reg("%p1"), Reg("%p2")), Reg("%r1"), Imm(-5), Not(Reg("%p3")))
    assert found[4].operands[1] == Reg("%tid.x")
    assert found[5].operands == (Addr(Reg("%r1")), Addr(Reg("%rd1"), 0, (Reg("%r2"), Imm(3))), Addr(Reg("%r3"), -12))
    assert found[6].operands == () and found[6].name == "membar.gl"
    assert found[7].operands[1] == Addr(Sym("a"))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("10", 10), ("-1", -1), ("0x1F", 31), ("0XffU", 255), ("017", 15), ("0", 0), ("0b101", 5), ("42U", 42),
        ("1<<4|3", 19), ("(2+3)*4", 20), ("2+3*4", 14), ("7-2-1", 4), ("-7/2", -3), ("-7 % 4", -3), ("~0", -1), ("- -3", 3),
        ("6&3^1", 3), ("WARP_SZ", 32), ("18446744073709551615", 2**64 - 1), ("-9223372036854775808", -(2**63)),
    ],
)  # fmt: skip
def test_integers(written, value):
    assert body(f"mov.b64 %rd1, {written};")[0].operands[1] == Imm(value)


@pytest.mark.parametrize(
    ("written", "width", "value"),
    [
        ("0f3fC00000", 32, 1.5), ("0F80000000", 32, -0.0), ("-0f3F800000", 32, -1.0), ("0d3FF8000000000000", 64, 1.5),
        ("1.5", 64, 1.5), ("-2.0e1", 64, -20.0), (".25", 64, 0.25), ("1e-3", 64, 1e-3), ("0f7F800000", 32, float("inf")),
    ],
)  # fmt: skip
def test_floats(written, width, value):
    imm = body(f"mov.f64 %fd1, {written};")[0].operands[1]
    assert imm.float_width == width and struct.pack("<d", float_of(imm)) == struct.pack("<d", value)


def test_scopes_are_flattened():
    """A name of an inner scope is another one each time, and hides the outer scope's."""
    wait = "{ .reg .pred P; W: mbarrier.test_wait.b64 P, [%rd1], %rd2; @P bra D; bra W; D: }"
    k = kernel(
        f".reg .b32 x; mov.b32 x, 1;\n{wait}\n{wait}\n{{ .reg .u16 x; {{ mov.u16 x, 2; bra E; }} }}\nmov.b32 x, 3; E: ret;"
    )
    assert len(k.labels) == 5 and k.labels["E"] == 10
    first, second = k.body[1:4], k.body[4:7]
    for wait_, back, out in ((first, 1, 4), (second, 4, 7)):
        assert k.registers[wait_[0].operands[0].name] == "pred" and wait_[1].guard == wait_[0].operands[0]
        assert (k.labels[wait_[1].operands[0].name], k.labels[wait_[2].operands[0].name]) == (out, back)
    assert first[0].operands[0] != second[0].operands[0]
    outer, inner = k.body[0].operands[0], k.body[7].operands[0]
    assert outer == k.body[9].operands[0] == Reg("x") and k.registers["x"] == "b32"
    assert inner != outer and k.registers[inner.name] == "u16"
    assert k.labels[k.body[8].operands[0].name] == 10


def test_variables():
    read = parse(
        HEAD
        + """
.visible .global .align 16 .b8 bytes[6] = {1, 0xff, 3};
.const .f32 floats[2][2] = {{1.5, 0f40000000}, {-1}};
.global .s16 small = -2;
.global .u64 open[] = {1, 2};
.weak .global .v4 .f32 four;
.extern .shared .align 128 .b8 dynamic[];
.shared .b64 tile[4*8];
.entry k(.param .align 64 .b8 map[128], .param .u64 .ptr .global .align 16 p, .param .f32 x)
.maxntid 128, 2
.reqnctapercluster 2, 1, 1
{ .local .align 8 .b8 depot[24]; .shared .u32 one; ret; }
""",
        "t",
    )
    found = {v.name: v for v in read.variables}
    assert found["bytes"].init == bytes([1, 255, 3, 0, 0, 0]) and found["bytes"].align == 16
    assert found["floats"].init == struct.pack("<4f", 1.5, 2, -1, 0) and found["floats"].count == 4
    assert found["small"].init == b"\xfe\xff" and found["open"].count == 2 and found["open"].bytes == 16
    assert (found["four"].count, found["four"].align, found["four"].init) == (4, 16, b"")
    assert found["dynamic"].extern and found["dynamic"].count == 0 and found["dynamic"].bytes == 0
    assert found["tile"].bytes == 256 and found["tile"].align == 8
    k = read.functions["k"]
    assert [(p.name, p.bytes, p.align) for p in k.params] == [("map", 128, 64), ("p", 8, 8), ("x", 4, 4)]
    assert k.max_threads == (128, 2, 1) and k.cluster == (2, 1, 1) and k.required_threads is None
    assert [(v.space, v.name, v.bytes) for v in k.variables] == [("local", "depot", 24), ("shared", "one", 4)]


def test_lines_of_the_source():
    """Of inlined code its own line, and who called it, as far up as that was inlined too."""
    k = kernel(
        """.loc 2 7 3
        mov.u32 %r1, 1;
        .loc 1 90 9, function_name $L__info_string0, inlined_at 2 36 3
        mov.u32 %r1, 2;
        .loc 1 50 9, function_name $L__info_string0+12, inlined_at 1 90 9
        mov.u32 %r1, 3;""",
        '.file 1 "/in//clude.h"\n.file 2 "main.cu", 17, 4096\n',
    )
    assert [i.where for i in k.body] == [
        "main.cu:7", "/in//clude.h:90, inlined at main.cu:36", "/in//clude.h:50, inlined at /in//clude.h:90, inlined at main.cu:36",
    ]  # fmt: skip
    real = parse(compiled("calls", "-lineinfo"), "t").functions["calls"]
    assert all(i.source and i.source.file.endswith("calls.cu") for i in real.body)


def test_code_inlined_into_itself():
    """Recursion of templates: the line that calls is the line that is called. However often, it is named once."""
    again = ".loc 1 5 3, function_name f, inlined_at 1 5 3 mov.u32 %r1, 2; .loc 1 6 3, function_name f, inlined_at 1 5 3 mov.u32 %r1, 3;"
    there_and_back = (
        ".loc 1 7 3, function_name f, inlined_at 1 8 3 mov.u32 %r1, 2; .loc 1 8 3, function_name f, inlined_at 1 7 3 ret;"
    )
    k = kernel(again * 5000 + there_and_back * 5000, '.file 1 "f.h"\n')
    assert k.body[9999].where == "f.h:6, inlined at f.h:5, inlined at f.h:5"
    assert max(len(i.where) for i in k.body) < 100


def test_indexed_branches():
    k = kernel("L0: mov.u32 %r1, 0; brx.idx.uni %r1, T; T: .branchtargets L0, L1; L1: ret;")
    assert k.branch_targets == {"T": ("L0", "L1")} and k.labels == {"L0": 0, "L1": 2}
    assert k.body[1].operands == (Reg("%r1"), Sym("T"))


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a"])
@pytest.mark.parametrize("version", ["7.0", "8.7", "9.0"])
def test_isas(version, target):
    read = parse(f".version {version} .target {target}, debug .address_size 64", "t")
    assert read.target == target and f"{read.version[0]}.{read.version[1]}" == version and not read.functions


REFUSED = [
    ("", 1, "ends in the middle"),
    ("\n\n// nothing\n", 1, "ends in the middle"),
    (".version 9.1\n.target sm_90a\n.address_size 64", 1, "newer ISA"),
    (".version 10.0\n.target sm_90a\n.address_size 64", 1, "newer ISA"),
    (".version 9.0\n.target sm_100a\n.address_size 64", 2, "another target"),
    (".version 9.0\n.target sm_75\n.address_size 64", 2, "another target"),
    (".version 9.0\n.target sm_90a, texmode_independent\n.address_size 64", 2, "texmode"),
    (".version 9.0\n.target sm_90a\n.address_size 32", 3, "another size"),
    (".version 9.0\n.target sm_90a\n.global .u32 x;", 3, "address_size"),
    (HEAD + ".nonsense 3;", 4, "'.nonsense'"),
    (HEAD + "\n\n.alias a, b;", 6, "'.alias'"),
    (HEAD + ".tex .u32 t;", 4, "'.tex'"),
    (HEAD + ".common .global .u32 x;", 4, "'.common'"),
    (HEAD + ".entry k() .sparkle 3 { ret; }", 4, "'.sparkle'"),
    (HEAD + ".entry k()\n.maxntid 0\n{ ret; }", 5, "nothing"),
    (HEAD + ".entry k()\n{ ret;\n", 4, "truncated"),
    (HEAD + ".entry k(.param .u32", 4, "truncated"),
    (HEAD + "/* never closed\n\n", 4, "comment"),
    (HEAD + '.file 1 "never closed\n', 4, "string has no end"),
    (HEAD + ".global .u32 \x07;", 4, "character"),
    (HEAD + ".global .u32 é;", 4, "character"),
    (HEAD + ".global .u32 x;\n.shared .u32 x;", 5, "twice"),
    (HEAD + ".entry k() {}\n.entry k() {}", 5, "twice"),
    (HEAD + ".global .u64 p = generic(x);", 4, "address"),
    (HEAD + ".global .u64 p[2] = {1, x};", 4, "address"),
    (HEAD + ".global .u8 p = 256;", 4, "does not fit"),
    (HEAD + ".global .f32 p = 1e300;", 4, "does not fit"),
    (HEAD + ".global .u32 p = 1.5;", 4, "float"),
    (HEAD + ".global .u32 p[2] = {1, 2, 3};", 4, "more initial values"),
    (HEAD + ".global .u32 p[];", 4, "no size"),
    (HEAD + ".global .u32 p[0];", 4, "positive"),
    (HEAD + ".global .u32 p[99999999999999];", 4, "larger than any memory"),
    (HEAD + ".global .b8 p[999999999999] = {1};", 4, "initial values"),
    (HEAD + ".shared .u32 p = 1;", 4, "initial values"),
    (HEAD + ".global .align 3 .u32 p;", 4, "power of two"),
    (HEAD + ".global .pred p;", 4, "type"),
    (HEAD + ".global .u64 p = " + "(" * 100_000, 4, "nested"),
]


@pytest.mark.parametrize(("text", "line", "words"), REFUSED, ids=range(len(REFUSED)))
def test_a_file_that_cannot_be(text, line, words):
    with pytest.raises(ToolchainError) as caught:
        parse(text, "the file")
    assert caught.value.message.startswith(f"the file, line {line}: ")
    assert words in str(caught.value)


BODIES = [
    ("add.s32 %r1, %r2, 3\nsub.s32 %r1, %r2, 3;", 8, "unexpected text"),
    ("add.s32 %r1, %r2, ;", 7, "operand"),
    ("ret", 7, "without end"),
    ("{ add.s32 %r1, %r2, 3 }\nret;", 7, "unexpected text: given '}'"),
    ("add.s32 %r1, %r2, 3 { ret; }\nret;", 7, "unexpected text: given '{'"),
    ("P: .callprototype { ;\n} ret;", 8, "braces"),
    ("{ P: .callprototype _ () }\nret;", 9, "braces"),
    ("add.s32 %r1 %r2;", 7, "%r2"),
    ("add.s32 %r1, [%r2;", 7, "']'"),
    ("mov.b64 %rd1, {%r1, %r2; }", 7, "'}'"),
    ("mov.b32 %r1, nobody;", 7, "'nobody'"),
    ("bra NOWHERE;", 7, "'NOWHERE'"),
    ("{ L: ret; }\nbra L;", 8, "'L'"),
    ("{ .reg .b32 x; }\nmov.b32 x, 1;", 8, "'x'"),
    ("L: L: ret;", 7, "twice"),
    (".reg .b32 %r1;", 7, "twice"),
    (".reg .b32 %x<99999999999>;", 7, "more registers"),
    (".reg .b33 %x;", 7, "'.b33'"),
    (".global .b32 x;", 7, "'.global'"),
    (".sparkle 1;", 7, "'.sparkle'"),
    ("%r1 add;", 7, "an instruction"),
    ("@5 bra L;", 7, "operand"),
    ("@a ret;", 7, "predicate"),
    (".loc 9 1 1", 7, "no .file"),
    ("mov.b32 %r1, 1.5+2;", 7, "float"),
    ("mov.b32 %r1, 1/0;", 7, "divided by zero"),
    ("mov.b64 %rd1, 18446744073709551616;", 7, "64 bits"),
    ("mov.b64 %rd1, " + "9" * 5000 + ";", 7, "not a number"),
    ("mov.f64 %fd1, 1e999;", 7, "not a number"),
    ("mov.b32 %r1, 09;", 7, "not a number"),
    ("ld.u32 %r1, [%rd1+18446744073709551616];", 7, "64 bits"),
    ("T: .branchtargets a;", 7, "not a label"),
    ("mov.b64 %rd1, " + "{" * 100_000 + "}" * 100_000 + ";", 7, "nested"),
    ("{" * 100_000 + "mov.b64 %rd1, %tid.x;" + "}" * 100_000, 7, "nested"),
]


@pytest.mark.parametrize(("text", "line", "words"), BODIES, ids=range(len(BODIES)))
def test_a_body_that_cannot_be(text, line, words):
    with pytest.raises(PtxError) as caught:
        body("\n" + text)
    assert caught.value.message.startswith(f"t, line {line}: ")
    assert words in str(caught.value)


def read_whole(text):
    """Everything of a text, its calls inlined, or that it is refused. Whatever else is raised goes through."""
    try:
        module = parse(text, "t")
        return [flatten(module, name) if f.entry else f for name, f in module.functions.items()]
    except PtxError as refused:
        assert re.match(r"t, line \d+: .", refused.message)
        return None


@pytest.mark.parametrize("name", ["gemm_ws", "cluster", "control"])
def test_truncated_files(name):
    text = kernels.file(name).read_text()
    rng = random.Random(name)
    refused = sum(read_whole(text[: rng.randrange(len(text))]) is None for _ in range(150))
    assert refused > 100  # between two functions a file may end


def _without_what_is_refused(text):
    """Of the calls those that can be inlined, so that damage reaches the inliner."""
    return text[: text.index("\t// .globl\trecurses")]


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files(seed):
    """Bytes and words changed, dropped, doubled, swapped: read or refused, never anything else."""
    names = ["gemm_ws", "cluster", "control", "warp"]
    text = kernels.file(names[seed]).read_text() if seed < len(names) else _without_what_is_refused(compiled("calls"))
    rng = random.Random(seed)
    for _ in range(120):
        words = re.split(r"(\W)", text) if rng.random() < 0.6 else list(text)
        for _ in range(rng.choice((1, 1, 3))):
            at, other = rng.randrange(len(words)), rng.randrange(len(words))
            match rng.randrange(4):
                case 0:
                    words[at] = rng.choice(
                        ["{", "}", ";", "(", "[", ",", "@", ".", "%", "-", '"', "/*", "0x", "9" * 30, "é", "\0"]
                    )
                case 1:
                    words[at] = ""
                case 2:
                    words[at] += words[other]
                case 3:
                    words[at], words[other] = words[other], words[at]
        read_whole("".join(words))
