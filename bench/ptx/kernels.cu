// What the PTX machine is timed with: a kernel that only moves and adds, one that mostly shuffles, and a GEMM by wgmma.
#include <cstdint>

#define KERNEL extern "C" __global__ void

KERNEL elementwise(float a, const float *x, float *y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i] + y[i];
}

// Sums of each warp's 32 values, over and over, so that all lanes hold what a whole reduction of the warp left.
KERNEL shuffles(const float *x, float *y, int rounds) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = x[i];
  for (int r = 0; r < rounds; r++) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    v *= 1.f / 32;
  }
  y[i] = v;
}

__device__ __forceinline__ uint32_t shared(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
// A K-major tile of rows of 128 bytes, swizzled.
__device__ __forceinline__ uint64_t matrix(uint32_t at) {
  return (uint64_t)(at >> 4 & 0x3fff) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

// C = A B^T in bf16: 128 threads to a tile of 64 x 64, 64 deep; A is m x k, B n x k, C m x n in fp32, all row-major.
KERNEL gemm(const uint4 *a, const uint4 *b, float *c, int n, int k) {
  __shared__ __align__(1024) uint8_t tiles[2][64 * 128];
  int t = threadIdx.x;
  a += blockIdx.y * 64 * k / 8, b += blockIdx.x * 64 * k / 8;
  float d[32];
#pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
#pragma unroll 1
  for (int at = 0; at < k / 8; at += 8) {
#pragma unroll
    for (int i = t; i < 64 * 8; i += 128) {
      int from = i / 8 * (k / 8) + at + i % 8, to = i * 16 ^ (i / 8 % 8) * 16;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared(tiles[0]) + to), "l"(a + from) : "memory");
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared(tiles[1]) + to), "l"(b + from) : "memory");
    }
    asm volatile("cp.async.wait_all;\n\tfence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int s = 0; s < 4; s++) {
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
      asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                   "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
                   "%23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
                   : D4(0), D4(4), D4(8), D4(12), D4(16), D4(20), D4(24), D4(28)
                   : "l"(matrix(shared(tiles[0]) + s * 32)), "l"(matrix(shared(tiles[1]) + s * 32)));
    }
    asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;"
                 : D4(0), D4(4), D4(8), D4(12), D4(16), D4(20), D4(24), D4(28)::"memory");
    __syncthreads();
  }
  c += (blockIdx.y * 64 + t / 32 * 16 + t % 32 / 4) * n + blockIdx.x * 64 + t % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; i += 2) *(float2 *)&c[i / 2 % 2 * 8 * n + i / 4 * 8] = {d[i], d[i + 1]};
}
