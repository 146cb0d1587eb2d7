// Blocks of a cluster that share: a histogram spread over them, a tile that one of them sends to all.
#include "ptx.h"

// As many blocks as the cluster has count the values of x; each keeps 256 / blocks of the bins.
KERNEL __cluster_dims__(2, 1, 1) cluster_histogram(const uint8_t *x, int *counts, int n) {
  __shared__ int mine[128];
  int t = threadIdx.x, rank = cluster_rank();
  mine[t] = 0;  // bug 1 RaceHazard
#if BUG != 1
  cluster_arrive();
  cluster_wait();
#endif
  for (int i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x) {
    int bin = x[i];
    add_at(mapa(&mine[bin % 128 + (BUG == 2)], bin / 128), 1);  // bug 1 RaceHazard UninitialisedHazard; bug 2 BoundsHazard; bug 3 RaceHazard
  }
#if BUG != 3
  cluster_arrive();
  cluster_wait();
#endif
  int count = mine[t];  // bug 3 RaceHazard
  atomicAdd(&counts[rank * 128 + t], count);
}

// The blocks of a cluster hold one value each and add all of them by reading each other's; nobody leaves before all have read.
KERNEL cluster_sum(const int *x, int *y) {
  __shared__ int value;
  int rank = cluster_rank();
  if (threadIdx.x == 0) value = x[blockIdx.x];  // bug 4 RaceHazard
#if BUG != 4
  cluster_arrive();
  cluster_wait();
#endif
  if (threadIdx.x == 0) {
    int sum = 0, blocks = 0;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    for (int k = 0; k < blocks; k++) sum += load_at(mapa(&value, (rank + k) % blocks));  // bug 4 RaceHazard UninitialisedHazard; bug 5 BoundsHazard
    y[blockIdx.x] = sum;
  }
#if BUG != 5
  cluster_arrive();
  cluster_wait();
#endif
}

// Two blocks fetch half of each tile and send it to both: every block writes out whole tiles. Boxes of 32 columns by 8
// rows; a tile has 16 rows. A block tells the other when its stage may be filled again.
KERNEL __cluster_dims__(2, 1, 1) multicast(const __grid_constant__ TensorMap map, float *y, int tiles) {
  __shared__ __align__(1024) float tile[16 * 32];
  __shared__ uint64_t full, empty;
  int t = threadIdx.x, rank = cluster_rank();
  constexpr int bytes = BUG == 6 ? sizeof tile / 2 : sizeof tile;
  if (t == 0) {
    mbarrier_init(&full, 1);
    mbarrier_init(&empty, 2);
    mbarrier_init_fence();
  }
#if BUG == 7
  __syncthreads();
#else
  cluster_arrive();
  cluster_wait();
#endif
  for (int i = 0; i < tiles; i++) {
    if (t == 0) {
#if BUG != 8
      if (i > 0) mbarrier_wait(&empty, (i - 1) % 2);  // bug 9 DeadlockHazard
#endif
      mbarrier_arrive_expect(&full, bytes);  // bug 6 PhaseHazard
      tma_multicast(tile + rank * 8 * 32, map, 0, i * 16 + rank * 8, &full, 3);  // bug 6 PhaseHazard; bug 7 RaceHazard UninitialisedHazard PhaseHazard ProxyHazard; bug 8 RaceHazard PendingHazard PhaseHazard
    }
    mbarrier_wait(&full, i % 2);  // bug 6 PhaseHazard; bug 8 PhaseHazard; bug 9 DeadlockHazard
    for (int k = t; k < 16 * 32; k += blockDim.x)
      y[(blockIdx.x * tiles + i) * 16 * 32 + k] = tile[k];  // bug 6 PendingHazard UninitialisedHazard; bug 8 RaceHazard PendingHazard
    __syncthreads();
    if (t < (BUG == 9 ? 1 : 2)) mbarrier_arrive_at(&empty, t);
  }
  cluster_arrive();
  cluster_wait();
}
