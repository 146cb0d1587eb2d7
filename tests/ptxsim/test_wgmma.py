"""wgmma as an instruction: types, shapes, signs and scale-d against A @ B + C, and what its asynchrony forbids."""

import ml_dtypes
import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards

HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"
DTYPES = {
    "bf16": ml_dtypes.bfloat16, "f16": np.float16, "tf32": np.float32, "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2, "s8": np.int8, "u8": np.uint8, "f32": np.float32, "s32": np.int32,
}  # fmt: skip


def kernel(body, count, fragments=0):
    """A, B and C are copied in by hand: %a{i} A's fragment, %c{i} the accumulators, [registers][128] words at their pointers."""
    loads = "".join(f"    ld.global.b32 %c{i}, [%d6+{512 * i}];\n" for i in range(count))
    loads += "".join(f"    ld.global.b32 %a{i}, [%d7+{512 * i}];\n" for i in range(fragments))
    stores = "".join(f"    st.global.b32 [%d6+{512 * i}], %c{i};\n" for i in range(count))
    text = f"""{HEAD}
.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 da, .param .u64 db)
{{
    .reg .pred %p<4>;
    .reg .b32 %r<10>, %c<{count}>, %a<{max(fragments, 1)}>, %x<4>;
    .reg .b64 %d<20>;
    .shared .align 1024 .b8 left[16384];
    .shared .align 1024 .b8 right[32768];
    ld.param.u64 %d0, [pa];
    ld.param.u64 %d1, [pb];
    ld.param.u64 %d2, [pc];
    ld.param.u64 %d3, [da];
    ld.param.u64 %d4, [db];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %d5, %r0, 4;
    add.u64 %d6, %d2, %d5;
    add.u64 %d7, %d0, %d5;
    mov.u32 %r1, left;
    mov.u32 %r2, right;
    shl.b32 %r3, %r0, 4;
L:  setp.ge.u32 %p1, %r3, 16384;
    @%p1 bra M;
    cvt.u64.u32 %d8, %r3;
    add.u64 %d9, %d0, %d8;
    ld.global.v4.u32 {{%x0, %x1, %x2, %x3}}, [%d9];
    add.u32 %r4, %r1, %r3;
    st.shared.v4.u32 [%r4], {{%x0, %x1, %x2, %x3}};
    add.u64 %d9, %d1, %d8;
    ld.global.v4.u32 {{%x0, %x1, %x2, %x3}}, [%d9];
    add.u32 %r4, %r2, %r3;
    st.shared.v4.u32 [%r4], {{%x0, %x1, %x2, %x3}};
    add.u32 %r3, %r3, 2048;
    bra L;
M:
{loads}
    cvt.u64.u32 %d10, %r1;
    shr.u64 %d10, %d10, 4;
    or.b64 %d10, %d10, %d3;
    cvt.u64.u32 %d11, %r2;
    shr.u64 %d11, %d11, 4;
    or.b64 %d11, %d11, %d4;
    setp.eq.u32 %p2, %r0, %r0;
{body}
{stores}
    ret;
}}
"""
    return ptxsim.load(text, "wgmma")


FENCES = "fence.proxy.async;\nbar.sync 0;\nwgmma.fence.sync.aligned;\n"
DONE = "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"


def braces(letter, count):
    return "{" + ", ".join(f"%{letter}{i}" for i in range(count)) + "}"


def cores(matrix):
    """Without swizzle: core matrices of 8 lines of 16 bytes, one after the other along K, then along the lines. 16 KiB."""
    lines, bytes_ = matrix.shape[0], matrix.view(np.uint8).reshape(matrix.shape[0], -1)
    out = np.zeros(16384, np.uint8)
    at = 0
    for block in range(0, lines, 8):
        for chunk in range(0, bytes_.shape[1], 16):
            for line in range(8):
                out[at : at + 16] = bytes_[block + line, chunk : chunk + 16]
                at += 16
    return out


#: leading 128 bytes, stride 256, no swizzle
DESCRIPTOR = np.uint64(8 << 16 | 16 << 32)


def draw(rng, shape, type_):
    if type_ in ("s8", "u8"):
        return rng.integers(-128 if type_ == "s8" else 0, 128, shape).astype(DTYPES[type_])
    values = rng.normal(size=shape).astype(DTYPES[type_])
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) if type_ == "tf32" else values


