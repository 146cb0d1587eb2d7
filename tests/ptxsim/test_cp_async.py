"""cp.async: sizes, zero fill, groups per thread, and what may not be touched before the wait."""

import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards

from . import ptx

SEEDS = range(4)
TILE = ".shared .align 16 .b32 tile[512];\n.shared .align 8 .b64 bar;"
#: %d9: this thread's 16 bytes of the source at %d0; %r9: of `tile`; %d7: of the result at %d1
PLACES = """
    mul.wide.u32 %d8, %r0, 16;
    add.u64 %d9, %d0, %d8;
    add.u64 %d7, %d1, %d8;
    mov.u32 %r1, tile;
    shl.b32 %r2, %r0, 4;
    add.u32 %r9, %r1, %r2;
"""
OUT = "ld.shared.v4.u32 {{%r20, %r21, %r22, %r23}}, [{at}];\nst.global.v4.u32 [%d7], {{%r20, %r21, %r22, %r23}};\n"
COMMIT = "cp.async.commit_group;\n"


def run(body, source=None, threads=64, seed=0):
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    x = device.array(np.arange(4 * threads, dtype=np.uint32) + 1 if source is None else source)
    y = device.array(np.zeros(4 * threads, np.uint32))
    device.launch(ptx.kernel(PLACES + body, params=2, variables=TILE), "k", (1,), (threads,), [x, y])
    return y.numpy().reshape(threads, 4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wait", [COMMIT + "cp.async.wait_group 0;\n", "cp.async.wait_all;\n"])
def test_sixteen_bytes(seed, wait):
    out = run("cp.async.cg.shared.global [%r9], [%d9], 16;\n" + wait + OUT.format(at="%r9"), seed=seed)
    assert (out.ravel() == np.arange(256) + 1).all()


def test_small_pieces_fill_and_predicate():
    """4 bytes, 8 of which 4 are read, 4 that are ignored."""
    body = """
    setp.lt.u32 %p1, %r0, 32;
    cp.async.ca.shared.global [%r9], [%d9], 4;
    cp.async.ca.shared.global [%r9+8], [%d9+8], 8, 4;
    cp.async.ca.shared.global [%r9+4], [%d9+4], 4, %p1;
    cp.async.wait_all;
    """
    out = run(body + OUT.format(at="%r9"))
    x = np.arange(256).reshape(64, 4) + 1
    x[:, 3] = 0
    x[:32, 1] = 0
    assert (out == x).all()


def test_a_source_of_no_bytes_is_not_touched():
    body = "mov.u64 %d9, 0;\ncp.async.cg.shared.global [%r9], [%d9], 16, 0;\ncp.async.wait_all;\n"
    assert (run(body + OUT.format(at="%r9")) == 0).all()


def test_ragged_lengths_per_thread():
    body = "and.b32 %r3, %r0, 15;\ncp.async.cg.shared.global [%r9], [%d9], 16, %r3;\ncp.async.wait_all;\n"
    source = np.arange(1, 257, dtype=np.uint32) * 0x01020305
    out = run(body + OUT.format(at="%r9"), source).view(np.uint8)
    want = source.view(np.uint8).reshape(64, 16).copy()
    for t in range(64):
        want[t, t % 16 :] = 0
    assert (out == want).all()


@pytest.mark.parametrize(("left", "caught"), [(0, False), (1, False), (2, True)])
def test_groups_are_over_oldest_first(left, caught):
    """Two groups; the first is read. All but one must be over: two may leave both under way."""
    body = f"""
    cp.async.cg.shared.global [%r9], [%d9], 16;
    {COMMIT}
    cp.async.cg.shared.global [%r9+4096], [%d9], 16;
    {COMMIT}
    cp.async.wait_group {left};
    {OUT.format(at="%r9")}"""
    if caught:
        with pytest.raises(hazards.PendingHazard, match=r"without a wait for what cp.async"):
            run(body.replace("4096", "1024"))
    else:
        assert run(body.replace("4096", "1024")).any()


def test_what_was_not_committed_is_not_waited_for():
    with pytest.raises(hazards.PendingHazard):
        run("cp.async.cg.shared.global [%r9], [%d9], 16;\ncp.async.wait_group 0;\n" + OUT.format(at="%r9"))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wait_is_for_the_threads_own_copies(seed):
    """The mirror's 16 bytes: a barrier must follow the wait."""
    body = """
    cp.async.cg.shared.global [%r9], [%d9], 16;
    cp.async.wait_all;
    {barrier}
    sub.u32 %r3, 1008, %r2;
    add.u32 %r3, %r1, %r3;
    """ + OUT.format(at="%r3").replace("{", "{{").replace("}", "}}")
    out = run(body.format(barrier="bar.sync 0;"), seed=seed)
    assert (out == (np.arange(256).reshape(64, 4) + 1)[::-1]).all()
    with pytest.raises((hazards.PendingHazard, hazards.RaceHazard, hazards.UninitialisedHazard)):
        run(body.format(barrier=""), seed=seed)


def test_the_destination_may_not_be_written_meanwhile():
    with pytest.raises(hazards.PendingHazard):
        run("cp.async.cg.shared.global [%r9], [%d9], 16;\nst.shared.u32 [%r9], %r0;")


def test_nor_copied_to_while_it_is_read():
    """No barrier between reading a stage and filling it again."""
    body = """
    sub.u32 %r3, 1008, %r2;
    add.u32 %r3, %r1, %r3;
    st.shared.u32 [%r9], %r0;
    bar.sync 0;
    ld.shared.u32 %r5, [%r3];
    cp.async.cg.shared.global [%r9], [%d9], 16;"""
    with pytest.raises(hazards.RaceHazard):
        run(body)


@pytest.mark.parametrize("noinc", ["", ".noinc"])
@pytest.mark.parametrize("seed", SEEDS)
def test_copies_that_report_to_an_mbarrier(noinc, seed):
    body = f"""
    mov.u32 %r8, bar;
    setp.ne.u32 %p9, %r0, 0;
    @%p9 bra made;
    mbarrier.init.shared::cta.b64 [%r8], 64;
made: bar.sync 0;
    cp.async.cg.shared.global [%r9], [%d9], 16;
    cp.async.mbarrier.arrive{noinc}.shared.b64 [%r8];
    {"" if noinc else "mbarrier.arrive.shared::cta.b64 _, [%r8];"}
W:  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r8], 0;
    @!%p1 bra W;
    sub.u32 %r3, 1008, %r2;
    add.u32 %r3, %r1, %r3;
    {OUT.format(at="%r3")}"""
    assert (run(body, seed=seed) == (np.arange(256).reshape(64, 4) + 1)[::-1]).all()


@pytest.mark.parametrize(
    "form",
    [
        "cp.async.cg.shared.global [%r9], [%d9], 8;",
        "cp.async.ca.shared.global [%r9], [%d9], 32;",
        "cp.async.ca.global.global [%r9], [%d9], 16;",
    ],
)
def test_forms_outside_the_table(form):
    with pytest.raises(hazards.UnknownOpcode):
        run(form)


def test_bounds_alignment_and_uninitialised_sources():
    with pytest.raises(hazards.BoundsHazard):
        run("cp.async.cg.shared.global [%r9], [%d9+16384], 16;")
    with pytest.raises(hazards.MisalignedHazard):
        run("cp.async.cg.shared.global [%r9], [%d9+8], 16;")
    with pytest.raises(hazards.MisalignedHazard):
        run("cp.async.cg.shared.global [%r9+8], [%d9], 16;")
    with pytest.raises(hazards.BoundsHazard, match="20 bytes are read"):
        run("mov.u32 %r3, 20;\ncp.async.cg.shared.global [%r9], [%d9], 16, %r3;")
