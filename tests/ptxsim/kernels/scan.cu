// Inclusive prefix sums of rows, a block to a row: by shuffles with a carry, and by Blelloch's two sweeps.
#include "ptx.h"

DEVICE int warp_scan(int v) {
  for (int step = 1; step < 32; step *= 2) {
    int before = __shfl_up_sync(~0u, v, step);
    if (threadIdx.x % 32 >= step) v += before;
  }
  return v;
}

KERNEL scan_rows(const int *x, int *y, int columns) {
  __shared__ int totals[32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, carry = 0;
  x += blockIdx.x * columns, y += blockIdx.x * columns;
  for (int at = 0; at < columns; at += blockDim.x) {
    int i = at + threadIdx.x;
    int v = warp_scan(i < columns ? x[i] : 0);
    if (lane == 31) totals[warp] = v;  // bug 1 RaceHazard; bug 2 RaceHazard
#if BUG != 1
    __syncthreads();
#endif
    int before = carry;
    for (int w = 0; w < blockDim.x / 32; w++) {
      int total = totals[w];  // bug 1 RaceHazard UninitialisedHazard; bug 2 RaceHazard
      carry += total;
      if (w < warp) before += total;
    }
    if (i < columns + (BUG == 3)) y[i] = before + v;  // bug 3 BoundsHazard RaceHazard
#if BUG != 2
    __syncthreads();  // the next round writes totals again
#endif
  }
}

// columns: twice the threads, a power of two.
KERNEL blelloch(const int *x, int *y, int columns) {
  extern __shared__ int tree[];
  int t = threadIdx.x;
  x += blockIdx.x * columns, y += blockIdx.x * columns;
  tree[2 * t] = x[2 * t], tree[2 * t + 1] = x[2 * t + 1];
  int step = 1;
  for (int pairs = columns / 2; pairs > 0; pairs /= 2, step *= 2) {
    __syncthreads();
    if (t < pairs) tree[step * (2 * t + 2) - 1] += tree[step * (2 * t + 1) - 1];  // bug 4 RaceHazard
  }
  __syncthreads();
  if (t == 0) tree[columns - 1] = 0;  // bug 4 RaceHazard
  for (int pairs = 1; pairs < columns; pairs *= 2) {
    step /= 2;
#if BUG == 4
    if (pairs != 4)
#endif
    __syncthreads();
    if (t < pairs) {
      int left = step * (2 * t + 1) - 1, right = step * (2 * t + 2) - 1;
      int before = tree[right];  // bug 4 RaceHazard
      tree[right] += tree[left];  // bug 4 RaceHazard
      tree[left] = before;  // bug 4 RaceHazard
    }
  }
  __syncthreads();
  y[2 * t] = tree[2 * t] + x[2 * t];
  y[2 * t + 1] = tree[2 * t + 1] + x[2 * t + 1];
}
