// program CASE: what a CUDA program of one's own does on the stand-in. Prints what it found; test_standin.py reads it.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <vector>

#define CHECK(call)                                                                                        \
  if (const cudaError_t error = (call)) {                                                                  \
    std::printf("%s: %s: %s\n", #call, cudaGetErrorName(error), cudaGetErrorString(error));                \
  }

__global__ void add(float* y, const float* x, float value, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] + value;
}

// Without the check of `add`: bytes past the end are touched.
__global__ void add_unchecked(float* y, const float* x, float value) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i] + value;
}

__global__ void __launch_bounds__(64) few(float* y) { y[threadIdx.x] = 0; }

__global__ void ranks(int* y) {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (threadIdx.x == 0) y[blockIdx.x] = static_cast<int>(rank);
}

struct Three {
  int a;
  double b;
  char c;
};
__global__ void unpack(double* y, Three three) {
  if (threadIdx.x == 0) y[0] = three.a + three.b + three.c;
}

__global__ void forever(volatile int* y) {
  while (y[0] == 0) {
  }
}

constexpr int kN = 200;

struct Arrays {
  float *x, *y;
  std::vector<float> host = std::vector<float>(kN);

  explicit Arrays(bool written = true) {
    for (int i = 0; i < kN; ++i) host[i] = static_cast<float>(i);
    CHECK(cudaMalloc(&x, kN * 4));
    CHECK(cudaMalloc(&y, kN * 4));
    if (written) CHECK(cudaMemcpy(x, host.data(), kN * 4, cudaMemcpyHostToDevice));
  }
  void show() {
    CHECK(cudaMemcpy(host.data(), y, kN * 4, cudaMemcpyDeviceToHost));
    std::printf("%g %g\n", host[0], host[kN - 1]);
  }
};

static void launches() {
  Arrays a;
  add<<<2, 128>>>(a.y, a.x, 1.5f, kN);
  CHECK(cudaGetLastError());
  a.show();
  unpack<<<1, 32>>>(reinterpret_cast<double*>(a.y), Three{1, 2.5, 4});
  CHECK(cudaGetLastError());
  double sum;
  CHECK(cudaMemcpy(&sum, a.y, 8, cudaMemcpyDeviceToHost));
  std::printf("%g\n", sum);
  CHECK(cudaMemset(a.x, 0, kN * 4));
  add<<<2, 128>>>(a.y, a.x, 2.0f, kN);
  a.show();
}

static void graph() {
  Arrays a;
  cudaStream_t stream, other;
  cudaEvent_t fork, join;
  cudaGraph_t made;
  cudaGraphExec_t ready;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamCreate(&other));
  CHECK(cudaEventCreate(&fork));
  CHECK(cudaEventCreate(&join));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaEventRecord(fork, stream));
  CHECK(cudaStreamWaitEvent(other, fork, 0));
  add<<<2, 128, 0, other>>>(a.x, a.x, 1.0f, kN);
  CHECK(cudaEventRecord(join, other));
  CHECK(cudaStreamWaitEvent(stream, join, 0));
  add<<<2, 128, 0, stream>>>(a.y, a.x, 0.5f, kN);
  CHECK(cudaStreamEndCapture(stream, &made));
  CHECK(cudaGraphInstantiate(&ready, made, 0));
  for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(ready, stream));
  CHECK(cudaStreamSynchronize(stream));
  a.show();  // three times one more, and a half
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaStreamEndCapture(stream, &made));
}

static cudaLaunchConfig_t clusters(unsigned grid, unsigned size, cudaLaunchAttribute* attribute) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid), config.blockDim = dim3(32), config.attrs = attribute, config.numAttrs = 1;
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim.x = size, attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
  return config;
}

static void cluster() {
  int* y;
  std::vector<int> host(8);
  CHECK(cudaMalloc(&y, 32));
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = clusters(8, 4, &attribute);
  CHECK(cudaLaunchKernelEx(&config, ranks, y));
  CHECK(cudaMemcpy(host.data(), y, 32, cudaMemcpyDeviceToHost));
  for (int rank : host) std::printf("%d ", rank);
  std::printf("\n");
  config = clusters(8, 3, &attribute);
  CHECK(cudaLaunchKernelEx(&config, ranks, y));
}

