// Inline assembly as it is written by hand, and variables with initial values: for the parser, never run.
#include <cstdint>

__constant__ float factors[4] = {1.5f, -2.0f, 3.25f};
__device__ int table[5] = {1, -2, 3};
__device__ double wide[2] = {1.0, 2e300};
__device__ unsigned scalar = 7;
__device__ char words[] = "hello // world";
extern __shared__ float dynamic[];

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128, 2) pieces(int* p, float* d) {
  uint64_t desc = reinterpret_cast<uint64_t>(p);
  uint32_t ok = static_cast<uint32_t>(desc);
#pragma unroll 1
  for (int i = 0; i < ok; i++) {
    asm volatile(
        "{\n\t.reg .pred P1;\n\tLAB_WAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n\t@P1 bra DONE;\n\t"
        "bra LAB_WAIT;\n\tDONE:\n\t}" ::"r"(ok), "r"(0));
    asm volatile(
        "{\n\t.reg .pred P1;\n\tLAB_WAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 P1, [%0 + 8], %1;\n\t@P1 bra DONE;\n\t"
        "bra LAB_WAIT;\n\tDONE:\n\t}" ::"r"(ok), "r"(0));
  }
  asm volatile(
      "{ .reg .pred p; .reg .b32 r<3>; elect.sync _|p, 0xffffffff; @!p mov.u32 %0, 1; @p mov.b32 %0, WARP_SZ;\n"
      "{ .reg .b64 t; mov.b64 {r1, r2}, %1; add.u32 %0, r1, r2; } }"
      : "=r"(ok)
      : "l"(desc));
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(ok),
      "l"(p), "r"(1), "r"(2), "r"(3)
      : "memory");
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %3, %3}], "
      "[%4], {%5, %5};" ::"r"(ok),
      "l"(p), "r"(1), "r"(2), "r"(3), "h"(static_cast<short>(1))
      : "memory");
  asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%0, {%1}], [%2];" ::"l"(p), "r"(1), "r"(3) : "memory");
  float a[4] = {d[0], d[1], d[2], d[3]};
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, "
      "p, 1, 1, 0, 0; }"
      : "+f"(a[0]), "+f"(a[1]), "+f"(a[2]), "+f"(a[3])
      : "l"(desc), "l"(desc), "r"(ok));
  asm volatile("wgmma.commit_group.sync.aligned;\n wgmma.wait_group.sync.aligned 0;" ::: "memory");
  asm volatile("{ .reg .b128 q; mov.b128 q, {%0, %0}; st.global.b128 [%1], q; }" ::"l"(desc), "l"(p));
  asm volatile(
      "{ .reg .pred p, q; setp.lt.and.s32 p|q, %0, 3, !p; selp.b32 %0, 1, 0, p;\n"
      "shfl.sync.idx.b32 %0|p, %0, 0, 0x1f, -1; // bar.sync\n /* trap; */ }"
      : "+r"(ok));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 128;" ::"r"(ok));
  asm volatile("st.global.v4.f32 [%0+16], {%1, %2, %3, 0f3F800000};" ::"l"(p), "f"(a[0]), "f"(a[1]), "f"(a[2]));
  asm volatile("add.f32 %0, %0, 1.5; fma.rn.f32 %0, %0, -2.0e1, 0F7f800000;" : "+f"(a[3]));
  asm volatile("add.s32 %0, %0, (1<<4)|3*-2; add.u32 %0, %0, 07U; add.u32 %0, %0, 0b101;" : "+r"(ok));
  asm volatile("fence.proxy.async.shared::cta; griddepcontrol.wait; membar.gl; bar.sync 1, 64;" ::: "memory");
  p[1] = ok + table[ok] + scalar + words[ok];
  d[0] = a[0] + a[1] + a[2] + a[3] + factors[ok] + static_cast<float>(wide[ok]) + dynamic[ok];
}
