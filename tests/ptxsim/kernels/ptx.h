// Inline PTX: one function per instruction, named after it, in the order of the ISA's chapters.
#pragma once
#include <cstdint>

#ifndef BUG
#define BUG 0  // which of its planted bugs a file is built with; 0: none
#endif
#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void

DEVICE uint32_t shared(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- cp.async: 16 bytes per thread, in groups

DEVICE void cp_async(void *to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared(to)), "l"(from) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory"); }

// ---- matrices of a warp

DEVICE void ldmatrix(uint32_t (&v)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(shared(row)) : "memory");
}
DEVICE void ldmatrix_trans(uint32_t (&v)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(v[0]), "=r"(v[1]) : "r"(shared(row)) : "memory");
}
DEVICE void stmatrix(void *row, uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               ::"r"(shared(row)), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- barriers of a part of the block

DEVICE void named_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
DEVICE void named_arrive(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

// ---- mbarrier

DEVICE void mbarrier_init(uint64_t *bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared(bar)), "r"(arrivals) : "memory");
}
DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(uint64_t *bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared(bar)) : "memory");
}
DEVICE void mbarrier_arrive_expect(uint64_t *bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared(bar)), "r"(bytes) : "memory");
}
DEVICE void mbarrier_arrive_at(uint64_t *bar, int rank) {
  asm volatile("{\n\t.reg .b32 there;\n\tmapa.shared::cluster.u32 there, %0, %1;\n\t"
               "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n\t}" ::"r"(shared(bar)), "r"(rank) : "memory");
}
// Waits for the end of the phase of that parity.
DEVICE void mbarrier_wait(uint64_t *bar, int parity) {
  asm volatile("{\n\t.reg .pred over;\n"
               "again:\n\tmbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n\t"
               "@over bra done;\n\tbra again;\n"
               "done:\n\t}" ::"r"(shared(bar)), "r"(parity) : "memory");
}
DEVICE bool mbarrier_test(uint64_t *bar, int parity) {
  int over;
  asm volatile("{\n\t.reg .pred over;\n\tmbarrier.test_wait.parity.shared::cta.b64 over, [%1], %2;\n\tselp.b32 %0, 1, 0, over;\n\t}"
               : "=r"(over) : "r"(shared(bar)), "r"(parity) : "memory");
  return over;
}

// ---- bulk copies, by the asynchronous proxy

DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

DEVICE void bulk_load(void *to, const void *from, int bytes, uint64_t *bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(shared(to)), "l"(from), "r"(bytes), "r"(shared(bar)) : "memory");
}
DEVICE void bulk_store(void *to, const void *from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared(from)), "r"(bytes) : "memory");
}
DEVICE void bulk_add_f32(void *to, const void *from, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;"
               ::"l"(to), "r"(shared(from)), "r"(bytes) : "memory");
}
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int left> DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(left) : "memory"); }
template <int left> DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(left) : "memory"); }

// ---- tensor copies: the map says which tensor, box and swizzle; coordinates are innermost first

struct alignas(64) TensorMap { uint64_t opaque[16]; };
struct At { int x[5]; };