def accumulators(matrix):
    """[registers][128 threads], by the ISA's figure; two f16 to a register."""
    n = matrix.shape[1]
    out = np.zeros((n // 2, 128), matrix.dtype)
    for t in range(128):
        for i in range(n // 2):
            out[i, t] = matrix[t // 32 * 16 + t % 32 // 4 + 8 * (i // 2 % 2), i // 4 * 8 + t % 4 * 2 + i % 2]
    if matrix.dtype.itemsize == 2:
        return out.reshape(-1, 2, 128).swapaxes(1, 2).copy().view(np.uint32)[..., 0]
    return out.view(np.uint32)


def fragment(matrix):
    """A's four registers: 16 rows a warp, as m16n8k of the same depth."""
    e = 4 // matrix.dtype.itemsize
    out = np.zeros((4, 128, e), matrix.dtype)
    for t in range(128):
        for i in range(4):
            row, column = t // 32 * 16 + t % 32 // 4 + 8 * (i % 2), t % 4 * e + i // 2 * 4 * e
            out[i, t] = matrix[row, column : column + e]
    return out.reshape(4, -1).view(np.uint32)


def run(body, a, b, c, from_registers=False, seed=0, descriptors=(DESCRIPTOR, DESCRIPTOR)):
    """A is (64, K), B (N, K), C (64, N); returns the accumulators."""
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    held = accumulators(c)
    left = np.zeros(16384, np.uint8)
    if from_registers:
        left[:2048] = fragment(a).view(np.uint8).ravel()
    else:
        left = cores(a)
    out = device.array(held)
    module = kernel(body, len(held), 4 if from_registers else 0)
    device.launch(module, "k", (1,), (128,), [device.array(left), device.array(cores(b)), out, *descriptors])
    return out.numpy()


def product(shape, types, count, left="%d10", scale="%p2", rest=", 1, 1"):
    return f"wgmma.mma_async.sync.aligned.{shape}.{types} {braces('c', count)}, {left}, %d11, {scale}{rest};\n"


CASES = [
    ("m64n8k16", "f32.bf16.bf16", ", 0, 0"),
    ("m64n64k16", "f32.f16.f16", ", 0, 0"),
    ("m64n256k16", "f32.bf16.bf16", ", 0, 0"),
    ("m64n24k16", "f16.f16.f16", ", 0, 0"),
    ("m64n40k8", "f32.tf32.tf32", ""),
    ("m64n64k32", "f32.e4m3.e5m2", ""),
    ("m64n16k32", "f16.e5m2.e4m3", ""),
    ("m64n48k32", "s32.s8.u8", None),
    ("m64n32k32", "satfinite.s32.u8.u8", None),
]


@pytest.mark.parametrize(("shape", "types", "across"), CASES)
@pytest.mark.parametrize("from_registers", [False, True])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (-1, -1)])
def test_products(shape, types, across, from_registers, signs):
    if across is None and signs != (1, 1):
        signs = (1, 1)  # integers have none
    n, k = (int(x) for x in shape.removeprefix("m64n").split("k"))
    d, ta, tb = types.removeprefix("satfinite.").split(".")
    rng = np.random.default_rng(n)
    a, b = draw(rng, (64, k), ta), draw(rng, (n, k), tb)
    c = rng.integers(-99, 99, (64, n)).astype(DTYPES[d])
    count = n // (4 if d == "f16" else 2)
    rest = "" if across is None else f", {signs[0]}, {signs[1]}" + (across[:3] if from_registers and across else across)
    left = braces("a", 4) if from_registers else "%d10"
    exact = np.float64 if d != "s32" else np.int64
    for scale, base in (("%p2", c), ("0", 0 * c)):
        got = run(FENCES + product(shape, types, count, left, scale, rest) + DONE, a, b, c, from_registers)
        want = signs[0] * signs[1] * (a.astype(exact) @ b.T.astype(exact)) + base
        assert (got == accumulators(want.astype(DTYPES[d]))).all()


A, B = (np.random.default_rng(i).normal(size=(64, 16)).astype(ml_dtypes.bfloat16) for i in range(2))
C = np.zeros((64, 64), np.float32)
MUL = product("m64n64k16", "f32.bf16.bf16", 32, rest=", 1, 1, 0, 0")


@pytest.mark.parametrize("seed", range(4))
def test_products_in_a_row(seed):
    """Same shape, same accumulators, no wait in between; two groups waited for in turn."""
    want = accumulators((3 * (A.astype(np.float64) @ B.T.astype(np.float64))).astype(np.float32))
    got = run(FENCES + MUL + MUL + DONE.replace("0", "1") + MUL + DONE, A, B, C, seed=seed)
    assert np.allclose(got.view(np.float32), want.view(np.float32), rtol=1e-6, atol=1e-5)


COMMIT = "wgmma.commit_group.sync.aligned;\n"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("body", "kind", "match"),
    [
        (FENCES + MUL + COMMIT, hazards.PendingHazard, "no wgmma.wait_group since"),
        (FENCES + MUL + DONE.replace("0", "1"), hazards.PendingHazard, "no wgmma.wait_group since"),
        (FENCES + MUL + "wgmma.wait_group.sync.aligned 0;\n", hazards.PendingHazard, "no wgmma.wait_group since"),
        (FENCES.replace("wgmma.fence.sync.aligned;\n", "") + MUL + DONE, hazards.PendingHazard, "wgmma.fence is missing"),
        (FENCES + "mov.b32 %c3, 0;\n" + MUL + DONE, hazards.PendingHazard, "wgmma.fence is missing.*%c3 was used"),
        (FENCES + MUL + DONE + "add.f32 %c3, %c3, %c4;\n" + MUL + DONE, hazards.PendingHazard, "wgmma.fence is missing"),
        (FENCES.replace("fence.proxy.async;\n", "") + MUL + DONE, hazards.ProxyHazard, "no fence.proxy.async"),
        (FENCES.replace("bar.sync 0;\n", "") + MUL + DONE, hazards.RaceHazard, "a race"),
        (FENCES + MUL + COMMIT + "st.shared.u32 [%r2], %r0;\n" + DONE, (hazards.PendingHazard, hazards.RaceHazard), None),
        (
            FENCES + MUL + product("m64n32k16", "f32.bf16.bf16", 16, rest=", 1, 1, 0, 0") + DONE,
            hazards.PendingHazard, "of another shape",
        ),
        (FENCES.replace("wgmma", "setp.gt.u32 %p3, %r0, 95;\n@%p3 ret;\nwgmma"), hazards.DivergenceHazard, "warpgroup is not whole"),
        (FENCES + "cvt.u64.u32 %d12, %r0;\nadd.u64 %d11, %d11, %d12;\n" + MUL + DONE, hazards.DivergenceHazard, "different matrix descriptors"),
        (FENCES + "setp.eq.u32 %p2, %r0, 0;\n" + MUL + DONE, hazards.DivergenceHazard, "different scale-d"),
    ],
)  # fmt: skip
def test_what_its_asynchrony_forbids(body, kind, match, seed):
    with pytest.raises(kind, match=match):
        run(body, A, B, C, seed=seed)


@pytest.mark.parametrize("change", ["mov.b32 %a0, 0;\n", "mov.b32 %r8, %a0;\n"])
def test_a_fragment_may_be_read_but_not_changed_before_the_wait(change):
    mul = product("m64n64k16", "f32.bf16.bf16", 32, braces("a", 4), rest=", 1, 1, 0")
    body = FENCES + mul + COMMIT + change + "wgmma.wait_group.sync.aligned 0;\n"
    if change.startswith("mov.b32 %a0"):
        with pytest.raises(hazards.PendingHazard, match="%a0 belongs"):
            run(body, A, B, C, True)
    else:
        run(body, A, B, C, True)


def test_descriptors_that_the_machine_refuses():
    for bad in (1 << 49, 1 << 52):
        with pytest.raises(hazards.HazardError, match="matrix descriptor"):
            run(FENCES + MUL + DONE, A, B, C, descriptors=(DESCRIPTOR, DESCRIPTOR | np.uint64(bad)))
    with pytest.raises(hazards.BoundsHazard):
        run(FENCES + MUL + DONE, A, B, C, descriptors=(DESCRIPTOR, np.uint64(0x3000 << 32 | 8 << 16)))


@pytest.mark.parametrize(
    "form",
    [
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {regs}, %d10, %d11, %p2, 1, 1;",
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {regs}, %d10, %d11, %p2, 2, 1, 0, 0;",
        "wgmma.mma_async.sync.aligned.m64n72k16.f32.bf16.bf16 {regs}, %d10, %d11, %p2, 1, 1, 0, 0;",
        "wgmma.mma_async.sp.sync.aligned.m64n64k32.f32.bf16.bf16 {regs}, %d10, %d11, %r0, 0, %p2, 1, 1, 0, 0;",
    ],
)
def test_forms_outside_the_table(form):
    with pytest.raises(hazards.UnknownOpcode):
        run(FENCES + form.replace("{regs}", braces("c", 32)) + DONE, A, B, C)
