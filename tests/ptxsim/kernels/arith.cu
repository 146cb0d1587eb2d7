// Arithmetic of every width over strided loops, and vectors of every width.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "ptx.h"

KERNEL saxpy(float a, const float *x, float *y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n + (BUG == 1); i += gridDim.x * blockDim.x)
    y[i] = a * x[i] + y[i];  // bug 1 BoundsHazard
}

KERNEL saxpy_fours(float a, const float *x, float *y, int n) {
  int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  float4 p = *(const float4 *)(x + i + (BUG == 2));  // bug 2 MisalignedHazard
  float4 q = *(float4 *)(y + i);
  *(float4 *)(y + i) = {a * p.x + q.x, a * p.y + q.y, a * p.z + q.z, a * p.w + q.w};
}

KERNEL halves_of(const __half2 *x, const __half2 *y, __half2 *z, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) z[i] = __hmax2(__hfma2(x[i], y[i], x[i]), __hsub2(x[i], y[i]));
}

KERNEL brains_of(const __nv_bfloat162 *x, const __nv_bfloat162 *y, __nv_bfloat162 *z, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) z[i] = __hmin2(__hfma2(x[i], y[i], y[i]), __hmul2(x[i], y[i]));
}

KERNEL doubles_of(const double *x, const double *y, double *z, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) z[i] = sqrt(fabs(fma(x[i], y[i], 1.0))) / (1.0 + y[i] * y[i]);
}

// fp32 to fp16, bf16, e4m3 and back, and to integers of every width.
KERNEL converted(const float *x, __half *h, __nv_bfloat16 *b, __nv_fp8_e4m3 *e, int *n32, int8_t *n8, long long *n64, float *back, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  h[i] = __float2half_rn(x[i]);
  b[i] = __float2bfloat16_rn(x[i]);
  e[i] = __nv_fp8_e4m3(x[i]);
  n32[i] = __float2int_rn(x[i]);
  n8[i] = (int8_t)n32[i];
  n64[i] = __float2ll_rd(x[i] * 1e6f);
  back[i] = (float)h[i] + (float)b[i] + (float)e[i];
}

// Functions that the hardware approximates.
KERNEL approximated(const float *x, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  y[4 * i] = __expf(v);
  y[4 * i + 1] = rsqrtf(v * v + 1);
  y[4 * i + 2] = tanhf(v) / (1 + expf(-v));
  y[4 * i + 3] = __sinf(v) * log1pf(v * v);
}
