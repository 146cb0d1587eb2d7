// C = A B by wgmma: each warpgroup has 64 rows, all have the same 64 columns; tiles come by TMA, 128 bytes deep.
#include "ptx.h"

// Where the operands lie in shared memory. A tile is 64 x 128 bytes of depth (K-major) or, for 16-bit types, 64 deep x 128
// bytes of rows (MN-major). TMA's boxes are `span` bytes wide (16 without swizzle) and 64 long, one after the other.
template <int span, bool mn> struct Tile {
  static constexpr int width = span ? span : 16, boxes = 128 / width, box = 64 * width;
  // Of the k-th step of 32 bytes of depth.
  static DEVICE uint64_t step(const void *tile, int k) {
    uint32_t at = shared(tile);
    if (mn) {
      at += k * 16 * width;
      return span ? matrix(at, box, 8 * width, span) : matrix(at, 8 * width, box, span);
    }
    at += k * 32 / width * box + k * 32 % width;
    return matrix(at, box, 8 * width, span);
  }
  // Columns of the map are depth (K-major) or rows (MN-major), of `size` bytes each.
  static DEVICE void load(uint8_t *tile, const TensorMap &map, int row, int depth, int size, uint64_t *full) {
#pragma unroll 1
    for (int i = 0; i < boxes; i++) {
      int along = i * width / size;
      tma_load<2>(tile + i * box, map, mn ? At{row + along, depth} : At{depth + along, row}, full);
    }
  }
};

enum Type { bf16 = 2, e4m3 = 1 };  // bytes of an element
enum From { from_shared, from_registers };

// A fragment of A, 16 x 16 to a warp, out of a K-major tile: what wgmma takes from registers.
template <int span> DEVICE void fragment(uint32_t (&v)[4], const uint8_t *tile, int k) {
  using T = Tile<span, false>;
  int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, byte = k * 32 + threadIdx.x % 4 * 4;
  for (int i = 0; i < 4; i++) {
    int b = byte + i / 2 * 16, at = b / T::width * T::box + (row + i % 2 * 8) * T::width + b % T::width;
    v[i] = *(const uint32_t *)(tile + swizzled(at, span));
  }
}

