// Device functions that nvcc must call: parameters of every kind, structures with padding, loops around calls, early returns.
// With -DINLINED they are not called: the results are the same.
#ifdef INLINED
#define CALLED static __device__ __forceinline__
#else
#define CALLED static __device__ __noinline__
#endif

struct Padded {
  char letter;  // three bytes of padding behind it
  int number;
  double wide;
  short last[3];  // and two behind these
};

__constant__ float factors[4] = {1.5f, -2.0f, 3.25f};
__device__ int table[5] = {1, -2, 3};
__device__ double wide[2] = {1.0, 2e300};
__device__ unsigned scalar = 7;

CALLED int clamped(int x, int low, int high) {
  if (x < low) return low;
  if (x > high) return high;
  return x;
}

CALLED Padded made(int x) {
  Padded p;
  p.letter = static_cast<char>(x);
  p.number = clamped(3 * x, 5, 60);
  p.wide = 0.5 * x;
  for (int i = 0; i < 3; i++) p.last[i] = static_cast<short>(x * i);
  return p;
}

CALLED float summed(const float* from, int n, Padded p) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += clamped(static_cast<int>(from[i]), -4, 4) * p.last[i % 3];
  return sum + p.letter + p.number + static_cast<float>(p.wide);
}

CALLED long long mixed(char a, bool b, short c, long long d, unsigned char e) { return b ? a + c : d - e; }

CALLED float meeting(float x) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x;
  __syncthreads();
  float other = tile[threadIdx.x ^ 1];
  __syncthreads();
  return other;
}

CALLED float4 scaled(float4 v, float by) { return make_float4(v.x * by, v.y * by, v.z * by, v.w * by); }

extern "C" __global__ void __launch_bounds__(64) calls(float* out, const float* in, int n) {
  int t = threadIdx.x;
  Padded p = made(t);
  float y = summed(in + t, n, p);
  if (t % 3 == 0) y += mixed(t, t % 2, -t, 1000 + t, 200);
  y += meeting(y) + factors[t & 3] + table[t % 5] + scalar + (wide[t & 1] > 2 ? 1 : 0);
  float4 v = scaled(make_float4(y, 1, 2, 3), 0.5f);
  out[t] = v.x + v.y + v.z + v.w;
}

extern "C" __global__ void checked(int* out, int n) {
  if (n < 0) __assert_fail("n >= 0", "calls.cu", 1, "checked");
  out[threadIdx.x] = n;
}

CALLED int steps(int n) { return n < 2 ? 1 : steps(n / 2) + steps(n - 1 - n / 2); }

#ifndef INLINED
extern "C" __global__ void recurses(int* out) { out[0] = steps(out[1]); }

extern "C" __global__ void follows(int* out, int (*way)(int)) { out[0] = way(out[1]); }
#endif
