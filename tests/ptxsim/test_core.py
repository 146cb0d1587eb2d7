"""The machine itself: control flow, spaces, hazards with their places, and launches that cannot be."""

import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards
from treadle.errors import ArchError, ArgumentError, UnknownNameError

from . import ptx

SEEDS = range(4)
#: %d9 = the address of this thread's element of the array at %d0
MINE = "mul.wide.u32 %d8, %r0, 4;\nadd.u64 %d9, %d0, %d8;\n"
SHARED = ".shared .align 4 .b32 tile[64];"
#: %r9 = the address of this thread's element of `tile`
SLOT = "mov.u32 %r1, tile;\nshl.b32 %r2, %r0, 2;\nadd.u32 %r9, %r1, %r2;\n"


def run(module, *arrays, threads=64, grid=1, seed=0, **options):
    device = ptxsim.Device(bytes=16 << 20, seed=seed)
    held = [device.array(a) if isinstance(a, np.ndarray) else device.empty(a, np.uint32) for a in arrays]
    device.launch(module, "k", (grid,), (threads,), held, **options)
    return [h.numpy() for h in held]


def refused(kind, module, *arrays, **options):
    with pytest.raises(kind) as caught:
        run(module, *arrays, **options)
    return caught.value


@pytest.mark.parametrize("seed", SEEDS)
def test_paths_part_and_meet(seed):
    """Each thread loops as often as its index says, then all shuffle: lanes wait for each other whatever the order."""
    body = f"""{MINE}
    mov.u32 %r1, 0;
    mov.u32 %r2, 0;
L0: setp.ge.u32 %p1, %r1, %r0;
    @%p1 bra L1;
    add.u32 %r2, %r2, %r1;
    add.u32 %r1, %r1, 1;
    bra L0;
L1: shfl.sync.bfly.b32 %r3, %r2, 1, 31, 0xffffffff;
    st.global.u32 [%d9], %r3;"""
    (out,) = run(ptx.kernel(body), 64, seed=seed)
    i = np.arange(64) ^ 1
    assert (out == i * (i - 1) // 2).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_indexed_branches(seed):
    body = f"""{MINE}
    and.b32 %r1, %r0, 3;
T: .branchtargets A, B, C, D;
    brx.idx %r1, T;
A:  mov.u32 %r2, 10; bra E;
B:  mov.u32 %r2, 20; bra E;
C:  mov.u32 %r2, 30; bra E;
D:  mov.u32 %r2, 40;
E:  st.global.u32 [%d9], %r2;"""
    (out,) = run(ptx.kernel(body), 64, seed=seed)
    assert (out == np.array([10, 20, 30, 40])[np.arange(64) % 4]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier_orders_shared_memory(seed):
    body = f"{MINE}{SLOT}st.shared.u32 [%r9], %r0;\nbar.sync 0;\nxor.b32 %r3, %r2, 252;\nadd.u32 %r3, %r3, %r1;\n" \
           "ld.shared.u32 %r4, [%r3];\nst.global.u32 [%d9], %r4;"  # fmt: skip
    (out,) = run(ptx.kernel(body, variables=SHARED), 64, seed=seed)
    assert (out == np.arange(64)[::-1]).all()
    without = ptx.kernel(body.replace("bar.sync 0;\n", ""), variables=SHARED)
    found = refused((hazards.RaceHazard, hazards.UninitialisedHazard), without, 64, seed=seed)
    assert found.place.source == f"PTX line {ptx.line_of(without, 'ld.shared')}"


def test_one_warp_needs_a_sync_too():
    body = f"{MINE}{SLOT}st.shared.u32 [%r9], %r0;\nbar.warp.sync 0xffffffff;\nxor.b32 %r3, %r2, 4;\nadd.u32 %r3, %r3, %r1;\n" \
           "ld.shared.u32 %r4, [%r3];\nst.global.u32 [%d9], %r4;"  # fmt: skip
    (out,) = run(ptx.kernel(body, variables=SHARED), 32, threads=32)
    assert (out == np.arange(32) ^ 1).all()
    refused(hazards.RaceHazard, ptx.kernel(body.replace("bar.warp.sync 0xffffffff;\n", ""), variables=SHARED), 32, threads=32)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (f"{MINE}ld.global.u32 %r5, [%d9+4];", hazards.BoundsHazard, "256 bytes into one of 256 bytes"),
        (f"{MINE}ld.global.u32 %r5, [%d9+-4];", hazards.BoundsHazard, "outside every allocation"),
        (f"{MINE}ld.global.u32 %r5, [%d9+2];", hazards.MisalignedHazard, "no multiple of 4"),
        ("ld.global.v2.u32 {%r5, %r6}, [%d0+4];", hazards.MisalignedHazard, "no multiple of 8"),
        (f"{SLOT}ld.shared.u32 %r5, [%r9];", hazards.UninitialisedHazard, "bytes into tile"),
        (f"{SLOT}st.shared.u32 [%r9+4], %r0;", hazards.BoundsHazard, "256 bytes into tile, which has 256"),
        (f"{SLOT}st.shared.u32 [%r1], %r0;", hazards.RaceHazard, "a race: write"),
        ("st.global.u32 [%d0], %r0;", hazards.RaceHazard, "a race: write"),
        ("setp.eq.u32 %p1, %r0, 0;\nmov.u32 %r1, odd;\n@%p1 st.shared.v2.u32 [%r1+8], {%r0, %r0};", hazards.BoundsHazard, "into odd"),
        ("setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [odd+12], %r0;", hazards.BoundsHazard, "12 bytes into odd, which has 12"),
        ("setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [tile], %r0;\n@%p1 ld.shared.v2.u32 {%r5, %r6}, [tile];",
         hazards.UninitialisedHazard, "8 bytes"),
        ("ld.local.u32 %r5, [depot+4];", hazards.UninitialisedHazard, "local memory"),
        ("ld.local.u32 %r5, [depot+16];", hazards.BoundsHazard, "16 bytes into depot, which has 16"),
        ("setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [even+8], %r0;", hazards.BoundsHazard, "8 bytes into even, which has 8"),
        (f"{SLOT}setp.lt.u32 %p1, %r0, 63;\n@%p1 st.shared.u32 [%r9], %r0;\nbar.sync 0;\nld.shared.u32 %r5, [%r9];",
         hazards.UninitialisedHazard, "252 bytes into tile"),
        ("trap;", hazards.TrapHazard, "trap"),
        ("setp.eq.u32 %p1, %r0, 7;\n@%p1 bar.sync 0;", hazards.DeadlockHazard, "63 threads have left"),
        ("bar.arrive 1, 96;", hazards.DivergenceHazard, "ended with 64 of 96"),
        ("setp.lt.u32 %p1, %r0, 32;\n@%p1 bra L;\nbar.sync 0;\nL: bar.sync 1;", hazards.DeadlockHazard, "barrier 0 has 32 of 64"),
        ("setp.lt.u32 %p1, %r0, 7;\n@%p1 bra L;\nbar.sync 0;\nbra M;\nL: bar.sync 0;\nM:", hazards.DivergenceHazard, "one warp"),
        ("bar.sync 0, 40;", hazards.DivergenceHazard, "multiples of 32"),
        ("setp.lt.u32 %p1, %r0, 5;\n@%p1 ret;\nbar.sync 0;", hazards.DeadlockHazard, "5 threads have left"),
        ("and.b32 %r1, %r0, 1;\nsetp.eq.u32 %p1, %r1, 1;\n@%p1 shfl.sync.bfly.b32 %r3, %r0, 1, 31, 0xaaaaaaaa;",
         hazards.DivergenceHazard, "does not take part"),
        ("setp.lt.u32 %p1, %r0, 5;\n@%p1 shfl.sync.bfly.b32 %r3, %r0, 1, 31, 0xffff0000;", hazards.DivergenceHazard, "not among"),
        ("L: bra L;", hazards.DeadlockHazard, "no end"),
        ("ld.u32 %r5, [%d20];", hazards.BoundsHazard, "outside every allocation"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", SEEDS)
def test_hazards(seed, body, kind, says):
    module = ptx.kernel(
        f"mov.u64 %d20, 16;\n{body}",
        variables=".shared .align 8 .b8 even[8];\n.shared .align 8 .b8 odd[12];\n.shared .align 8 .b32 tile[64];\n.local .align 8 .b8 depot[16];",
    )
    found = refused(kind, module, np.zeros(64, np.uint32), seed=seed, budget=100_000)
    assert says in found.message
    assert found.place.kernel == "k" and found.place.cta == (0, 0, 0) and found.place.source.startswith("PTX line")


def test_uninitialised_global_memory_is_told_from_what_the_host_wrote():
    body = f"{MINE}ld.global.u32 %r5, [%d9];"
    run(ptx.kernel(body), np.zeros(64, np.uint32))
    assert "nobody wrote" in refused(hazards.UninitialisedHazard, ptx.kernel(body), 64).message


def test_generic_addresses_find_their_window():
    body = f"""{MINE}{SLOT}
    st.shared.u32 [%r9], %r0;
    cvt.u64.u32 %d10, %r9;
    cvta.shared.u64 %d11, %d10;
    and.b32 %r3, %r0, 1;
    setp.eq.u32 %p1, %r3, 0;
    selp.b64 %d12, %d11, %d9, %p1;
    ld.u32 %r4, [%d12];
    st.u32 [%d9], %r4;"""
    (out,) = run(ptx.kernel(body, variables=SHARED), np.full(64, 7, np.uint32))
    assert (out == np.where(np.arange(64) % 2, 7, np.arange(64))).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics_lose_nothing_and_plain_updates_race(seed):
    body = "atom.global.add.u32 %r5, [%d0], %r0;\nred.global.max.u32 [%d0+4], %r0;"
    (out,) = run(ptx.kernel(body), np.zeros(2, np.uint32), grid=3, seed=seed)
    assert out.tolist() == [3 * sum(range(64)), 63]
    refused(hazards.RaceHazard, ptx.kernel("ld.global.u32 %r5, [%d0];\nadd.u32 %r5, %r5, 1;\nst.global.u32 [%d0], %r5;"),
            np.zeros(1, np.uint32), threads=1, grid=2, seed=seed)  # fmt: skip


def test_a_published_write_is_no_race_and_an_unfenced_one_is():
    """CTA 0 writes, fences, raises a flag; CTA 1 adds to the flag, which orders it, and reads."""
    body = """mov.u32 %r1, %ctaid.x;
    setp.eq.u32 %p1, %r1, 0;
    @!%p1 bra L;
    st.global.u32 [%d0], 5;
    membar.gl;
L:  atom.global.add.u32 %r5, [%d0+4], 1;
    @%p1 ret;
    ld.global.u32 %r6, [%d0];
    st.global.u32 [%d0+8], %r6;"""
    (out,) = run(ptx.kernel(body), np.zeros(3, np.uint32), threads=1, grid=2)
    assert out.tolist() == [5, 2, 5]
    refused(hazards.RaceHazard, ptx.kernel(body.replace("membar.gl;", "")), np.zeros(3, np.uint32), threads=1, grid=2)


def test_reads_before_another_ctas_write_race_too():
    body = "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 ld.global.u32 %r5, [%d0];\n@!%p1 st.global.u32 [%d0], %r5;"
    refused(hazards.RaceHazard, ptx.kernel(body), np.zeros(1, np.uint32), threads=1, grid=2)


def test_a_cta_may_read_its_own_atomics():
    run(ptx.kernel("atom.global.add.u32 %r5, [%d0], 1;\nld.global.u32 %r6, [%d0];"), np.zeros(1, np.uint32), threads=1, grid=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("write", "read", "right"),
    [
        ("membar.cta;\nst.volatile.shared.u32 [tile+4], 1;", "ld.volatile.shared.u32", True),
        ("st.release.cta.shared.u32 [tile+4], 1;", "ld.acquire.cta.shared.u32", True),
        ("atom.release.cta.shared.exch.b32 %r8, [tile+4], 1;", "ld.acquire.cta.shared.u32", True),
        ("st.volatile.shared.u32 [tile+4], 1;", "ld.volatile.shared.u32", False),
    ],
)
def test_a_flag_between_warps(seed, write, read, right):
    """Warp 0 writes and raises a flag, warp 1 spins on it and reads: ordered where the write is released, else a race."""
    body = f"""setp.eq.u32 %p1, %r0, 0;
    @%p1 st.volatile.shared.u32 [tile+4], 0;
    bar.sync 0;
    setp.ge.u32 %p2, %r0, 32;
    @%p2 bra S;
    @!%p1 ret;
    st.shared.u32 [tile], 7;
    {write}
    ret;
S:  {read} %r5, [tile+4];
    setp.eq.u32 %p3, %r5, 0;
    @%p3 bra S;
    ld.shared.u32 %r6, [tile];
    {MINE}
    st.global.u32 [%d9], %r6;"""
    module = ptx.kernel(body, variables=SHARED)
    if right:
        (out,) = run(module, np.zeros(64, np.uint32), seed=seed)
        assert (out == np.repeat([0, 7], 32)).all()
    else:
        refused(hazards.RaceHazard, module, np.zeros(64, np.uint32), seed=seed)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [4, 16, 32])
def test_shuffles(mode, width):
    """Against the CUDA guide's words: within segments of `width`; from beyond one, a lane keeps its own value."""
    by = 3
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    body = f"{MINE}mul.lo.u32 %r3, %r0, 10;\nshfl.sync.{mode}.b32 %r4|%p1, %r3, {by}, {clamp}, 0xffffffff;\n" \
           "selp.u32 %r5, 1, 0, %p1;\nadd.u32 %r4, %r4, %r5;\nst.global.u32 [%d9], %r4;"  # fmt: skip
    (out,) = run(ptx.kernel(body), 32, threads=32)
    for lane in range(32):
        segment = lane // width * width
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": segment + by % width}[mode]
        inside = segment <= source < segment + width
        assert out[lane] == 10 * (source if inside else lane) + inside


def test_registers_are_packed_low_first_and_narrow_loads_are_extended():
    body = f"""{MINE}
    mov.b64 %d10, {{%r0, 5}};
    shr.u64 %d11, %d10, 32;
    cvt.u32.u64 %r1, %d11;
    mov.b64 {{%r2, %r3}}, %d10;
    sub.u32 %r4, %r2, %r3;
    add.u32 %r4, %r4, %r1;
    ld.global.s8 %r5, [%d0];
    ld.global.u8 %r6, [%d0];
    sub.u32 %r5, %r6, %r5;
    add.u32 %r4, %r4, %r5;
    bar.sync 0;
    st.global.u32 [%d9], %r4;"""
    (out,) = run(ptx.kernel(body), np.full(64, 0xFF, np.uint32))
    assert (out == np.arange(64) + 256).all()


def test_memory_that_is_allocated_again_is_unwritten():
    device = ptxsim.Device(bytes=16 << 20)
    held = device.array(np.zeros(64, np.uint32))
    held.free()
    device.memory.allocate(held.pointer, held.bytes)
    with pytest.raises(hazards.UninitialisedHazard):
        device.launch(ptx.kernel(f"{MINE}ld.global.u32 %r5, [%d9];"), "k", (1,), (64,), [held])


def test_processes_share_the_grid_and_what_they_find():
    body = (
        "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ntid.x;\nmad.lo.u32 %r0, %r1, %r2, %r0;\n" + MINE + "st.global.u32 [%d9], %r0;"
    )
    (out,) = run(ptx.kernel(body), 640, grid=10, jobs=2)
    assert (out == np.arange(640)).all()
    device = ptxsim.Device(bytes=16 << 20)
    counts = [device.launch(ptx.kernel(body), "k", (10,), (64,), [device.empty(640)], jobs=jobs) for jobs in (1, 2, 3)]
    assert len(set(counts)) == 1
    found = refused(hazards.BoundsHazard, ptx.kernel(body), 639, grid=10, jobs=2)
    assert (found.place.cta, found.place.thread) == ((9, 0, 0), (63, 0, 0)) and found.address is not None


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"grid": (0,)}, ArgumentError),
        ({"grid": (1, 70000)}, ArgumentError),
        ({"block": (1025,)}, ArgumentError),
        ({"block": (64, 32)}, ArgumentError),
        ({"shared": 300_000}, ArgumentError),
        ({"cluster": (2, 1, 1)}, ArgumentError),
        ({"args": []}, ArgumentError),
        ({"args": [np.int32(3)]}, ArgumentError),
        ({"args": ["x"]}, ArgumentError),
        ({"kernel": "other"}, UnknownNameError),
    ],
)
def test_launches_that_cannot_be(change, kind):
    device = ptxsim.Device(bytes=16 << 20)
    call = {"kernel": "k", "grid": (1,), "block": (32,), "args": [device.empty(4)]} | change
    with pytest.raises(kind) as caught:
        device.launch(ptx.kernel(""), **call)
    assert caught.value.given is not None and caught.value.expected is not None


def test_code_for_another_architecture():
    module = ptx.kernel("")
    with pytest.raises(ArchError):
        ptxsim.Device(arch="sm_80", bytes=16 << 20).launch(module, "k", (1,), (32,), [])


def test_unknown_opcodes_are_refused_with_their_line():
    with pytest.raises(hazards.UnknownOpcode, match=r"PTX line \d+.*tensormap.fancy"):
        run(ptx.kernel("tensormap.fancy.b32 %r1, %r2;"), 4)


def test_device_memory_that_was_freed_is_nobodys():
    device = ptxsim.Device(bytes=16 << 20)
    held = device.array(np.zeros(64, np.uint32))
    held.free()
    with pytest.raises(hazards.BoundsHazard):
        device.launch(ptx.kernel(f"{MINE}ld.global.u32 %r5, [%d9];"), "k", (1,), (64,), [held])
