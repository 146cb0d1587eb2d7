"""Tensor copies: boxes in and out of shared memory against a walk over their elements, and what may not be."""

import itertools

import numpy as np
import pytest

from treadle.codegen import ptxsim
from treadle.codegen.ptxsim import hazards, tensor_map
from treadle.codegen.ptxsim.device import Device

HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"
SEEDS = range(3)


def kernel(body, rank, coordinates):
    """A kernel of a map, a pointer and fixed coordinates; the box lies at `tile`, thread 0 acts, all know of the mbarrier."""
    at = ", ".join(str(c) for c in coordinates)
    text = f"""{HEAD}
.visible .entry k(.param .align 64 .b8 map[128], .param .u64 pointer)
{{
    .reg .pred %p<4>;
    .reg .b32 %r<20>;
    .reg .b64 %d<10>;
    .shared .align 1024 .b8 tile[16384];
    .shared .align 8 .b64 bar;
    mov.b64 %d2, map;
    cvta.param.u64 %d1, %d2;
    ld.param.u64 %d0, [pointer];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, tile;
    mov.u32 %r9, bar;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra made;
    mbarrier.init.shared::cta.b64 [%r9], 1;
    fence.mbarrier_init.release.cluster;
made: bar.sync 0;
{body.replace("BOX", f"[%d1, {{{at}}}]").replace("RANK", f"{rank}d")}
    ret;
}}
"""
    return ptxsim.load(text, "tensor")


LOAD = """
    @%p0 bra asked;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], {bytes};
    cp.async.bulk.tensor.RANK.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], BOX, [%r9];
asked: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r9], 0;
    @!%p1 bra asked;
"""
#: every thread copies words t, t + 64, ... of {bytes} bytes between the tile and the array
WALK = """
    shl.b32 %r2, %r0, 2;
L{n}: setp.ge.u32 %p2, %r2, {bytes};
    @%p2 bra E{n};
    add.u32 %r3, %r1, %r2;
    cvt.u64.u32 %d3, %r2;
    add.u64 %d4, %d0, %d3;
    {move}
    add.u32 %r2, %r2, 256;
    bra L{n};
E{n}:
"""
OUT = WALK.replace("{move}", "ld.shared.u32 %r4, [%r3];\n    st.global.u32 [%d4], %r4;")
IN = WALK.replace("{move}", "ld.global.u32 %r4, [%d4];\n    st.shared.u32 [%r3], %r4;")
SENT = """
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%p0 ret;
    {copy}
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
"""


