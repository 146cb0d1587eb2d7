// Sums: by shuffles inside a warp, by shared memory between warps, by a counter between blocks.
#include "ptx.h"

DEVICE float warp_sum(float v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

// The block's sum, in its first warp.
DEVICE float block_sum_of(float v, float *partial) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  v = warp_sum(v);
  if (lane == 0) partial[warp] = v;  // bug 1 RaceHazard
#if BUG != 1
  __syncthreads();
#endif
#if BUG == 2
  warps += 1;
#endif
  if (warp > 0) return 0;
  v = lane < warps ? partial[lane] : 0;  // bug 1 RaceHazard UninitialisedHazard; bug 2 UninitialisedHazard
  return warp_sum(v);
}

KERNEL block_sums(const float *x, float *y, int n) {
  __shared__ float partial[32];
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n + (BUG == 3); i += gridDim.x * blockDim.x)
    v += x[i];  // bug 3 BoundsHazard
  v = block_sum_of(v, partial);
  if (threadIdx.x == 0) y[blockIdx.x] = v;
}

// The block that comes last adds what all have written: `arrived` starts at 0 and is left there.
KERNEL whole_sum(const float *x, float *partials, unsigned *arrived, float *y, int n) {
  __shared__ float partial[32];
  __shared__ bool last;
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  v = block_sum_of(v, partial);
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = v;  // bug 4 RaceHazard; bug 5 RaceHazard; bug 6 RaceHazard
#if BUG != 4
    __threadfence();
#endif
    last = atomicAdd(arrived, 1) == gridDim.x - 1;
#if BUG != 6
    __threadfence();
#endif
  }
  __syncthreads();
  if (BUG == 5 ? blockIdx.x != 0 : !last) return;  // the first says nothing of the others
  v = 0;
  for (int i = threadIdx.x; i < gridDim.x; i += blockDim.x)
    v += partials[i];  // bug 4 RaceHazard; bug 5 RaceHazard UninitialisedHazard; bug 6 RaceHazard
  v = block_sum_of(v, partial);
  if (threadIdx.x == 0) *y = v, *arrived = 0;
}