static void bounds() {
  Arrays a;
  add_unchecked<<<2, 128>>>(a.y, a.x, 1.0f);
  CHECK(cudaGetLastError());
  CHECK(cudaMalloc(&a.x, 4));
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaDeviceReset());
  Arrays b;
  add<<<2, 128>>>(b.y, b.x, 1.5f, kN);
  b.show();
}

static void uninitialised() {
  Arrays a(false);
  add<<<2, 128>>>(a.y, a.x, 1.0f, kN);
  CHECK(cudaGetLastError());
}

static void stuck() {
  Arrays a;
  add<<<2, 128>>>(a.y, a.x, 1.0f, kN);
  CHECK(cudaMemset(a.y, 0, 4));
  std::printf("ready\n");
  std::fflush(stdout);
  forever<<<1, 1>>>(reinterpret_cast<int*>(a.y));
  CHECK(cudaGetLastError());
}

static void misuse() {
  Arrays a;
  add<<<0, 128>>>(a.y, a.x, 1.0f, kN);
  CHECK(cudaGetLastError());
  add<<<1, 2048>>>(a.y, a.x, 1.0f, kN);
  CHECK(cudaGetLastError());
  add<<<1, 128, 100 << 10>>>(a.y, a.x, 1.0f, kN);
  CHECK(cudaGetLastError());
  CHECK(cudaMemcpy(a.x, a.host.data(), kN * 4 + 1, cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(a.host.data(), a.x, kN * 4, cudaMemcpyHostToDevice));
  CHECK(cudaFree(a.x + 1));
  CHECK(cudaMalloc(&a.x, 1ull << 50));
  few<<<1, 128>>>(a.y);  // what only the kernel itself forbids
  CHECK(cudaGetLastError());
  CHECK(cudaFree(a.x + 1));
  add<<<2, 128>>>(a.y, a.x, 1.0f, kN);  // x is as it was
  a.show();
}

// Every byte of a map, as hexadecimal; and the code of one that the driver refuses.
static void tensor_map() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status;
  CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status));
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  alignas(64) CUtensorMap map;
  const cuuint64_t dims[] = {100, 30, 7}, strides[] = {208, 6240};
  const cuuint32_t box[] = {64, 8, 2}, steps[] = {1, 2, 1};
  const auto call = [&](uintptr_t address, const cuuint64_t* s, const cuuint32_t* b, CUtensorMapSwizzle swizzle) {
    return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, reinterpret_cast<void*>(address), dims, s, b, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA);
  };
  std::printf("%d ", call(0x12340, strides, box, CU_TENSOR_MAP_SWIZZLE_128B));
  unsigned char bytes[sizeof map];
  std::memcpy(bytes, &map, sizeof map);
  for (unsigned char byte : bytes) std::printf("%02x", byte);
  const cuuint64_t odd[] = {200, 6240};
  const cuuint32_t wide[] = {128, 8, 2}, large[] = {64, 257, 2};
  std::printf("\n%d %d %d %d\n", call(0x12344, strides, box, CU_TENSOR_MAP_SWIZZLE_128B), call(0x12340, odd, box, CU_TENSOR_MAP_SWIZZLE_128B),
              call(0x12340, strides, wide, CU_TENSOR_MAP_SWIZZLE_128B), call(0x12340, strides, large, CU_TENSOR_MAP_SWIZZLE_NONE));
}

int main(int, char** argv) {
  const struct {
    const char* name;
    void (*run)();
  } cases[] = {{"launches", launches}, {"graph", graph}, {"cluster", cluster}, {"bounds", bounds}, {"uninitialised", uninitialised},
               {"stuck", stuck}, {"misuse", misuse}, {"tensor_map", tensor_map}};
  for (const auto& c : cases) {
    if (!std::strcmp(c.name, argv[1])) c.run();
  }
}