template <int rank> DEVICE void tma_load(void *to, const TensorMap &map, At at, uint64_t *bar) {
#define TMA_LOAD(dims, coordinates, ...)                                                                         \
  asm volatile("cp.async.bulk.tensor." dims ".shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {"  \
               coordinates "}], [%2];" ::"r"(shared(to)), "l"(&map), "r"(shared(bar)), __VA_ARGS__ : "memory")
  if constexpr (rank == 1) TMA_LOAD("1d", "%3", "r"(at.x[0]));
  if constexpr (rank == 2) TMA_LOAD("2d", "%3, %4", "r"(at.x[0]), "r"(at.x[1]));
  if constexpr (rank == 3) TMA_LOAD("3d", "%3, %4, %5", "r"(at.x[0]), "r"(at.x[1]), "r"(at.x[2]));
  if constexpr (rank == 4) TMA_LOAD("4d", "%3, %4, %5, %6", "r"(at.x[0]), "r"(at.x[1]), "r"(at.x[2]), "r"(at.x[3]));
  if constexpr (rank == 5)
    TMA_LOAD("5d", "%3, %4, %5, %6, %7", "r"(at.x[0]), "r"(at.x[1]), "r"(at.x[2]), "r"(at.x[3]), "r"(at.x[4]));
#undef TMA_LOAD
}
// To the same offset in every block of the mask, whose barriers at the same offset each count the bytes.
DEVICE void tma_multicast(void *to, const TensorMap &map, int x, int y, uint64_t *bar, uint16_t mask) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
               "[%0], [%1, {%3, %4}], [%2], %5;"
               ::"r"(shared(to)), "l"(&map), "r"(shared(bar)), "r"(x), "r"(y), "h"(mask) : "memory");
}
DEVICE void tma_store(const TensorMap &map, const void *from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
               ::"l"(&map), "r"(shared(from)), "r"(x), "r"(y) : "memory");
}
DEVICE void tma_add(const TensorMap &map, const void *from, int x, int y) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%2, %3}], [%1];"
               ::"l"(&map), "r"(shared(from)), "r"(x), "r"(y) : "memory");
}

// Where byte `i` of a box lies that was loaded with a swizzle of `span` bytes (0: none): bits 4.. are mixed with bits 7...
DEVICE int swizzled(int i, int span) { return span ? i ^ ((i >> 3) & (span - 16)) : i; }

// ---- wgmma: 64 rows by 64 columns by 32 bytes of depth, into fp32

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int left> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory"); }
// A matrix in shared memory: leading and stride offsets in bytes; swizzle span 0, 32, 64 or 128.
DEVICE uint64_t matrix(uint32_t address, int leading, int stride, int span) {
  uint64_t mode = span == 128 ? 1 : span == 64 ? 2 : span == 32 ? 3 : 0;
  return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | mode << 62;
}

#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D32 D4(0), D4(4), D4(8), D4(12), D4(16), D4(20), D4(24), D4(28)
#define D32_TEXT                                                                                    \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20," \
  " %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"

// The compiler must not move what it does with accumulators across this.
DEVICE void pin(float (&d)[32]) { asm volatile("" : D32::"memory"); }

// The last two say whether A and B lie MN-major.
template <int a_mn, int b_mn> DEVICE void wgmma_bf16(float (&d)[32], uint64_t a, uint64_t b, int add) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %34, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32_TEXT ", %32, %33, add, 1, 1, %35, %36;\n\t}"
               : D32 : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
}
template <int b_mn> DEVICE void wgmma_bf16(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %37, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32_TEXT
               ", {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n\t}"
               : D32 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
}
DEVICE void wgmma_e4m3(float (&d)[32], uint64_t a, uint64_t b, int add) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %34, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 " D32_TEXT ", %32, %33, add, 1, 1;\n\t}"
               : D32 : "l"(a), "l"(b), "r"(add));
}

// ---- clusters

DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE uint32_t mapa(const void *p, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared(p)), "r"(rank));
  return there;
}
DEVICE int load_at(uint32_t there) {
  int v;
  asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(v) : "r"(there) : "memory");
  return v;
}
DEVICE void add_at(uint32_t there, int v) {
  asm volatile("red.relaxed.cluster.shared::cluster.add.s32 [%0], %1;" ::"r"(there), "r"(v) : "memory");
}

// ---- warps and their roles

DEVICE bool elect() {
  int chosen;
  asm volatile("{\n\t.reg .pred chosen;\n\telect.sync _|chosen, 0xffffffff;\n\tselp.b32 %0, 1, 0, chosen;\n\t}" : "=r"(chosen));
  return chosen;
}
template <int registers> DEVICE void keep_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers)); }
template <int registers> DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers)); }
