// What threads compute leaves shared memory by the copy engine: tiles stored, tiles added, plain runs of bytes.
#include "ptx.h"

// y = 2 x + 1 over a matrix, a block to 32 rows, a tile of 32 x 32 at a time, through two buffers in turn. The map has
// boxes of 32 x 32 and a swizzle of 128 bytes; what sticks out is cut off by the copy engine. `adds`: y += 2 x + 1.
KERNEL store_tiles(const __grid_constant__ TensorMap map, const float *x, int rows, int columns, int adds) {
  __shared__ __align__(1024) float tiles[2][32 * 32];
  int t = threadIdx.x, i = blockIdx.x * 32;
  for (int j = 0, s = 0; j < columns; j += 32, s ^= 1) {
    if (t == 0) bulk_wait_read<BUG == 1 ? 2 : 1>();  // the buffer's last store has read it
#if BUG != 2
    __syncthreads();
#endif
    for (int k = t; k < 32 * 32; k += blockDim.x) {
      int r = i + k / 32, c = j + k % 32;
      float v = r < rows && c < columns ? x[r * columns + c] : 0;
      tiles[s][swizzled(k * 4, 128) / 4] = 2 * v + 1;  // bug 1 PendingHazard RaceHazard; bug 2 PendingHazard RaceHazard; bug 4 PendingHazard RaceHazard
    }
#if BUG != 3
    fence_proxy_async();
#endif
#if BUG != 4
    __syncthreads();
#endif
    if (t == 0) {
      if (adds)
        tma_add(map, tiles[s], j, i);
      else
        tma_store(map, tiles[s], j, i);  // bug 3 ProxyHazard; bug 4 RaceHazard UninitialisedHazard ProxyHazard
      bulk_commit();
    }
  }
  if (t == 0) bulk_wait_read<0>();
}

// y[i] = -x[i], and sum[i] += -x[i] for all blocks, by runs of 256 floats; x comes by bulk copies.
KERNEL bulk_runs(const float *x, float *y, float *sum) {
  __shared__ __align__(128) float in[256], out[256];
  __shared__ uint64_t full;
  int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(&full, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(&full, sizeof in);
    bulk_load(in, x + blockIdx.x * 256 + (BUG == 5), sizeof in, &full);  // bug 5 MisalignedHazard
  }
  __syncthreads();
  mbarrier_wait(&full, 0);
  out[t] = -in[t];
  fence_proxy_async();
  __syncthreads();
  if (t == 0) {
    bulk_store(y + blockIdx.x * 256, out, sizeof out + (BUG == 6 ? 16 : 0));  // bug 6 BoundsHazard UninitialisedHazard
    bulk_add_f32(sum, out, sizeof out);
    bulk_commit();
#if BUG == 7
    y[blockIdx.x * 256] += 1;  // bug 7 PendingHazard RaceHazard
#else
    bulk_wait<0>();
    y[blockIdx.x * 256] += 1;
#endif
  }
}
