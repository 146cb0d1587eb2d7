// Boxes of a tensor of 1 to 5 dimensions through a ring of stages: one thread asks for them, all copy what came, as plain bytes.
#include "ptx.h"

struct Boxes { int at[5], step[5], count[5]; };  // where the first starts, how far apart they lie, how many per dimension

constexpr int STAGES = 2;

// The box of number i; the first dimension runs fastest.
DEVICE At place(const Boxes &b, int i) {
  At at;
#pragma unroll
  for (int d = 0; d < 5; d++) at.x[d] = b.at[d] + i % b.count[d] * b.step[d], i /= b.count[d];
  return at;
}

// Box i is copied to y + i * bytes, without its swizzle of `span` bytes; block j takes boxes j, j + gridDim.x, ...
template <int rank>
DEVICE void copy_boxes(const TensorMap &map, const Boxes &boxes, uint8_t *y, int bytes, int span) {
  extern __shared__ __align__(1024) uint8_t ring[];
  __shared__ uint64_t full[STAGES];
  int t = threadIdx.x, total = 1;
  for (int d = 0; d < 5; d++) total *= boxes.count[d];
  int pitch = (bytes + 1023) / 1024 * 1024;
  if (t == 0) {
    for (int s = 0; s < STAGES; s++) mbarrier_init(&full[s], 1);
#if BUG != 1
    mbarrier_init_fence();
#endif
  }
#if BUG != 2
  __syncthreads();
#endif
  auto ask = [&](int i, int s) {
    mbarrier_arrive_expect(&full[s], bytes + (BUG == 3 ? 16 : BUG == 4 ? -16 : 0));  // bug 4 PhaseHazard
    tma_load<rank>(ring + s * pitch, map, place(boxes, i), &full[s]);  // bug 1 ProxyHazard; bug 4 PhaseHazard; bug 5 RaceHazard PendingHazard
  };
  if (t == 0)
    for (int s = 0; s < STAGES; s++)
      if (blockIdx.x + s * gridDim.x < total) ask(blockIdx.x + s * gridDim.x, s);
#pragma unroll 1
  for (int i = blockIdx.x, n = 0; i < total; i += gridDim.x, n++) {
    int s = n % STAGES;
#if BUG != 7
    mbarrier_wait(&full[s], BUG == 6 ? 0 : n / STAGES % 2);  // bug 2 RaceHazard UninitialisedHazard PhaseHazard; bug 3 DeadlockHazard; bug 6 PhaseHazard DeadlockHazard
#endif
#pragma unroll 1
    for (int k = t; k < bytes; k += blockDim.x) {
      int at = BUG == 8 ? k : swizzled(k, span);  // bug 8 Numbers
      y[(size_t)i * bytes + k] = ring[s * pitch + at];  // bug 4 PendingHazard; bug 5 RaceHazard PendingHazard; bug 6 PendingHazard RaceHazard; bug 7 PendingHazard UninitialisedHazard
    }
#if BUG != 5
    __syncthreads();
#endif
    int next = i + STAGES * gridDim.x;
    if (t == 0 && next < total) ask(next, s);
  }
}

KERNEL load_2d(const __grid_constant__ TensorMap m, Boxes b, uint8_t *y, int bytes, int span) { copy_boxes<2>(m, b, y, bytes, span); }
#if BUG == 0
KERNEL load_1d(const __grid_constant__ TensorMap m, Boxes b, uint8_t *y, int bytes, int span) { copy_boxes<1>(m, b, y, bytes, span); }
KERNEL load_3d(const __grid_constant__ TensorMap m, Boxes b, uint8_t *y, int bytes, int span) { copy_boxes<3>(m, b, y, bytes, span); }
KERNEL load_4d(const __grid_constant__ TensorMap m, Boxes b, uint8_t *y, int bytes, int span) { copy_boxes<4>(m, b, y, bytes, span); }
KERNEL load_5d(const __grid_constant__ TensorMap m, Boxes b, uint8_t *y, int bytes, int span) { copy_boxes<5>(m, b, y, bytes, span); }
#endif
