"""Calls inlined: what a kernel computes stays the same, names stay apart, and what cannot be followed is refused."""

import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim.inline import flatten
from treadle.codegen.ptxsim.lexer import PtxError
from treadle.codegen.ptxsim.parse import parse
from treadle.codegen.ptxsim.syntax import Addr, Instr, Not, Reg, Sym
from treadle.errors import UnknownNameError

from .texts import HEAD, compiled

REGISTERS = ".reg .pred %p<5>; .reg .b32 %r<9>; .reg .b64 %rd<9>;"


def module(functions, body):
    return parse(f"{HEAD}{functions}\n.visible .entry k(.param .u64 out)\n{{ {REGISTERS}\n{body}\n}}", "t")


def run(text, kernel="k", *args, count=64):
    device = ptxsim.Device(bytes=16 << 20)
    out = device.empty(count, np.uint32)
    device.launch(text, kernel, (1,), (count,), [out, *args])
    return out.numpy()


def _calls(flags):
    made = parse(compiled("calls", *flags), "t")
    device = ptxsim.Device(bytes=16 << 20)
    x = np.random.default_rng(0).integers(-9, 9, 80).astype(np.float32)
    out, given = device.empty(64, np.float32), device.array(x)
    device.launch(made, "calls", (1,), (64,), [out, given, np.int32(9)])
    return made, out.numpy()


@pytest.mark.parametrize("flags", [(), ("-lineinfo",), ("-rdc=true",)], ids=" ".join)
def test_called_as_if_inlined_by_the_compiler(flags):
    """Structures with padding, early returns, loops around calls, calls within calls, shared memory of a device function."""
    called, out = _calls(flags)
    inlined, expected = _calls(("-DINLINED",))
    assert sum(i.opcode == "call" for i in called.functions["calls"].body) >= 5
    assert not any(i.opcode == "call" for i in inlined.functions["calls"].body)
    assert (out == expected).all() and len(set(out.tolist())) > 32


@pytest.mark.parametrize("flags", [(), ("-G",), ("-lineinfo",), ("-rdc=true",)], ids=" ".join)
def test_a_flat_function_stands_alone(flags):
    """Every name that an instruction uses is declared, once; nothing of calls is left; the end is never reached."""
    made = parse(compiled("calls", *flags), "t")
    flat = flatten(made, "calls")
    known = {v.name for v in (*made.variables, *flat.variables, *flat.params)} | set(flat.labels)
    assert len({v.name for v in flat.variables}) == len(flat.variables)
    assert all(0 <= at < len(flat.body) for at in flat.labels.values())
    assert flat.body[-1].opcode in ("ret", "bra", "exit", "trap") and flat.body[-1].guard is None
    for i in flat.body:
        assert i.opcode != "call" and "param::func" not in i.mods
        assert not ("param" in i.mods and i.opcode == "st")
        for o in i.operands:
            o = o.base if isinstance(o, Addr) else o
            if isinstance(o, Sym):
                assert o.name in known
            if isinstance(o, Reg) and o.name != "_" and "." not in o.name:
                assert o.name in flat.registers
    assert {v.space for v in flat.variables} <= {"local", "shared"}


def test_a_kernel_without_calls_is_left_alone():
    made = parse(compiled("calls", "-DINLINED"), "t")
    flat, given = flatten(made, "calls"), made.functions["calls"]
    assert flat.body == given.body and flat.labels == given.labels and flat.registers == given.registers


STORE = "ld.param.u64 %rd1, [out]; mov.u32 %r8, %tid.x; mul.wide.u32 %rd2, %r8, 4; add.u64 %rd1, %rd1, %rd2;"


def test_results_and_arguments_in_registers():
    """`.reg` parameters, numbers as arguments, arguments of .param given as registers, two results, a guarded call."""
    text = module(
        """
.func (.reg .u32 sum, .param .u32 twice) both(.reg .u32 a, .param .b32 b)
{ .reg .pred %p<3>; .reg .b32 %r<3>; ld.param.u32 %r1, [b]; add.u32 sum, a, %r1; add.u32 %r2, %r1, %r1;
  st.param.u32 [twice], %r2; setp.gt.u32 %p1, a, 40; @%p1 ret; add.u32 sum, sum, 1000; ret; }""",
        f"""{STORE} mov.u32 %r1, 1; mov.u32 %r2, 2; setp.ge.u32 %p1, %r8, 8;
        @%p1 call (%r1, %r2), both, (%r8, 7);
        @!%p1 call.uni (%r1, %r2), both, (5, %r8);
        mul.lo.u32 %r2, %r2, 10000; add.u32 %r1, %r1, %r2; st.global.u32 [%rd1], %r1; ret;""",
    )
    t = np.arange(64)
    a, b = np.where(t >= 8, t, 5), np.where(t >= 8, 7, t)
    assert (run(text) == a + b + np.where(a > 40, 0, 1000) + 20000 * b).all()


