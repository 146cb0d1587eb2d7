// How often each of 256 values comes: counted in shared memory, then added to the whole's counts.
#include "ptx.h"

KERNEL histogram(const uint8_t *x, int *counts, int n) {
  __shared__ int mine[256];
#if BUG != 1
  for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) mine[bin] = 0;
#endif
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    int bin = x[i];
#if BUG == 2
    mine[bin] = mine[bin] + 1;  // bug 2 RaceHazard
#elif BUG == 3
    atomicAdd(&mine[bin + 1], 1);  // bug 3 BoundsHazard
#else
    atomicAdd(&mine[bin], 1);  // bug 1 UninitialisedHazard; bug 5 RaceHazard
#endif
  }
#if BUG != 5
  __syncthreads();
#endif
  for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) {
    int count = mine[bin];  // bug 5 RaceHazard
#if BUG == 4
    counts[bin] += count;  // bug 4 RaceHazard
#else
    atomicAdd(&counts[bin], count);
#endif
  }
}
