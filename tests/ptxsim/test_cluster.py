"""Clusters: addresses of other CTAs, the barrier, asynchronous stores, elect, and how long shared memory lives."""

import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards

from . import ptx

SEEDS = range(4)
TILE = ".shared .align 16 .b32 tile[64];\n.shared .align 8 .b64 bar;"
SYNC = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n"
#: %r10 rank, %r11 the other's, %r9 this thread's word, %r12 the same in the other CTA, %d9 its place in the result
PLACES = """
    mov.u32 %r10, %cluster_ctarank;
    xor.b32 %r11, %r10, 1;
    mov.u32 %r1, tile;
    shl.b32 %r2, %r0, 2;
    add.u32 %r9, %r1, %r2;
    mapa.shared::cluster.u32 %r12, %r9, %r11;
    mad.lo.u32 %r3, %r10, 64, %r0;
    mul.wide.u32 %d8, %r3, 4;
    add.u64 %d9, %d0, %d8;
"""


def run(body, seed=0, cluster=2, threads=64):
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    out = device.array(np.zeros(64 * cluster, np.uint32))
    device.launch(ptx.kernel(PLACES + body, variables=TILE), "k", (cluster,), (threads,), [out], cluster=(cluster, 1, 1))
    return out.numpy()


def refused(kind, body, match, **options):
    with pytest.raises(kind, match=match) as caught:
        run(body, **options)
    return caught.value


@pytest.mark.parametrize("seed", SEEDS)
def test_reading_each_others_memory(seed):
    body = f"st.shared.u32 [%r9], %r3;\n{SYNC}ld.shared::cluster.u32 %r4, [%r12];\n{SYNC}st.global.u32 [%d9], %r4;"
    assert (run(body, seed) == np.arange(128) % 64 + np.repeat([64, 0], 64)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_without_the_barriers(seed):
    read = "st.shared.u32 [%r9], %r3;\n{}ld.shared::cluster.u32 %r4, [%r12];\n{}st.global.u32 [%d9], %r4;"
    with pytest.raises((hazards.RaceHazard, hazards.UninitialisedHazard, hazards.BoundsHazard)):
        run(read.format("", SYNC), seed)
    found = refused(hazards.BoundsHazard, read.format(SYNC, ""), "left the kernel", seed=seed)
    assert found.place.instruction == "ld.shared::cluster.u32"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_arrival_that_does_not_release(seed):
    relaxed = SYNC.replace("release", "relaxed")
    read = "st.shared.u32 [%r9], %r3;\n{}ld.shared::cluster.u32 %r4, [%r12];\n" + SYNC
    refused(hazards.RaceHazard, read.format(relaxed), "a race", seed=seed)
    run(read.format("fence.acq_rel.cluster;\n" + relaxed), seed)


def test_a_plain_access_stays_at_home():
    refused(hazards.BoundsHazard, f"st.shared.u32 [%r9], %r3;\n{SYNC}ld.shared.u32 %r4, [%r12];", "another CTA's")


def test_ranks():
    body = "mapa.shared::cluster.u32 %r4, %r9, 3;\n"
    refused(hazards.BoundsHazard, body, "CTA 3 of a cluster of 2")
    got = run("getctarank.shared::cluster.u32 %r4, %r12;\nst.global.u32 [%d9], %r4;")
    assert (got == np.repeat([1, 0], 64)).all()


def test_the_barrier_needs_all_and_each_once():
    refused(hazards.DivergenceHazard, "barrier.cluster.arrive.aligned;\nbarrier.cluster.arrive.aligned;", "second arrival")
    refused(hazards.DivergenceHazard, "barrier.cluster.wait.aligned;", "without an arrival")
    body = "setp.eq.u32 %p1, %r10, 0;\n@%p1 barrier.cluster.arrive.aligned;\n@%p1 barrier.cluster.wait.aligned;\n@!%p1 bar.sync 0, 96;"
    refused(hazards.DeadlockHazard, body, "64 threads have not arrived")


@pytest.mark.parametrize("seed", SEEDS)
def test_threads_that_left_are_not_waited_for(seed):
    run(f"setp.gt.u32 %p1, %r0, 31;\n@%p1 ret;\n{SYNC}", seed)


MBAR = f"""
    mov.u32 %r20, bar;
    mapa.shared::cluster.u32 %r21, %r20, %r11;
    setp.ne.u32 %p9, %r0, 0;
    @%p9 bra made;
    mbarrier.init.shared::cta.b64 [%r20], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20], 256;
made: {SYNC}
"""
ARRIVED = "W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r20], 0;\n@!%p1 bra W;\n"


@pytest.mark.parametrize("seed", SEEDS)
def test_asynchronous_stores_into_the_other_cta(seed):
    store = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r12], %r3, [%r21];\n"
    body = MBAR + store + "{wait}ld.shared.u32 %r4, [%r9];\nst.global.u32 [%d9], %r4;\n" + SYNC
    assert (run(body.format(wait=ARRIVED), seed) == np.arange(128) % 64 + np.repeat([64, 0], 64)).all()
    with pytest.raises((hazards.PendingHazard, hazards.UninitialisedHazard, hazards.RaceHazard)):
        run(body.format(wait=""), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_asynchronous_reductions(seed):
    add = "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r13], %r3, [%r21];\n"
    first = "mapa.shared::cluster.u32 %r13, %r1, %r11;\n"
    body = (
        "mov.u32 %r4, 0;\nst.shared.u32 [%r9], %r4;\n"
        + MBAR
        + first
        + add
        + ARRIVED
        + "ld.shared.u32 %r4, [%r1];\nst.global.u32 [%d9], %r4;\n"
        + SYNC
    )
    got = run(body, seed)
    assert (got == np.repeat([sum(range(64, 128)), sum(range(64))], 64)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_of_bytes_to_the_other_cta(seed):
    copy = """
    setp.ne.u32 %p2, %r0, 0;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mapa.shared::cluster.u32 %r13, %r1, %r11;
    @!%p2 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r13+{at}], [%r1], 128, [%r21];
    """
    body = MBAR.replace("256", "128") + "setp.lt.u32 %p3, %r0, 32;\n@%p3 st.shared.u32 [%r9], %r3;\n" + copy + ARRIVED
    body += "@!%p3 ld.shared.u32 %r4, [%r9];\n@!%p3 st.global.u32 [%d9], %r4;\n" + SYNC
    got = run(body.format(at=128), seed).reshape(2, 64)
    assert (got[:, 32:] == np.arange(32) + np.array([[64], [0]])).all()
    refused(hazards.MisalignedHazard, body.format(at=132), "no multiple of 16", seed=seed)


def test_elect_names_one_lane():
    body = "elect.sync %r4|%p1, 0xffffffff;\nselp.b32 %r5, 100, 0, %p1;\nadd.u32 %r4, %r4, %r5;\nst.global.u32 [%d9], %r4;"
    assert (run(body) == np.where(np.arange(128) % 32 == 0, 100, 0)).all()


def test_hints_change_nothing_and_are_checked():
    run(
        "setmaxnreg.dec.sync.aligned.u32 40;\nsetmaxnreg.inc.sync.aligned.u32 232;\ngriddepcontrol.wait;\ngriddepcontrol.launch_dependents;"
    )
    for form in ("setmaxnreg.dec.sync.aligned.u32 41;", "setmaxnreg.inc.sync.aligned.u32 264;", "griddepcontrol.other;"):
        with pytest.raises(hazards.UnknownOpcode):
            run(form)
