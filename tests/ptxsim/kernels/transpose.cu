// A matrix turned over its diagonal through a padded tile.
#include "ptx.h"

// blocks of 32 x 8 threads
KERNEL transpose(const float *x, float *y, int rows, int columns) {
  __shared__ float tile[32][33];
  int i = blockIdx.y * 32, j = blockIdx.x * 32, lane = threadIdx.x;
  for (int r = threadIdx.y; r < 32; r += 8)
#if BUG == 2
    if (i + r < rows)
#else
    if (i + r < rows && j + lane < columns)
#endif
      tile[r][lane] = x[(i + r) * columns + j + lane];  // bug 1 RaceHazard; bug 2 BoundsHazard
#if BUG != 1
  __syncthreads();
#endif
  for (int r = threadIdx.y; r < 32; r += 8)
#if BUG == 3
    if (j + r < columns)
#else
    if (j + r < columns && i + lane < rows)
#endif
      y[(j + r) * rows + i + lane] =
          tile[lane][r];  // bug 1 RaceHazard UninitialisedHazard; bug 3 UninitialisedHazard
}

// The same in fours, for sides that are multiples of 32; blocks of 8 x 32 threads.
KERNEL transpose_fours(const float *x, float *y, int rows, int columns) {
  constexpr int pitch = BUG == 4 ? 33 : 36;  // a row of 33 floats does not keep 16 bytes' alignment
  __shared__ alignas(16) float tile[32 * pitch];
  int i = blockIdx.y * 32, j = blockIdx.x * 32, four = threadIdx.x * 4, r = threadIdx.y;
  float4 v = *(const float4 *)&x[(i + r) * columns + j + four];
  *(float4 *)&tile[r * pitch + four] = v;  // bug 4 MisalignedHazard
  __syncthreads();
  float4 w = {tile[four * pitch + r], tile[(four + 1) * pitch + r], tile[(four + 2) * pitch + r], tile[(four + 3) * pitch + r]};
  *(float4 *)&y[(j + r) * rows + i + four] = w;
}
