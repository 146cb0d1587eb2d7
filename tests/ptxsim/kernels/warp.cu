// What lanes of a warp tell each other: shared memory with __syncwarp, votes, matches, reductions, shuffles of parts.
#include "ptx.h"

// Each warp turns its 32 values round, twice through shared memory.
KERNEL reverse_warps(const int *x, int *y) {
  __shared__ int values[128];
  int t = threadIdx.x, lane = t % 32, other = t - lane + 31 - lane;
  values[t] = x[blockIdx.x * blockDim.x + t];  // bug 1 RaceHazard
#if BUG != 1
  __syncwarp();
#endif
  int v = values[other];  // bug 1 RaceHazard UninitialisedHazard; bug 2 RaceHazard
#if BUG != 2
  __syncwarp();
#endif
  values[t] = v + lane;  // bug 2 RaceHazard
  __syncwarp();
  y[blockIdx.x * blockDim.x + t] = values[t - lane + (lane + 1) % 32];
}

// y: five numbers of each thread.
KERNEL lanes(const int *x, int *y) {
  int t = threadIdx.x, lane = t % 32, v = x[t];
  unsigned odd = __ballot_sync(~0u, v & 1);
  y[5 * t] = odd;
  y[5 * t + 1] = __match_any_sync(~0u, v);
  y[5 * t + 2] = v & 1 ? __reduce_add_sync(odd, v) : __reduce_max_sync(~odd, v);  // the halves of a divergent warp
  y[5 * t + 3] = __shfl_down_sync(~0u, v, 3, 8) + 1000 * __shfl_sync(~0u, v, lane / 2, 16);
  y[5 * t + 4] = __all_sync(~0u, v < 8) + 2 * __any_sync(~0u, v == 5);
}

// A value for each lane that asks, from one counter: the lanes of a warp ask together.
KERNEL tickets(const int *x, int *taken, int *counter) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (x[t] % 3 == 0) {
    unsigned asking = __activemask();
    int first = __ffs(asking) - 1, lane = threadIdx.x % 32, base = 0;
    if (lane == first) base = atomicAdd(counter, __popc(asking));
    base = __shfl_sync(BUG == 3 ? ~0u : asking, base, first);  // bug 3 DivergenceHazard DeadlockHazard
    taken[base + __popc(asking & ((1u << lane) - 1))] = t;
  }
  __syncwarp();  // bug 3 DivergenceHazard DeadlockHazard
}
