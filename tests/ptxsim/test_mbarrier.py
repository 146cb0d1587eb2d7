"""mbarriers: phases, counts, bytes and waits, each rule by a kernel of a few lines."""

import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards

from . import ptx

SEEDS = range(4)
BAR = ".shared .align 8 .b64 bar;\n.shared .align 16 .b32 tile[64];"
#: %r9 = the mbarrier; thread 0 makes it for %r10 arrivals, everybody knows
INIT = """
    mov.u32 %r9, bar;
    setp.ne.u32 %p9, %r0, 0;
    @%p9 bra made;
    mbarrier.init.shared::cta.b64 [%r9], {count};
    fence.mbarrier_init.release.cluster;
made: bar.sync 0;
"""
WAIT = """
{label}: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r9], {parity};
    @!%p1 bra {label};
"""
STORE = "mul.wide.u32 %d8, %r0, 4;\nadd.u64 %d9, %d0, %d8;\nst.global.u32 [%d9], {value};\n"


def run(body, threads=64, seed=0, count=64, shape=64):
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    out = device.empty(shape, np.uint32)
    device.launch(ptx.kernel(INIT.format(count=count) + body, variables=BAR), "k", (1,), (threads,), [out])
    return out


def refused(kind, body, match, **options):
    with pytest.raises(kind, match=match) as caught:
        run(body, **options)
    return caught.value


@pytest.mark.parametrize("seed", SEEDS)
def test_a_phase_ends_with_the_last_arrival_and_orders_what_came_before(seed):
    """Each thread writes a word, arrives, waits, and reads its mirror's: three phases in turn."""
    body = "mov.u32 %r1, tile;\nshl.b32 %r2, %r0, 2;\nadd.u32 %r3, %r1, %r2;\nsub.u32 %r4, 252, %r2;\nadd.u32 %r4, %r1, %r4;\nmov.u32 %r8, 0;\n"
    for phase in range(3):
        body += f"""
    add.u32 %r5, %r0, {100 * phase};
    st.shared.u32 [%r3], %r5;
    mbarrier.arrive.shared::cta.b64 _, [%r9];
    {WAIT.format(label=f"W{phase}", parity=phase % 2)}
    ld.shared.u32 %r6, [%r4];
    add.u32 %r8, %r8, %r6;
    bar.sync 0;"""
    out = run(body + STORE.format(value="%r8"), seed=seed).numpy()
    assert (out == 3 * (63 - np.arange(64)) + 300).all()


def test_without_the_wait_there_is_a_race():
    body = """
    mov.u32 %r1, tile;
    shl.b32 %r2, %r0, 2;
    add.u32 %r3, %r1, %r2;
    sub.u32 %r4, 252, %r2;
    add.u32 %r4, %r1, %r4;
    st.shared.u32 [%r3], %r0;
    mbarrier.arrive{sem}.shared::cta.b64 _, [%r9];
    {wait}
    ld.shared.u32 %r6, [%r4];"""
    wait = WAIT.format(label="W", parity=0)
    run(body.format(sem="", wait=wait))
    refused(hazards.RaceHazard, body.format(sem="", wait=""), "a race")
    refused(hazards.RaceHazard, body.format(sem=".relaxed.cta", wait=wait), "a race")


def test_states_and_pending_counts():
    """The state that an arrival returns: how many were still to come, and a token to wait with."""
    body = """
    mbarrier.arrive.shared::cta.b64 %d1, [%r9];
    mbarrier.pending_count.b64 %r1, %d1;
W:  mbarrier.try_wait.shared::cta.b64 %p1, [%r9], %d1;
    @!%p1 bra W;
    mbarrier.test_wait.shared::cta.b64 %p2, [%r9], %d1;
    selp.b32 %r2, 1000, 0, %p2;
    add.u32 %r1, %r1, %r2;
    """
    out = run(body + STORE.format(value="%r1")).numpy()
    assert sorted(out) == list(range(1001, 1065))


def test_counts_drops_and_announced_bytes():
    """One thread: an arrival for several, a drop that makes the next phase smaller, bytes announced and reported."""
    body = """
    setp.ne.u32 %p2, %r0, 0;
    @%p2 bra out;
    mbarrier.arrive.shared::cta.b64 _, [%r9], 3;
    mbarrier.arrive_drop.shared::cta.b64 _, [%r9];
    mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r9], 0;
    selp.b32 %r1, 1, 0, %p3;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], 48;
    mbarrier.arrive.noComplete.shared::cta.b64 _, [%r9], 1;
    mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r9], 16;
    mbarrier.arrive.shared::cta.b64 _, [%r9];
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r9], 32;
    mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r9], 1;
    selp.b32 %r2, 10, 0, %p3;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r9], 32;
    mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r9], 1;
    selp.b32 %r3, 100, 0, %p3;
    add.u32 %r1, %r1, %r2;
    add.u32 %r1, %r1, %r3;
    st.global.u32 [%d0], %r1;
out:"""
    assert run(body, count=4, shape=1).numpy() == 101


