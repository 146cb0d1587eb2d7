"""The table itself: what is in it and what is not, as ptxas sees it too; operands that are constants; speed."""

import shutil
import subprocess
import timeit

import numpy as np
import pytest

from treadle.codegen.ptxsim.pure import dtype, find

_FORMS = """
add.s32 add.u64 sub.s16 add.sat.s32 add.u16x2 mul.lo.s64 mul.hi.u64 mul.hi.s64 mul.hi.u32 mul.wide.u16 mul.wide.s32 mad.lo.s32
mad.wide.u32 mad.hi.sat.s32 mul24.lo.s32 mad24.hi.sat.s32 sad.u32 div.u32 div.s64 div.u16 rem.s32 rem.u64 abs.s32 neg.s64
min.s64 max.u16x2 min.relu.s16x2 max.relu.s32 dp4a.u32.s32 dp2a.lo.u32.u32 add.cc.u32 addc.u32 addc.cc.u64 subc.cc.s32
mad.lo.cc.u32 madc.hi.cc.s64 and.pred and.b16 xor.b64 not.pred not.b64 cnot.b32 shl.b32 shl.b16 shl.b64 shr.s64 shr.u16
shr.s16 shr.b32 shf.l.wrap.b32 shf.r.clamp.b32 lop3.b32 lop3.or.b32 bfe.u32 bfe.s64 bfi.b64 bfind.u32 bfind.shiftamt.s64
clz.b64 popc.b32 brev.b64 fns.b32 szext.clamp.s32 bmsk.wrap.b32 prmt.b32 prmt.b32.f4e
add.f32 add.rz.ftz.sat.f32 add.rm.f64 mul.f64 mul.rp.f64 sub.f16 mul.f16x2 add.bf16 add.rn.bf16x2 sub.bf16x2
add.ftz.sat.f16x2 div.rn.f32 div.rz.f32 div.rm.f64 rcp.rn.f32 rcp.rp.f64 sqrt.rn.ftz.f32 sqrt.rm.f64 abs.f32 neg.bf16x2
abs.ftz.f16 min.f32 max.NaN.f32 max.ftz.xorsign.abs.f32 min.f64 max.bf16 max.NaN.xorsign.abs.bf16x2 copysign.f32
testp.normal.f64 fma.rn.f32 fma.rm.f32 fma.rn.ftz.sat.f32 mad.rn.f64 fma.rz.f64 fma.rn.f16 fma.rn.ftz.relu.f16x2
fma.rn.bf16x2 fma.rn.oob.relu.bf16x2 setp.lt.s32 setp.ne.f32 setp.eq.b64 setp.ltu.f16x2 setp.gt.and.f32 setp.hi.u32
set.lt.u32.f32 set.ge.f16x2.f16x2 set.ne.bf16.bf16 set.eq.and.u32.f16x2 selp.f32 selp.b64 slct.u32.s32 slct.ftz.f32.f32
mov.b32 mov.pred cvt.u32.u64 cvt.s64.s32 cvt.u16.u32 cvt.sat.u8.s32 cvt.rzi.s32.f32 cvt.rni.u64.f64 cvt.rpi.s32.bf16
cvt.rn.f32.s64 cvt.rz.f64.u64 cvt.rn.bf16.u32 cvt.rp.f16.s64 cvt.rn.f16.f32 cvt.rn.bf16.f32 cvt.rz.f32.f64 cvt.f32.f16
cvt.rn.f64.bf16 cvt.f64.bf16 cvt.sat.f32.f32 cvt.rni.f32.f32 cvt.ftz.f32.f32 cvt.rmi.bf16.bf16 cvt.rz.f16x2.f32
cvt.rn.relu.satfinite.bf16x2.f32 cvt.rna.tf32.f32 cvt.rn.relu.tf32.f32 cvt.pack.sat.u8.s32.b32 cvt.pack.sat.s16.s32
cvt.rn.satfinite.e4m3x2.f32 cvt.rn.satfinite.relu.e5m2x2.f16x2 cvt.rn.f16x2.e4m3x2 cvt.rn.relu.f16x2.e5m2x2
rcp.approx.f32 sqrt.approx.f32 rsqrt.approx.ftz.f32 ex2.approx.ftz.f32 lg2.approx.f32 sin.approx.f32 cos.approx.ftz.f32
tanh.approx.f32 tanh.approx.bf16x2 ex2.approx.f16x2 ex2.approx.ftz.bf16 div.approx.f32 div.full.ftz.f32
rcp.approx.ftz.f64 rsqrt.approx.f64 rsqrt.approx.ftz.f64
add.ftz.rn.f32 max.NaN.ftz.f32 cvt.satfinite.rn.e4m3x2.f32
"""
FORMS = _FORMS.split()

