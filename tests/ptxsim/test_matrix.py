"""mma.sync, ldmatrix, stmatrix and movmatrix as instructions: whole products by kernels that follow the ISA's formulas."""

import ml_dtypes
import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards

from . import ptx

TILE = ".shared .align 16 .b8 tile[1024];"


def launch(body, *arrays, threads=32, seed=0):
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    held = [device.array(a) for a in arrays]
    device.launch(ptx.kernel(body, params=len(arrays), variables=TILE), "k", (1,), (threads,), held)
    return [h.numpy() for h in held]


#: %d{10 + i}: this lane's register i of the array at %d{array}, [registers][lanes] of `item` bytes
def registers(array, count, target, item=4, kind="b32"):
    text = f"mul.wide.u32 %d8, %r0, {item};\nadd.u64 %d9, %d{array}, %d8;\n"
    return text + "".join(f"ld.global.{kind} {target(i)}, [%d9+{32 * item * i}];\n" for i in range(count))


def stored(array, count, source, item=4, kind="b32"):
    text = f"mul.wide.u32 %d8, %r0, {item};\nadd.u64 %d9, %d{array}, %d8;\n"
    return text + "".join(f"st.global.{kind} [%d9+{32 * item * i}], {source(i)};\n" for i in range(count))


def braces(names):
    return "{" + ", ".join(names) + "}"


