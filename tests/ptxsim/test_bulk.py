"""Bulk copies of plain runs: loads that report to an mbarrier, stores and reductions in groups, proxies."""

import ml_dtypes
import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards

from . import ptx

SEEDS = range(4)
TILE = ".shared .align 128 .b32 tile[128];\n.shared .align 8 .b64 bar;"
INIT = """
    mov.u32 %r1, tile;
    mov.u32 %r9, bar;
    shl.b32 %r2, %r0, 2;
    add.u32 %r3, %r1, %r2;
    mul.wide.u32 %d8, %r0, 4;
    add.u64 %d9, %d1, %d8;
    setp.ne.u32 %p9, %r0, 0;
    @%p9 bra made;
    mbarrier.init.shared::cta.b64 [%r9], 1;
    {fence}
made: bar.sync 0;
"""
FENCE = "fence.mbarrier_init.release.cluster;"
LOAD = """
    @!%p9 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], {expected};
    @!%p9 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], {size}, [%r9];
"""
WAIT = "W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r9], 0;\n@!%p1 bra W;\n"
OUT = "ld.shared.u32 %r4, [%r3];\nst.global.u32 [%d9], %r4;\n"
PROXY = "fence.proxy.async.shared::cta;\nbar.sync 0;\n"
STORE = "@!%p9 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 256;\n"
COMMIT = "@!%p9 cp.async.bulk.commit_group;\n"


def run(body, x=None, y=None, seed=0, fence=FENCE):
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    x = device.array(np.arange(64, dtype=np.uint32) if x is None else x)
    y = device.array(np.zeros(64, np.uint32) if y is None else y)
    device.launch(ptx.kernel(INIT.format(fence=fence) + body, params=2, variables=TILE), "k", (1,), (64,), [x, y])
    return y.numpy()


def refused(kinds, body, match=None, **options):
    with pytest.raises(kinds, match=match) as caught:
        run(body, **options)
    return caught.value


@pytest.mark.parametrize("seed", SEEDS)
def test_a_load(seed):
    load = LOAD.format(expected=256, size=256)
    assert (run(load + WAIT + OUT, seed=seed) == np.arange(64)).all()
    refused(hazards.PendingHazard, load + "bar.sync 0;" + OUT, "without a wait for what cp.async.bulk", seed=seed)
    refused(hazards.PendingHazard, load + "bar.sync 0;\nst.shared.u32 [%r3], %r0;", seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_that_do_not_add_up(seed):
    refused(hazards.DeadlockHazard, LOAD.format(expected=272, size=256) + WAIT, "16 bytes outstanding", seed=seed)
    refused(hazards.PhaseHazard, LOAD.format(expected=240, size=256) + WAIT, "16 more bytes", seed=seed)


def test_a_load_that_nobody_waits_for():
    refused(hazards.PendingHazard, LOAD.format(expected=256, size=256), "the kernel ends while")


def test_the_engine_must_see_the_mbarrier():
    load = LOAD.format(expected=256, size=256) + WAIT
    refused(hazards.ProxyHazard, load, "no fence.mbarrier_init", fence="")
    run(load, fence="fence.proxy.async;")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("[%r1], [%d0], 256", "[%r1], [%d0+4], 256"), hazards.MisalignedHazard),
        (("[%r1], [%d0], 256", "[%r1+8], [%d0], 256"), hazards.MisalignedHazard),
        (("[%r1], [%d0], 256", "[%r1], [%d0], 248"), hazards.MisalignedHazard),
        (("[%r1], [%d0], 256", "[%r1], [%d0], 512"), hazards.BoundsHazard),
        (("[%r1], [%d0], 256", "[%r1+384], [%d0], 256"), hazards.BoundsHazard),
    ],
)
def test_bounds_and_alignment(change, kind):
    refused(kind, LOAD.format(expected=256, size=256).replace(*change) + WAIT)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_store(seed):
    body = "st.shared.u32 [%r3], %r0;\n" + PROXY + STORE + COMMIT + "@!%p9 cp.async.bulk.wait_group 0;\n"
    assert (run(body, seed=seed) == np.arange(64)).all()
    read = "bar.sync 0;\nld.global.u32 %r4, [%d9];\n"
    run(body + read, seed=seed)
    refused(hazards.PendingHazard, body.replace("wait_group 0", "wait_group.read 0") + read, seed=seed)
    refused(hazards.PendingHazard, body.replace(COMMIT, "") + read, seed=seed)
    refused(
        hazards.PendingHazard,
        body.replace("wait_group 0", "wait_group 1") + "bar.sync 0;\nst.shared.u32 [%r3], %r0;",
        seed=seed,
    )
    run(body.replace("wait_group 0", "wait_group.read 0") + "bar.sync 0;\nst.shared.u32 [%r3], %r0;", seed=seed)


def test_a_store_that_the_kernel_does_not_wait_for():
    body = "st.shared.u32 [%r3], %r0;\n" + PROXY + STORE + COMMIT
    refused(hazards.PendingHazard, body, "may still read its shared memory")


@pytest.mark.parametrize(
    ("proxy", "kind"),
    [
        ("bar.sync 0;\n", hazards.ProxyHazard),
        ("fence.proxy.async.shared::cta;\n", hazards.RaceHazard),
        ("bar.sync 0;\n@!%p9 fence.proxy.async;\n", None),
    ],
)
def test_what_threads_wrote_must_cross_to_the_engine(proxy, kind):
    body = "st.shared.u32 [%r3], %r0;\n" + proxy + STORE + COMMIT + "@!%p9 cp.async.bulk.wait_group 0;\n"
    if kind is None:
        run(body)
    else:
        refused(kind, body)


REDUCTIONS = [
    ("add", "u32", np.uint32),
    ("add", "s32", np.int32),
    ("add", "u64", np.uint64),
    ("add", "f32", np.float32),
    ("add", "f64", np.float64),
    ("add.noftz", "f16", np.float16),
    ("add.noftz", "bf16", ml_dtypes.bfloat16),
    ("min", "s32", np.int32),
    ("max", "u32", np.uint32),
    ("min", "f16", np.float16),
    ("max", "s64", np.int64),
    ("and", "b32", np.uint32),
    ("or", "b32", np.uint32),
    ("xor", "b64", np.uint64),
]


@pytest.mark.parametrize(("operation", "type_", "dtype"), REDUCTIONS)
def test_reductions(operation, type_, dtype):
    """The 256 bytes of both sides as elements of a type."""
    rng = np.random.default_rng(5)
    n = 256 // np.dtype(dtype).itemsize
    x, y = (rng.integers(0, 100, n).astype(dtype) for _ in range(2))
    body = "mul.wide.u32 %d8, %r0, 4;\nadd.u64 %d7, %d0, %d8;\nld.global.u32 %r4, [%d7];\nst.shared.u32 [%r3], %r4;\n" + PROXY
    body += f"@!%p9 cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation}.{type_} [%d1], [%r1], 256;\n" + COMMIT
    body += "@!%p9 cp.async.bulk.wait_group 0;\n"
    got = run(body, x.view(np.uint32), y.view(np.uint32)).view(dtype)
    name = operation.split(".")[0]
    fn = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[name]
    assert (got == fn(y, x)).all()


def test_forms_outside_the_table():
    for form in (
        "cp.async.bulk.global.global.bulk_group [%d1], [%d0], 16;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.mul.f32 [%d1], [%r1], 16;",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.unheard [%r1], [%d0], 16, [%r9];",
    ):
        refused(hazards.UnknownOpcode, form)