# Of sm_100 and later, or of no machine. With the operands to show ptxas.
REFUSED = {
    "add.rn.f32x2": "%d0, %d1, %d2",
    "fma.rn.f32x2": "%d0, %d1, %d2, %d3",
    "add.rz.f16": "%h0, %h1, %h2",
    "add.ftz.bf16": "%h0, %h1, %h2",
    "add.sat.u32": "%r0, %r1, %r2",
    "sub.u16x2": "%r0, %r1, %r2",
    "mul.wide.s64": "%d0, %d1, %d2",
    "mad.lo.sat.s32": "%r0, %r1, %r2, %r3",
    "div.f32": "%f0, %f1, %f2",
    "fma.f32": "%f0, %f1, %f2, %f3",
    "fma.rn.ftz.f64": "%g0, %g1, %g2, %g3",
    "min.NaN.f64": "%g0, %g1, %g2",
    "min.relu.u32": "%r0, %r1, %r2",
    "setp.lt.b32": "%p0, %r1, %r2",
    "setp.lo.s32": "%p0, %r1, %r2",
    "setp.num.s32": "%p0, %r1, %r2",
    "setp.lt.ftz.f64": "%p0, %g1, %g2",
    "tanh.approx.ftz.f32": "%f0, %f1",
    "ex2.approx.bf16": "%h0, %h1",
    "cvt.f32.f64": "%f0, %g1",
    "cvt.rn.f64.f32": "%g0, %f1",
    "cvt.s32.f32": "%r0, %f1",
    "cvt.f32.s32": "%f0, %r1",
    "cvt.sat.s64.s32": "%d0, %r1",
    "cvt.rzi.f64.f32": "%g0, %f1",
    "cvt.rn.e4m3x2.f32": "%h0, %f1, %f2",
    "cvt.rn.satfinite.e2m1x2.f32": "%h0, %f1, %f2",
    "cvt.rn.satfinite.tf32.f32": "%r0, %f1",
    "cvt.rna.relu.tf32.f32": "%r0, %f1",
    "cvt.rn.rn.f16.f32": "%h0, %f1",
}


def parts(name):
    opcode, *mods = name.split(".")
    return opcode, tuple(mods)


@pytest.mark.parametrize("name", FORMS)
def test_constants_are_operands_too(name):
    """A 0-d operand is worth an array of it, also where all are; and results have their types."""
    pure = find(*parts(name))
    rng = np.random.default_rng(1)
    operands = []
    for kind in pure.args:
        of = dtype(kind)
        if of.kind == "b":
            operands.append(np.array(True))
        else:
            operands.append(np.frombuffer(rng.bytes(of.itemsize), of).reshape(()))
    if name.startswith("lop3"):
        operands[3] = np.array(0xE8, np.uint32)

    def results(*given):
        with np.errstate(all="ignore"):
            found = pure.fn(*given)
        found = found if len(pure.out) > 1 else (found,)
        assert [np.asarray(x).dtype for x in found] == [dtype(kind) for kind in pure.out]
        return found

    whole = results(*(np.full(5, x) for x in operands))
    alone = results(*operands)
    assert all(np.shape(x) == (5,) for x in whole)
    assert all(np.shape(x) == () for x in alone)
    for constant in range(len(operands)):
        if len(operands) == 1 or (name.startswith("lop3") and constant != 3):
            continue
        mixed = results(*(x if i == constant else np.full(5, x) for i, x in enumerate(operands)))
        for m, w in zip(mixed, whole, strict=True):
            assert m.tobytes() == w.tobytes(), constant
    for a, w in zip(alone, whole, strict=True):
        assert np.full(5, a).tobytes() == w.tobytes()


