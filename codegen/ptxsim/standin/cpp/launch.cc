// Launches: what CUDA checks, and then the machine.
#include <algorithm>
#include <cstring>
#include <map>

#include "control.h"
#include "standin.h"

namespace standin {

long launches = 0;
std::map<std::string, int> argument_counts;

namespace {

constexpr size_t kPlainShared = 48 << 10, kMostShared = 227 << 10;  // of sm_90
constexpr unsigned kMostCluster = 16;

cudaError_t check(const Kernel& kernel, const Shape& s) {
  const auto volume = [](const unsigned* n) { return static_cast<uint64_t>(n[0]) * n[1] * n[2]; };
  const bool grid = volume(s.grid) && s.grid[0] <= 0x7fffffff && s.grid[1] <= 65535 && s.grid[2] <= 65535;
  const bool block = volume(s.block) && volume(s.block) <= 1024 && s.block[2] <= 64;
  if (!grid || !block) return cudaErrorInvalidConfiguration;
  if (s.shared > std::max(kernel.allowed_shared, kPlainShared)) return cudaErrorInvalidValue;
  if (!volume(s.cluster)) return cudaSuccess;
  if (volume(s.cluster) > kMostCluster) return cudaErrorInvalidClusterSize;
  for (int i = 0; i < 3; ++i) {
    if (s.grid[i] % s.cluster[i]) return cudaErrorInvalidClusterSize;
  }
  return cudaSuccess;
}

void note_launch(const Kernel& kernel, const Shape& s, void** args, void* stream, const char* verb) {
  if (!noting()) return;
  std::string values;
  const auto counted = argument_counts.find(kernel.name);
  for (int i = 0; counted != argument_counts.end() && i < counted->second; ++i) {
    char text[24];
    std::snprintf(text, sizeof text, "%s%#llx", i ? "," : "", static_cast<unsigned long long>(*static_cast<uint64_t*>(args[i])));
    values += text;
  }
  note("%s %s grid=%u,%u,%u block=%u,%u,%u shared=%zu stream=%p args=%s", verb, kernel.name.c_str(), s.grid[0], s.grid[1], s.grid[2],
       s.block[0], s.block[1], s.block[2], s.shared, stream, values.c_str());
}

}  // namespace

cudaError_t launch(Kernel& kernel, const Shape& shape, void** args, void** extra, void* stream, const char* verb) {
  if (const cudaError_t error = check(kernel, shape)) return error;
  if (kernel.refused) return kernel.refused;
  if (spoilt) return cudaErrorStreamCaptureInvalidated;
  ++launches;
  note_launch(kernel, shape, args, stream, verb);
  if (!fact("run")) return cudaSuccess;
  if (extra) return explained(cudaErrorNotSupported, "the stand-in takes a launch's arguments one by one, not packed in a buffer");
  if (const cudaError_t error = parameters(kernel)) return error;
  std::vector<std::string> given;
  for (size_t i = 0; i < kernel.params.size(); ++i) given.emplace_back(static_cast<const char*>(args[i]), kernel.params[i]);
  // A copy: a graph may outlive the library.
  return enqueue(stream, [=, kernel = kernel] { return run(kernel, shape, given); });
}

}  // namespace standin

using namespace standin;

namespace {

Shape plain(dim3 grid, dim3 block, size_t shared) {
  return {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, {0, 0, 0}, shared};
}

cudaError_t launch_stub(const void* stub, const Shape& shape, void** args, cudaStream_t stream) {
  Kernel* found = kernel(stub);
  return found ? launch(*found, shape, args, nullptr, stream, "launch") : cudaErrorInvalidDeviceFunction;
}

// `kernel<<<...>>>(...)` pushes, and the stub pops.
struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> pushed;

}  // namespace

API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* stub, void** args) {
  ENTER_DEVICE();
  Shape shape = plain(c->gridDim, c->blockDim, c->dynamicSmemBytes);
  for (unsigned i = 0; i < c->numAttrs; ++i) {
    if (c->attrs[i].id != cudaLaunchAttributeClusterDimension) continue;  // the others change when a kernel runs, not what it does
    const auto& size = c->attrs[i].val.clusterDim;
    shape.cluster[0] = size.x, shape.cluster[1] = size.y, shape.cluster[2] = size.z;
  }
  return given(launch_stub(stub, shape, args, c->stream));
}
API cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** args, size_t shared, cudaStream_t stream) {
  ENTER_DEVICE();
  return given(launch_stub(stub, plain(grid, block, shared), args, stream));
}
API cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  ENTER_DEVICE();
  return given(explained(cudaErrorNotSupported, "the stand-in runs CTAs one after another: a grid cannot wait for itself"));
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, args, shared, stream);
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  pushed.push_back({grid, block, shared, stream});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (pushed.empty()) return given(cudaErrorMissingConfiguration);
  const Configuration c = pushed.back();
  pushed.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
API cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  ENTER_DEVICE();
  Kernel* found = kernel(stub);
  if (!found) return given(cudaErrorInvalidDeviceFunction);
  note("attribute %s %d=%d", found->name.c_str(), static_cast<int>(attribute), value);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<size_t>(value) > kMostShared) return given(cudaErrorInvalidValue);
    found->allowed_shared = static_cast<size_t>(value);
  }
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  ENTER_DEVICE();
  *blocks = 1;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* stub, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, stub, threads, shared, 0);
}