@pytest.mark.parametrize("seed", range(3))
def test_a_bf16_product(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(16, 16)).astype(ml_dtypes.bfloat16), rng.normal(size=(16, 8)).astype(ml_dtypes.bfloat16)
    c = rng.normal(size=(16, 8)).astype(np.float32)
    ra, rb, rc = np.zeros((4, 32, 2), a.dtype), np.zeros((2, 32, 2), a.dtype), np.zeros((4, 32), np.float32)
    for lane in range(32):
        g, t = lane // 4, lane % 4
        for e in range(2):
            for i, (row, column) in enumerate(((g, 0), (g + 8, 0), (g, 8), (g + 8, 8))):
                ra[i, lane, e] = a[row, column + t * 2 + e]
            for i in range(2):
                rb[i, lane, e] = b[i * 8 + t * 2 + e, g]
        for i in range(4):
            rc[i, lane] = c[g + 8 * (i // 2), t * 2 + i % 2]
    body = (
        registers(0, 4, lambda i: f"%r{10 + i}")
        + registers(1, 2, lambda i: f"%r{20 + i}")
        + registers(2, 4, lambda i: f"%f{i}", kind="f32")
    )
    body += f"""mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {braces(f"%f{i}" for i in range(4))},
        {braces(f"%r{10 + i}" for i in range(4))}, {braces(f"%r{20 + i}" for i in range(2))}, {braces(f"%f{i}" for i in range(4))};\n"""
    body += stored(2, 4, lambda i: f"%f{i}", kind="f32")
    *_, out = launch(body, ra.view(np.uint32)[..., 0], rb.view(np.uint32)[..., 0], rc, seed=seed)
    want = (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)
    for lane in range(32):
        for i in range(4):
            assert out[i, lane] == want[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2]


def test_an_f64_product():
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(-9, 9, (8, 4)), rng.integers(-9, 9, (4, 8)), rng.integers(-9, 9, (8, 8))
    lane = np.arange(32)
    ra, rb = a[lane // 4, lane % 4].astype(np.float64)[None], b[lane % 4, lane // 4].astype(np.float64)[None]
    rc = np.stack([c[lane // 4, lane % 4 * 2 + i] for i in range(2)]).astype(np.float64)
    body = registers(0, 1, lambda i: "%d20", 8, "b64") + registers(1, 1, lambda i: "%d21", 8, "b64")
    body += registers(2, 2, lambda i: f"%d{22 + i}", 8, "b64")
    body += "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d22, %d23}, {%d20}, {%d21}, {%d22, %d23};\n"
    body += stored(2, 2, lambda i: f"%d{22 + i}", 8, "b64")
    *_, out = launch(body, ra, rb, rc)
    assert (out == np.stack([(a @ b + c)[lane // 4, lane % 4 * 2 + i] for i in range(2)])).all()


#: %r9: this lane's row of the tile, where matrices of 8 rows of 16 bytes follow each other
ROW = "mov.u32 %r1, tile;\nshl.b32 %r2, %r0, 4;\nadd.u32 %r9, %r1, %r2;\n"


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_matrices_from_and_to_shared_memory(count, trans):
    """Rows go in by plain stores, matrices out by ldmatrix; and back by stmatrix."""
    x = np.random.default_rng(3).integers(0, 65535, (count, 8, 8)).astype(np.uint16)
    names = braces(f"%r{10 + i}" for i in range(count))
    mine = f"setp.lt.u32 %p1, %r0, {8 * count};\nmul.wide.u32 %d8, %r0, 16;\nadd.u64 %d7, %d0, %d8;\n"
    body = (
        ROW
        + mine
        + "@%p1 ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [%d7];\n@%p1 st.shared.v4.u32 [%r9], {%r20, %r21, %r22, %r23};\n"
    )
    body += f"bar.warp.sync 0xffffffff;\nldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {names}, [%r9];\n" + stored(
        1, count, lambda i: f"%r{10 + i}"
    )
    body += f"bar.warp.sync 0xffffffff;\nstmatrix.sync.aligned.m8n8.x{count}.shared.b16 [%r9], {names};\nbar.warp.sync 0xffffffff;\n"
    body += "@%p1 ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r9];\n@%p1 st.global.v4.u32 [%d7], {%r20, %r21, %r22, %r23};\n"
    back, out = launch(body, x.reshape(-1), np.zeros((count, 32), np.uint32))
    halves = out.view(np.uint16).reshape(count, 32, 2)
    for lane in range(32):
        for e in range(2):
            row, column = lane // 4, lane % 4 * 2 + e
            assert (halves[:, lane, e] == (x[:, column, row] if trans else x[:, row, column])).all()
    assert (back.reshape(x.shape) == (x.swapaxes(1, 2) if trans else x)).all()


def test_movmatrix_transposes():
    x = np.random.default_rng(4).integers(0, 65535, (8, 8)).astype(np.uint16)
    body = (
        registers(0, 1, lambda i: "%r10")
        + "movmatrix.sync.aligned.m8n8.trans.b16 %r11, %r10;\n"
        + stored(0, 1, lambda i: "%r11")
    )
    (out,) = launch(body, x.reshape(-1).view(np.uint32)[None])
    assert (out.view(np.uint16).reshape(8, 8) == x.T).all()


def test_a_warp_that_is_not_whole():
    body = "setp.lt.u32 %p1, %r0, 3;\n@%p1 ret;\nmov.u32 %r1, 0;\nmovmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;\n"
    with pytest.raises(hazards.DivergenceHazard, match="left the kernel"):
        launch(body, np.zeros(1, np.uint32))


def test_rows_that_are_not_aligned_or_not_there():
    body = ROW + "st.shared.u32 [%r9], %r0;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%r9{offset}];\n"
    with pytest.raises(hazards.MisalignedHazard):
        launch(body.replace("{offset}", "+8"), np.zeros(1, np.uint32))
    with pytest.raises(hazards.UninitialisedHazard):
        launch(
            body.replace("{offset}", "").replace("st.shared.u32 [%r9], %r0;", "st.shared.u32 [%r9+512], %r0;"),
            np.zeros(1, np.uint32),
        )


@pytest.mark.parametrize(
    "form",
    [
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1, %r2}, [%r9];",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r9];",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f0, %f1};",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f0, %f1, %f2, %f3}, %r7, 0;",
    ],
)
def test_forms_outside_the_table(form):
    with pytest.raises(hazards.UnknownOpcode):
        launch(ROW + form, np.zeros(1, np.uint32))