def ptxas(lines):
    """The lines that ptxas refuses for sm_90a."""
    head = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry k() {
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .f32 %f<9>; .reg .f64 %g<9>;
"""
    text = head + "\n".join(lines) + "\nret;\n}\n"
    command = ["ptxas", "-arch=sm_90a", "-O0", "-o", "/dev/null", "/dev/stdin"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=100, check=False)
    first = head.count("\n") + 1
    at = {int(part.split(";")[0]) - first for part in done.stderr.split("line ")[1:]}
    assert (done.returncode == 0) == (not at), done.stderr
    return {lines[i] for i in at}


def register(kind, i):
    letter = {"pred": "p", "f32": "f", "f64": "g"}.get(kind) or {1: "h", 2: "h", 4: "r", 8: "d"}[dtype(kind).itemsize]
    return f"%{letter}{i}"


needs_ptxas = pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas is not installed: nothing to compare with")


@needs_ptxas
def test_ptxas_takes_what_is_here():
    lines = []
    for name in FORMS:
        pure = find(*parts(name))
        carries = name.startswith(("addc", "subc", "madc"))
        args = pure.args[:-1] if carries else pure.args
        out = pure.out[:1] if carries or ".cc" in name else pure.out
        sources = [register(kind, i + 2) for i, kind in enumerate(args)]
        if name.startswith("lop3"):
            sources[3] = "0x80"
        lines.append(f"{name} {'|'.join(register(k, i) for i, k in enumerate(out))}, {', '.join(sources)};")
    assert ptxas(lines) == set()


@needs_ptxas
def test_ptxas_refuses_what_is_refused_here():
    lines = [f"{name} {operands};" for name, operands in REFUSED.items()]
    assert ptxas(lines) == set(lines)


@pytest.mark.parametrize("name", [*REFUSED, "wgmma.mma_async", "add", "add.f32.f32", "nothing.b32"])
def test_what_is_not_here(name):
    assert find(*parts(name)) is None


def test_a_pair_is_given_only_where_there_is_one():
    assert find("add", ("f32",), True) is None
    assert find("setp", ("lt", "f32")).out == ("pred",)
    assert find("setp", ("lt", "f32"), True).out == ("pred", "pred")
    assert find("lop3", ("or", "b32"), True).out == ("b32", "pred")


def test_plain_arithmetic_is_a_bare_ufunc():
    """What kernels do most costs what numpy asks, for there is nothing else to call."""
    for name in (
        "add.f32", "mul.f32", "sub.f32", "add.s32", "add.s64", "mul.lo.s64", "shl.b64", "shl.b32", "and.b32", "or.pred",
        "setp.lt.s64", "setp.ge.s64", "min.s32", "div.rn.f32", "sqrt.rn.f32", "add.f64",
    ):  # fmt: skip
        assert isinstance(find(*parts(name)).fn, np.ufunc), name


def test_fma_is_a_few_ufuncs():
    """To nearest in float32 it takes no longer than a dozen additions of float64 do, in the usual case."""
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(4096).astype(np.float32) for _ in range(3))
    wide = a.astype(np.float64)
    fma = find("fma", ("rn", "f32")).fn
    best = min(timeit.repeat(lambda: fma(a, b, c), number=50, repeat=7))
    assert best < 12 * min(timeit.repeat(lambda: wide + wide, number=50, repeat=7)) + 50 * 20e-6
