// C = A B in bf16 by mma.sync: tiles of 64 x 64 by 32 deep come by cp.async into one buffer while the other is multiplied.
#include <cuda_bf16.h>

#include "ptx.h"

constexpr int M = 64, N = 64, K = 32;
struct Stage {
  __nv_bfloat16 a[M][K + 8], b[K][N + 8];  // padded: no two rows of an ldmatrix in the same banks
};

DEVICE void fetch(Stage &s, const __nv_bfloat16 *a, const __nv_bfloat16 *b, int n, int k) {
  for (int i = threadIdx.x; i < M * K / 8; i += 128) {
    int row = i / 4, column = i % 4 * 8;
    cp_async(&s.a[row][column], a + row * k + column);  // bug 2 PendingHazard RaceHazard; bug 3 PendingHazard RaceHazard
  }
  for (int i = threadIdx.x; i < K * N / 8; i += 128) {
    int row = i / 8, column = i % 8 * 8;
    cp_async(&s.b[row][column], b + row * n + column);  // bug 2 PendingHazard RaceHazard; bug 3 PendingHazard RaceHazard
  }
}

// 128 threads; n a multiple of 64, k of 32; A is m x k, B k x n, C m x n, all row-major.
KERNEL gemm_mma(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int n, int k) {
  __shared__ Stage stages[2];
  int lane = threadIdx.x % 32, row = threadIdx.x / 64 * 32, column = threadIdx.x / 32 % 2 * 32;
  a += blockIdx.y * M * k, b += blockIdx.x * N;
  float d[2][4][4] = {};

  fetch(stages[0], a, b, n, k);
  cp_async_commit();
  for (int at = 0, i = 0; at < k; at += K, i ^= 1) {
    if (at + K < k) fetch(stages[i ^ 1], a + at + K, b + (at + K) * n, n, k);
    cp_async_commit();  // an empty group at the end, so that the count below always holds
    cp_async_wait<BUG == 1 ? 2 : 1>();
#if BUG != 2
    __syncthreads();
#endif
#pragma unroll
    for (int step = 0; step < K; step += 16) {
      uint32_t p[2][4], q[4][2];
#pragma unroll
      for (int r = 0; r < 2; r++)
        ldmatrix(p[r], &stages[i].a[row + r * 16 + lane % 16][step + lane / 16 * 8]);  // bug 1 PendingHazard; bug 2 PendingHazard RaceHazard UninitialisedHazard; bug 3 RaceHazard PendingHazard
#pragma unroll
      for (int s = 0; s < 4; s++)
        ldmatrix_trans(q[s], &stages[i].b[step + lane % 16][column + s * 8]);  // bug 1 PendingHazard; bug 2 PendingHazard RaceHazard UninitialisedHazard; bug 3 RaceHazard PendingHazard
#pragma unroll
      for (int r = 0; r < 2; r++)
#pragma unroll
        for (int s = 0; s < 4; s++) mma_bf16(d[r][s], p[r], q[s]);
    }
#if BUG != 3
    __syncthreads();  // the next round fetches into what was read here
#endif
  }

  c += (blockIdx.y * M + row + lane / 4) * n + blockIdx.x * N + column + lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; r++)
#pragma unroll
    for (int s = 0; s < 4; s++) {
      *(float2 *)&c[r * 16 * n + s * 8] = {d[r][s][0], d[r][s][1]};
      *(float2 *)&c[(r * 16 + 8) * n + s * 8] = {d[r][s][2], d[r][s][3]};
    }
}
