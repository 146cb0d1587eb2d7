// A persistent GEMM by roles, as fast Hopper kernels are built: one warp fetches by TMA into a ring of stages, two
// warpgroups multiply, each stores its half of the tile by TMA. C = A B^T in bf16, tiles of 128 x 64 by 64 deep.
#include <cuda_bf16.h>

#include "ptx.h"

constexpr int STAGES = 3, WORKERS = 2, M = 64 * WORKERS, N = 64, K = 64;
struct Shared {
  alignas(1024) uint8_t a[STAGES][M * K * 2], b[STAGES][N * K * 2];
  alignas(1024) uint8_t c[WORKERS][64 * N * 2];
  uint64_t full[STAGES], empty[STAGES];
};

// The place in the ring, and the parity of the stage's phase at this turn.
struct Place {
  int stage = 0, parity = 0;
  DEVICE void next(bool flips = true) {
    if (++stage == STAGES) stage = 0, parity ^= flips;
  }
};

DEVICE uint64_t operand(const uint8_t *tile, int k) { return matrix(shared(tile) + k * 32, 16, 1024, 128); }
DEVICE uint32_t pair(float low, float high) {
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *(uint32_t *)&v;
}

// 384 threads: warpgroup 0 fetches, 1 and 2 multiply. A is m x k, B n x k, C m x n; all maps have boxes of 64 x 64.
KERNEL __launch_bounds__(384, 1)
gemm_ws(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap c, int m, int n, int k) {
  extern __shared__ __align__(1024) uint8_t dynamic[];
  Shared &s = *(Shared *)dynamic;
  int t = threadIdx.x, group = t / 128, warp = t / 32, tiles = m / M * (n / N), steps = k / K;
  if (t == 0) {
    for (int i = 0; i < STAGES; i++) {
      mbarrier_init(&s.full[i], 1);
      mbarrier_init(&s.empty[i], WORKERS + (BUG == 1));
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  Place p;
  if (group == 0) {
    keep_registers<40>();
    if (warp == 0 && elect()) {
      p.parity = 1;  // the stages are empty at first: the phase before the first counts as over
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
#pragma unroll 1
        for (int i = 0; i < steps; i++, p.next()) {
          int row = tile / (n / N) * M, column = tile % (n / N) * N;
#if BUG != 2
          mbarrier_wait(&s.empty[p.stage], p.parity);  // bug 1 DeadlockHazard; bug 8 DeadlockHazard
#endif
          mbarrier_arrive_expect(&s.full[p.stage], BUG == 3 ? M * K * 2 : (M + N) * K * 2);  // bug 2 PhaseHazard; bug 3 PhaseHazard
          for (int g = 0; g < WORKERS; g++)
            tma_load<2>(s.a[p.stage] + g * 64 * K * 2, a, {i * K, row + g * 64}, &s.full[p.stage]);  // bug 2 PhaseHazard RaceHazard PendingHazard; bug 3 PhaseHazard; bug 4 RaceHazard PendingHazard; bug 5 RaceHazard PendingHazard; bug 8 RaceHazard PendingHazard
          tma_load<2>(s.b[p.stage], b, {i * K, column}, &s.full[p.stage]);  // bug 2 PhaseHazard RaceHazard PendingHazard; bug 3 PhaseHazard; bug 4 RaceHazard PendingHazard; bug 5 RaceHazard PendingHazard; bug 8 RaceHazard PendingHazard
        }
    }
  } else {
    take_registers<232>();
    int worker = group - 1, lane = t % 32;
    uint8_t *out = s.c[worker];
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      float d[32];
#pragma unroll 1
      for (int i = 0; i < steps; i++, p.next(BUG != 5)) {
        mbarrier_wait(&s.full[p.stage], p.parity);  // bug 1 DeadlockHazard; bug 3 PhaseHazard DeadlockHazard; bug 5 PhaseHazard DeadlockHazard; bug 8 DeadlockHazard
        pin(d);
        wgmma_fence();  // bug 5 DeadlockHazard; bug 8 DeadlockHazard
#pragma unroll
        for (int j = 0; j < K / 16; j++)
          wgmma_bf16<0, 0>(d, operand(s.a[p.stage] + worker * 64 * K * 2, j), operand(s.b[p.stage], j), i + j > 0);  // bug 3 PendingHazard; bug 5 PendingHazard
        wgmma_commit();
#if BUG == 4
        if (t % 128 == 0) mbarrier_arrive(&s.empty[p.stage]);  // bug 4 PendingHazard
        wgmma_wait<0>();
        pin(d);
#else
        wgmma_wait<0>();
        pin(d);
        if (t % 128 < (BUG == 8 ? 2 : 1)) mbarrier_arrive(&s.empty[p.stage]);  // bug 5 PhaseHazard; bug 8 PhaseHazard
#endif
      }
      if (t % 128 == 0) bulk_wait_read<0>();  // the tile before this one has left
      named_sync(1 + worker, 128);
      int row = t % 128 / 32 * 16 + lane % 16;
#pragma unroll
      for (int q = 0; q < 4; q++) {  // 16 columns at a time: two fragments of 8 beside each other
        uint32_t v[4] = {pair(d[8 * q], d[8 * q + 1]), pair(d[8 * q + 2], d[8 * q + 3]),
                         pair(d[8 * q + 4], d[8 * q + 5]), pair(d[8 * q + 6], d[8 * q + 7])};
        stmatrix(out + swizzled(row * 128 + q * 32 + lane / 16 * 16, 128), v);
      }
#if BUG != 6
      fence_proxy_async();
#endif
#if BUG == 7
      named_sync(1 + worker, 160);  // bug 7 DeadlockHazard DivergenceHazard
#else
      named_sync(1 + worker, 128);
#endif
      if (t % 128 == 0) {
        tma_store(c, out, tile % (n / N) * N, tile / (n / N) * M + worker * 64);  // bug 6 ProxyHazard
        bulk_commit();
      }
    }
    if (t % 128 == 0) bulk_wait<0>();
  }
}
