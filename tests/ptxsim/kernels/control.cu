// Paths that part and meet: loops, switches, calls, arrays of a thread's own, barriers of a part of the block.
#include "ptx.h"

KERNEL collatz(const int *x, int *steps, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], s = 0;
  while (v != 1) {
    v = v % 2 ? 3 * v + 1 : v / 2;
    if (++s == 100) break;
  }
  steps[i] = s;
}

// Sixteen small programs, chosen by a thread's own number: nvcc makes a table of branches of it.
KERNEL choose(const int *x, int *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], w = v;
  switch (v & 15) {
    case 0: w = v * v; break;
    case 1: w = v + y[i]; break;
    case 2: w = __clz(v); break;
    case 3: for (int k = 0; k < v % 7; k++) w ^= w << 3; break;
    case 4: w = __popc(v); break;
    case 5: w = v / 3; break;
    case 6: w = v % 5; break;
    case 7: w = -v; break;
    case 8: w = __brev(v); break;
    case 9: w = max(v, 77); break;
    case 10: w = v | 1;  // falls through
    case 11: w = w * 3; break;
    case 12: y[i] = w; return;
    default: w = 9;
  }
  y[i] = w + 1;
}

__device__ __noinline__ float polynomial(const float *c, int degree, float x) {
  float v = 0;
  for (int k = degree; k >= 0; k--) v = v * x + c[k];
  return v;
}
struct Range { float low, high; };
__device__ __noinline__ Range extremes(const float *v, int n) {
  Range r = {v[0], v[0]};
  for (int i = 1; i < n; i++) r.low = fminf(r.low, v[i]), r.high = fmaxf(r.high, v[i]);
  return r;
}

__constant__ float coefficients[4] = {1, -2, 0, 3};

// Each thread keeps its window in an array of its own, indexed at run time.
KERNEL windows(const float *x, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float window[8];
  for (int k = 0; k < 8; k++) window[(i + k) % (BUG == 7 ? 9 : 8)] = x[(i + k) % n];  // bug 7 BoundsHazard
#if BUG == 1
  float unset[8];
  unset[i % 8] = 1;
  window[0] += unset[(i + n) % 8];  // bug 1 UninitialisedHazard
#endif
  Range r = extremes(window, 8);
  y[i] = polynomial(coefficients, i % 4, x[i]) + r.high - r.low;
}

// The first half of the block sums, the second half takes the largest; each half meets at a barrier of its own.
KERNEL halves(const int *x, int *y) {
  extern __shared__ int moving[];
  __shared__ int result[2];
  int t = threadIdx.x, half = blockDim.x / 2, side = t / half, k = t % half;
  moving[t] = x[blockIdx.x * blockDim.x + t];
  for (int step = half / 2; step > 0; step /= 2) {
#if BUG == 2
    named_sync(1 + side, half + 32);  // bug 2 DeadlockHazard DivergenceHazard
#elif BUG == 3
    named_sync(1, half);  // bug 3 RaceHazard DeadlockHazard DivergenceHazard
#else
    named_sync(1 + side, half);
#endif
    if (k < step) {
      int a = moving[t], b = moving[t + step];  // bug 3 RaceHazard UninitialisedHazard
      moving[t] = side ? max(a, b) : a + b;  // bug 3 RaceHazard
    }
  }
  if (k == 0) result[side] = moving[t];
  __syncthreads();
  if (t < 2) y[2 * blockIdx.x + t] = result[t];
}

// One warp hands values to the others, which wait; it goes on at once.
KERNEL hand_over(const int *x, int *y) {
  __shared__ int values[32];
  int t = threadIdx.x, warp = t / 32, lane = t % 32;
  if (warp == 0) {
    values[lane] = x[lane];  // bug 4 RaceHazard
#if BUG != 4
    named_arrive(3, blockDim.x);
#endif
  } else {
#if BUG != 4
    named_sync(3, blockDim.x);
#endif
    y[t - 32] = values[lane] * warp;  // bug 4 RaceHazard UninitialisedHazard
  }
}

// Weighted sums of three neighbours, the block's share of which lies in shared memory.
KERNEL smooth(const int *x, int *y, int n) {
  __shared__ int line[130];
  int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  if (i < n) {
    line[t + 1] = x[i];
    if (t == 0) line[0] = i ? x[i - 1] : 0;
    if (t == blockDim.x - 1 || i == n - 1) line[t + 2] = i < n - 1 ? x[i + 1] : 0;
#if BUG == 5
    __syncthreads();  // bug 5 DivergenceHazard
    y[i] = line[t] + 2 * line[t + 1] + line[t + 2];
  } else {
    __syncthreads();  // bug 5 DivergenceHazard
  }
#else
  }
  __syncthreads();
  if (i < n) y[i] = line[t] + 2 * line[t + 1] + line[t + 2 + (BUG == 6)];  // bug 6 UninitialisedHazard BoundsHazard
#endif
}