// A is m x k, or k x m where it lies MN-major; so is B with n; c is m x n. blockDim.x: 128 for each 64 rows.
template <Type type, From from, int span, bool a_mn, bool b_mn>
DEVICE void multiply(const TensorMap &a, const TensorMap &b, float *c, int n, int k) {
  using A = Tile<span, a_mn>;
  using B = Tile<span, b_mn>;
  extern __shared__ __align__(1024) uint8_t tiles[];  // B's, then A's of each warpgroup
  __shared__ uint64_t full;
  constexpr int tile = 64 * 128, depth = 128 / type;
  int t = threadIdx.x, group = t / 128, groups = blockDim.x / 128;
  int row = (blockIdx.y * groups + group) * 64, column = blockIdx.x * 64;
  uint8_t *mine = tiles + tile * (1 + group);
  if (t == 0) {
    mbarrier_init(&full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();

  float d[32];
#pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
#pragma unroll 1
  for (int at = 0, phase = 0; at < k; at += depth, phase ^= BUG != 1) {
    if (t == 0) {
      mbarrier_arrive_expect(&full, tile * (1 + groups));
      B::load(tiles, b, column, at, type, &full);  // bug 4 PendingHazard RaceHazard
      for (int g = 0; g < groups; g++) A::load(tiles + tile * (1 + g), a, row + 64 * g, at, type, &full);  // bug 4 PendingHazard RaceHazard
    }
    mbarrier_wait(&full, phase);  // bug 1 PhaseHazard DeadlockHazard
    uint32_t fragments[4][4];
    if constexpr (from == from_registers)
      for (int s = 0; s < 4; s++) fragment<span>(fragments[s], mine, s);
    pin(d);
#if BUG != 2
    wgmma_fence();  // bug 1 DeadlockHazard
#endif
#pragma unroll
    for (int s = 0; s < 4; s++) {
      uint64_t right = B::step(tiles, s);
      if constexpr (type == e4m3)
        wgmma_e4m3(d, A::step(mine, s), right, 1);
      else if constexpr (from == from_shared)
        wgmma_bf16<a_mn, b_mn>(d, A::step(mine, s), right, 1);  // bug 1 PendingHazard; bug 2 PendingHazard
      else
        wgmma_bf16<b_mn>(d, fragments[s], right, 1);
    }
    wgmma_commit();
    pin(d);
#if BUG == 3
    d[31] += d[30];  // bug 3 PendingHazard
#elif BUG == 9
    if constexpr (from == from_registers) asm volatile("xor.b32 %0, %0, 1;" : "+r"(fragments[3][0]));  // bug 9 PendingHazard
#endif
    wgmma_wait<BUG == 4 ? 1 : 0>();
    pin(d);
    __syncthreads();  // the tiles were read
  }

  c += (row + t % 128 / 32 * 16 + t % 32 / 4) * n + column + t % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; i += 2)
    *(float2 *)&c[i / 2 % 2 * 8 * n + i / 4 * 8] = {d[i], d[i + 1]};  // bug 4 PendingHazard
}

#define WGMMA(name, ...)                                                                                           \
  KERNEL name(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float *c, int n, int k) { \
    multiply<__VA_ARGS__>(a, b, c, n, k);                                                                          \
  }
WGMMA(wgmma_128, bf16, from_shared, 128, false, false)
WGMMA(wgmma_registers, bf16, from_registers, 128, false, false)
#if BUG == 0
WGMMA(wgmma_64, bf16, from_shared, 64, false, false)
WGMMA(wgmma_32, bf16, from_shared, 32, false, false)
WGMMA(wgmma_0, bf16, from_shared, 0, false, false)
WGMMA(wgmma_b_mn_128, bf16, from_shared, 128, false, true)
WGMMA(wgmma_b_mn_64, bf16, from_shared, 64, false, true)
WGMMA(wgmma_a_mn_32, bf16, from_shared, 32, true, false)
WGMMA(wgmma_mn_0, bf16, from_shared, 0, true, true)
WGMMA(wgmma_registers_mn, bf16, from_registers, 64, false, true)
WGMMA(wgmma_e4m3_128, e4m3, from_shared, 128, false, false)
WGMMA(wgmma_e4m3_32, e4m3, from_shared, 32, false, false)
#endif

// One tile of 64 x 64 x 64 that threads copy into place themselves, K-major, in the swizzle of 128 bytes.
KERNEL wgmma_by_hand(const uint16_t *a, const uint16_t *b, float *c) {
  __shared__ __align__(1024) uint8_t left[64 * 128], right[64 * 128];
  int t = threadIdx.x;
  for (int i = t; i < 64 * 128 / 16; i += 128) {
    *(uint4 *)(left + swizzled(i * 16, BUG == 7 ? 64 : 128)) = ((const uint4 *)a)[i];  // bug 7 Numbers
    *(uint4 *)(right + swizzled(i * 16, 128)) = ((const uint4 *)b)[i];  // bug 6 RaceHazard
  }
#if BUG != 5
  fence_proxy_async();
#endif
#if BUG != 6
  __syncthreads();
#endif
  float d[32];
  wgmma_fence();
#pragma unroll
  for (int s = 0; s < 4; s++)
    wgmma_bf16<0, 0>(d, Tile<128, false>::step(left, s), Tile<128, false>::step(right, s), s > 0);  // bug 5 ProxyHazard; bug 6 RaceHazard UninitialisedHazard ProxyHazard
  wgmma_commit();
#if BUG != 8
  wgmma_wait<0>();
#endif
  pin(d);
  c += (t / 32 * 16 + t % 32 / 4) * 64 + t % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; i += 2) *(float2 *)&c[i / 2 % 2 * 8 * 64 + i / 4 * 8] = {d[i], d[i + 1]};  // bug 8 PendingHazard
}