@pytest.mark.parametrize(
    ("body", "count", "match"),
    [
        ("mbarrier.arrive.shared::cta.b64 _, [%r9], 3;", 2, "3 arrivals"),
        ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], 16;\nmbarrier.arrive.shared::cta.b64 _, [%r9];", 1, "1 arrivals"),
        ("mbarrier.arrive.noComplete.shared::cta.b64 _, [%r9], 1;", 1, "must not complete"),
        ("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r9], 1048576;", 1, "more bytes than an mbarrier can count"),
        (
            "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r9], 16;\nmbarrier.arrive.shared::cta.b64 _, [%r9];",
            1,
            "16 more bytes",
        ),
        ("mbarrier.init.shared::cta.b64 [%r9], 1;", 1, "initialised again"),
        ("mbarrier.inval.shared::cta.b64 [%r9];\nmbarrier.arrive.shared::cta.b64 _, [%r9];", 1, "no mbarrier"),
        ("mov.u32 %r1, tile;\nmbarrier.init.shared::cta.b64 [%r1], 0;", 1, "for 0 arrivals"),
    ],
)
def test_what_does_not_add_up(body, count, match):
    refused(hazards.PhaseHazard, body, match, threads=1, count=count)


def test_inval_and_init_again():
    body = """
    mbarrier.inval.shared::cta.b64 [%r9];
    mbarrier.init.shared::cta.b64 [%r9], 1;
    mbarrier.arrive.shared::cta.b64 _, [%r9];
    mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r9], 0;
    selp.b32 %r1, 7, 0, %p1;
    st.global.u32 [%d0], %r1;"""
    assert run(body, threads=1, count=5, shape=1).numpy() == 7


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loop_around_try_wait_that_never_ends_is_found_and_explained(seed):
    body = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r9], 16;\nmbarrier.arrive.shared::cta.b64 _, [%r9];" + WAIT.format(
        label="W", parity=0
    )
    found = refused(
        hazards.DeadlockHazard,
        body,
        "phase 0 .parity 0.: 1 of 2 arrivals and 16 bytes outstanding",
        threads=1,
        count=2,
        seed=seed,
    )
    assert "mbarrier.try_wait" in found.place.instruction


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loop_around_test_wait_too(seed):
    body = WAIT.format(label="W", parity=0).replace("try_wait", "test_wait")
    refused(hazards.DeadlockHazard, body, "2 of 2 arrivals", threads=1, count=2, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peek_may_fail_and_work_goes_on(seed):
    """try_wait without a loop, by the thread that arrives only afterwards: it must give up, as the silicon does."""
    body = """
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r9], 0;
    selp.b32 %r1, 1, 0, %p1;
    mbarrier.arrive.shared::cta.b64 _, [%r9];
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r9], 0;
    selp.b32 %r2, 2, 0, %p1;
    add.u32 %r1, %r1, %r2;
    st.global.u32 [%d0], %r1;"""
    assert run(body, threads=1, count=1, shape=1, seed=seed).numpy() == 2


def test_the_phase_before_the_first_counts_as_over():
    run(WAIT.format(label="W", parity=1), threads=1, count=1)


def test_a_phase_that_ends_while_the_one_before_is_waited_for():
    """Warp 1 waits for phase 0; warp 0 alone ends two phases before it could look."""
    body = f"""
    setp.lt.u32 %p2, %r0, 32;
    @%p2 bra first;
    {WAIT.format(label="W", parity=0)}
    ret;
first: setp.ne.u32 %p3, %r0, 0;
    @%p3 ret;
    mbarrier.arrive.shared::cta.b64 _, [%r9];
    mbarrier.arrive.shared::cta.b64 _, [%r9];"""
    found = set()
    for seed in range(20):
        try:
            run(body, count=1, seed=seed)
        except (hazards.PhaseHazard, hazards.DeadlockHazard) as overtaken:  # or it looked when both were over
            found.add((type(overtaken), "ends before" in str(overtaken)))
    assert (hazards.PhaseHazard, True) in found and (hazards.PhaseHazard, False) not in found


@pytest.mark.parametrize("then", ["arrive.shared::cta.b64 _, [%r9]", "test_wait.parity.shared::cta.b64 %p1, [%r9], 0"])
def test_the_init_must_be_known(then):
    body = """
    mov.u32 %r9, bar;
    setp.ne.u32 %p9, %r0, 0;
    @%p9 bra made;
    mbarrier.init.shared::cta.b64 [%r9], 64;
made: mbarrier.{then};"""
    device = ptxsim.Device(bytes=16 << 20)
    with pytest.raises(hazards.RaceHazard, match="a race"):
        device.launch(ptx.kernel(body.format(then=then), variables=BAR), "k", (1,), (64,), [device.empty(1)])


def test_alignment_and_bounds():
    refused(hazards.MisalignedHazard, "mbarrier.arrive.shared::cta.b64 _, [%r9+4];", "multiple of 8", threads=1)
    refused(hazards.BoundsHazard, "mbarrier.arrive.shared::cta.b64 _, [%r9+8];", "outside every shared variable", threads=1)
    refused(hazards.BoundsHazard, "mbarrier.arrive.b64 %d1, [%d0];", "no address of shared memory", threads=1)


def test_generic_addresses():
    body = """
    cvt.u64.u32 %d1, %r9;
    cvta.shared.u64 %d1, %d1;
    mbarrier.arrive.b64 %d2, [%d1];
    mbarrier.test_wait.parity.b64 %p1, [%d1], 0;
    selp.b32 %r1, 7, 0, %p1;
    st.global.u32 [%d0], %r1;"""
    assert run(body, threads=1, count=1, shape=1).numpy() == 7


def test_forms_outside_the_table():
    for form in (
        "mbarrier.arrive.shared::cta.weird.b64 _, [%r9];",
        "mbarrier.frobnicate.shared::cta.b64 [%r9];",
        "fence.proxy.other;",
    ):
        with pytest.raises(hazards.UnknownOpcode):
            run(form, threads=1)