def test_functions_end_anywhere():
    """A return in the middle, as the last statement, and none at all; a branch to the very end; loops kept apart per call."""
    text = module(
        """
.func (.param .b32 r) half(.param .b32 n)
{ .reg .pred %p; .reg .b32 %a, %b; ld.param.b32 %a, [n]; mov.b32 %b, 0;
L: setp.lt.u32 %p, %a, 2; @%p bra D; sub.u32 %a, %a, 2; add.u32 %b, %b, 1; bra L;
D: st.param.b32 [r], %b; setp.ne.u32 %p, %b, 3; @%p bra E; st.param.b32 [r], 333; E: }
.func nothing() { }
.func (.param .b32 r) quarter(.param .b32 n)
{ .reg .b32 %a; ld.param.b32 %a, [n];
  { .param .b32 x; .param .b32 y; st.param.b32 [x], %a; call.uni (y), half, (x); ld.param.b32 %a, [y]; }
  { .param .b32 x; .param .b32 y; st.param.b32 [x], %a; call.uni (y), half, (x); ld.param.b32 %a, [y]; }
  call nothing; call nothing, (); st.param.b32 [r], %a; }""",
        f"""{STORE}
  {{ .param .b32 x; .param .b32 y; st.param.b32 [x], %r8; call.uni (y), quarter, (x); ld.param.b32 %r1, [y]; }}
  st.global.u32 [%rd1], %r1; bra END; trap; END:""",
    )

    def half(n):
        return 333 if n // 2 == 3 else n // 2

    assert run(text).tolist() == [half(half(n)) for n in range(64)]


def test_shared_variables_are_one_and_local_ones_each_calls_own():
    text = module(
        """
.func (.reg .b32 r) f(.reg .b32 n)
{ .shared .b32 one; .local .b32 own[2]; .reg .b64 %d; mov.u64 %d, own; st.local.b32 [%d+4], n; ld.local.b32 r, [own+4]; }""",
        "call (%r1), f, (1); call (%r2), f, (2); ret;",
    )
    flat = flatten(text, "k")
    assert sorted(v.space for v in flat.variables) == ["local", "local", "shared"]


def test_an_access_without_an_address_is_left_to_the_binder():
    flat = flatten(module(".func f() { .reg .b32 %r; ld.param.u32 %r; }", "call f; ld.param.u32 %r1;"), "k")
    assert [len(i.operands) for i in flat.body] == [1, 1, 0]


def test_the_guard_of_a_call_is_turned_round():
    flat = flatten(module(".func f() { trap; }", "@%p1 call f; @!%p2 call f; ret;"), "k")
    assert [(i.opcode, i.guard) for i in flat.body] == [
        ("bra", Not(Reg("%p1"))), ("trap", None), ("bra", Reg("%p2")), ("trap", None), ("ret", None),
    ]  # fmt: skip
    assert [flat.labels[i.operands[0].name] for i in flat.body if i.opcode == "bra"] == [2, 4]


def test_a_failed_assertion_is_a_trap():
    flat = flatten(parse(compiled("calls"), "t"), "checked")
    assert [i.opcode for i in flat.body if i.opcode in ("trap", "call")] == ["trap"]
    assert flatten(module("", ""), "k").body == (Instr("ret", (), ()),)


def test_unknown_kernels():
    made = module(".func f() { ret; }", "ret;")
    for name in ("f", "g"):
        with pytest.raises(UnknownNameError) as caught:
            flatten(made, name)
        assert "one of k" in str(caught.value)


def chain(depth, twice):
    """f1 calls nothing, each other calls the one before, perhaps twice."""
    f = [".func f0() { }"] + [f".func f{i}() {{ {f'call f{i - 1}; ' * (2 if twice else 1)} }}" for i in range(1, depth)]
    return "\n".join(f)


REFUSED = [
    (".func f() { call f; }", "call f;", "recursion", "k -> f -> f"),
    (".func g(); .func f() { call g; } .func g() { call f; }", "call f;", "recursion", "k -> f -> g -> f"),
    ("", "call k;", "recursion", "k -> k"),
    (".entry other() { ret; }", "call other;", "a kernel", "call"),
    ("", "P: .callprototype _ (); call %rd1, P;", "indirect", "call"),
    ("", "call %rd1;", "indirect", "call"),
    (
        ".extern .func (.param .b32 r) vprintf(.param .b64 a);",
        "call (%r1), vprintf, (%rd1);",
        "vprintf, which has no body",
        "call",
    ),
    (".func f(.reg .b32 a) { }", "call f;", "does not fit", "given 0"),
    (".func f() { }", "call f, (%r1);", "does not fit", "given 1"),
    (".func f() { }", "call (%r1), f;", "does not fit", "given 1"),
    (".func f(.param .b64 a) { }", "{ .param .b32 x; call f, (x); }", "does not fit parameter a", "x"),
    (".func f(.reg .b64 a) { }", "{ .param .b64 x; call f, (x); }", "does not fit parameter a", "x"),
    (".func f(.param .b8 a[8]) { }", "call f, (%rd1);", "does not fit parameter a", "%rd1"),
    (".global .b32 v; .func f(.param .b32 a) { }", "call f, (v);", "does not fit parameter a", "v"),
    (chain(64, True), "call f63;", "without end", "call"),
    (chain(2000, False), "call f1999;", "without end", "call"),
]


@pytest.mark.parametrize(("functions", "body", "words", "given"), REFUSED, ids=range(len(REFUSED)))
def test_calls_that_cannot_be(functions, body, words, given):
    made = module(functions, body)
    with pytest.raises(PtxError, match=r"^t, line \d+: ") as caught:
        flatten(made, "k")
    assert words in str(caught.value) and given in str(caught.value)