def box_places(array, box, at, steps=None):
    """For every element of the box, innermost first: its index in the array, or None outside."""
    steps = steps or (1,) * len(box)
    counts = [box[0]] + [-(-b // s) for b, s in zip(box[1:], steps[1:], strict=True)]
    for index in itertools.product(*(range(c) for c in reversed(counts))):
        where = [a + i * (1 if d == 0 else steps[d]) for d, (a, i) in enumerate(zip(at, index[::-1], strict=True))]
        inside = all(0 <= w < n for w, n in zip(where, array.shape[::-1], strict=True))
        yield tuple(where[::-1]) if inside else None


def encode(device, array, box, **options):
    held = device.array(array)
    type_ = {"u1": "u8", "u2": "u16", "u4": "u32", "i4": "s32", "f4": "f32", "u8": "u64"}[array.dtype.str[1:]]
    return held, tensor_map.encode(type_, held.pointer, array.shape[::-1], array.strides[-2::-1], box, **options)


def swizzled(byte, span):
    """By rows of 128 bytes: the chunk moves by its row, by half of it, by a quarter."""
    row, chunk, rest = byte // 128, byte % 128 // 16, byte % 16
    return row * 128 + (chunk ^ row % {16: 1, 32: 2, 64: 4, 128: 8}[span]) * 16 + rest


CASES = [
    ((40,), (16,), (4,), np.uint32),
    ((40, 12), (8, 4), (36, 10), np.uint32),
    ((48, 12), (16, 9), (-3, -2), np.uint16),
    ((16, 5, 6), (8, 2, 5), (4, 1, 3), np.uint32),
    ((16, 3, 4, 3), (8, 2, 2, 2), (-1, 2, 3, 1), np.uint16),
    ((16, 3, 2, 3, 2), (16, 2, 2, 2, 2), (5, 1, 1, 2, 1), np.uint8),
    ((8, 2), (4, 2), (100, 0), np.uint32),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_loads(case, seed):
    dims, box, at, dtype = case
    array = np.random.default_rng(1).integers(1, 200, dims[::-1]).astype(dtype)
    device = Device(bytes=16 << 20, seed=seed)
    _, raw = encode(device, array, box)
    bytes_ = int(np.prod(box)) * array.itemsize
    out = device.empty(bytes_, np.uint8)
    body = LOAD.format(bytes=bytes_) + OUT.format(n=0, bytes=bytes_)
    device.launch(kernel(body, len(dims), at), "k", (1,), (64,), [raw, out])
    want = [0 if p is None else array[p] for p in box_places(array, box, at)]
    assert (out.numpy().view(dtype) == np.array(want, dtype)).all()


@pytest.mark.parametrize("span", [32, 64, 128])
def test_loads_are_swizzled(span):
    array = np.random.default_rng(2).integers(0, 255, (40, 256)).astype(np.uint8)
    device = Device(bytes=16 << 20)
    _, raw = encode(device, array, (span, 32), span=span)
    bytes_ = span * 32
    out = device.empty(bytes_, np.uint8)
    device.launch(kernel(LOAD.format(bytes=bytes_) + OUT.format(n=0, bytes=bytes_), 2, (span, 7)), "k", (1,), (64,), [raw, out])
    got, plain = out.numpy(), array[7:39, span : 2 * span].ravel()
    assert all(got[swizzled(i, span)] == plain[i] for i in range(bytes_))


def test_element_strides_and_nan():
    array = np.random.default_rng(2).normal(size=(20, 16)).astype(np.float32)
    device = Device(bytes=16 << 20)
    _, raw = encode(device, array, (8, 9), element_strides=(1, 4), nan_fill=True)
    bytes_ = 8 * 3 * 4
    out = device.empty(bytes_, np.uint8)
    device.launch(kernel(LOAD.format(bytes=bytes_) + OUT.format(n=0, bytes=bytes_), 2, (12, 13)), "k", (1,), (64,), [raw, out])
    got = out.numpy().view(np.float32).reshape(3, 8)
    assert (got[:2, :4] == array[[13, 17], 12:]).all() and np.isnan(got[:, 4:]).all() and np.isnan(got[2]).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operation", [None, "add", "max", "xor"])
def test_stores_and_reductions_leave_the_outside_alone(case, seed, operation):
    dims, box, at, dtype = case
    if operation and np.dtype(dtype).itemsize < 4:
        dtype = np.uint32
    rng = np.random.default_rng(3)
    array, tile = rng.integers(1, 100, dims[::-1]).astype(dtype), rng.integers(1, 100, int(np.prod(box))).astype(dtype)
    device = Device(bytes=16 << 20, seed=seed)
    held, raw = encode(device, array, box)
    copy = "cp.async.bulk.tensor.RANK.global.shared::cta.bulk_group BOX, [%r1];"
    if operation:
        copy = f"cp.reduce.async.bulk.tensor.RANK.global.shared::cta.{operation}.bulk_group BOX, [%r1];"
    body = IN.format(n=0, bytes=tile.nbytes) + SENT.format(copy=copy)
    device.launch(kernel(body, len(dims), at), "k", (1,), (64,), [raw, device.array(tile)])
    fn = {None: lambda old, new: new, "add": np.add, "max": np.maximum, "xor": np.bitwise_xor}[operation]
    want = array.copy()
    for value, place in zip(tile, box_places(array, box, at), strict=True):
        if place is not None:
            want[place] = fn(want[place], value)
    assert (held.numpy() == want).all()


def test_a_round_trip_through_a_swizzle():
    """In by one map, out by another one with the same swizzle, no thread touching the tile."""
    array = np.random.default_rng(4).normal(size=(32, 64)).astype(np.float32)
    device = Device(bytes=16 << 20)
    _, raw = encode(device, array, (32, 16), span=128)
    body = (
        LOAD.format(bytes=2048) + "@%p0 ret;\ncp.async.bulk.tensor.RANK.global.shared::cta.bulk_group [%d0, {0, 0}], [%r1];\n"
    )
    body += "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n"
    target = device.array(np.zeros((16, 32), np.float32))
    second = device.array(
        np.frombuffer(tensor_map.encode("f32", target.pointer, (32, 16), (128,), (32, 16), span=128), np.uint8)
    )
    device.launch(kernel(body, 2, (16, 8)), "k", (1,), (64,), [raw, second])
    assert (target.numpy() == array[8:24, 16:48]).all()


def run_load(raw, at=(0, 0), change=("", ""), rank=2, bytes_=512):
    device = Device(bytes=16 << 20)
    body = LOAD.format(bytes=bytes_).replace(*change) if change[0] else LOAD.format(bytes=bytes_)
    device.launch(kernel(body, rank, at), "k", (1,), (64,), [raw(device), device.empty(16)])


def test_what_may_not_be():
    def good(device):
        return encode(device, np.zeros((8, 32), np.float32), (16, 8))[1]

    run_load(good)
    with pytest.raises(hazards.HazardError, match="rank 2 for a copy of rank 3"):
        run_load(good, (0, 0, 0), rank=3)
    with pytest.raises(hazards.HazardError, match="no tensor map"):
        run_load(lambda device: bytes(128))
    with pytest.raises(hazards.MisalignedHazard, match="no multiple of 128"):
        run_load(good, change=("[%r1], BOX", "[%r1+64], BOX"))
    with pytest.raises(hazards.BoundsHazard):
        run_load(good, change=("[%r1], BOX", "[%r1+16000], BOX".replace("16000", "16128")))
    with pytest.raises(hazards.UninitialisedHazard):
        run_load(lambda device: tensor_map.encode("f32", device.empty((8, 32)).pointer, (32, 8), (128,), (16, 8)))

    def beyond(device):
        held = device.array(np.zeros((4, 32), np.float32))
        return tensor_map.encode("f32", held.pointer, (32, 8), (128,), (16, 8))

    with pytest.raises(hazards.BoundsHazard):
        run_load(beyond)
