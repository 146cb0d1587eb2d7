// The driver's entry points.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "device.h"
#include "kernels.h"
#include "standin.h"

using namespace standin;

namespace {

// What the two APIs share, they number alike.
CUresult result(cudaError_t error) { return static_cast<CUresult>(error); }

struct Module {
  std::string ptx;
};

// PTX that a process holds as text, as a file that the machine can read for as long as this process lives.
std::string kept(const char* text) {
  const int file = memfd_create("ptx", MFD_CLOEXEC);
  const size_t bytes = std::strlen(text);
  if (file < 0 || write(file, text, bytes) != static_cast<ssize_t>(bytes)) return {};
  return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
}

// Of this library, whatever else the process has loaded.
void* entry_point(const char* name) {
  static void* self = [] {
    Dl_info info;
    return dladdr(reinterpret_cast<void*>(&cuInit), &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  }();
  return self ? dlsym(self, name) : nullptr;
}

}  // namespace

API CUresult cuInit(unsigned) { return static_cast<CUresult>(fact("init")); }
API CUresult cuDriverGetVersion(int* version) {
  *version = fact("driver");
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetCount(int* count) {
  *count = fact("devices");
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute number, CUdevice) {
  *value = attribute(number);
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  std::snprintf(name, static_cast<size_t>(size), "%s", kDeviceName);
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : cudaGetErrorName(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = cudaGetErrorString(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}
API CUresult cuGetProcAddress_v2(const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* status) {
  *function = entry_point(name);
  if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return CUDA_SUCCESS;
}
API cudaError_t cudaGetDriverEntryPointByVersion(
    const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* status) {
  *function = entry_point(name);
  if (status) *status = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// Modules, as TVM's loader uses them.
API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  constexpr unsigned kFatbin = 0xBA55ED50;
  unsigned magic;
  std::memcpy(&magic, image, sizeof magic);
  const auto* text = static_cast<const char*>(image);
  const bool ptx = !std::strncmp(text, "//", 2) || !std::strncmp(text, ".version", 8);
  note("module %s", magic == kFatbin ? "fatbin" : ptx ? "PTX" : "of another kind");
  *module = reinterpret_cast<CUmodule>(new Module{ptx ? kept(text) : std::string()});
  return CUDA_SUCCESS;
}
API CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  *function = reinterpret_cast<CUfunction>(kernel_in_text(reinterpret_cast<Module*>(module)->ptx, name));
  return CUDA_SUCCESS;
}
API CUresult cuModuleUnload(CUmodule module) {
  delete reinterpret_cast<Module*>(module);
  return CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute number, int value) {
  if (number == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) reinterpret_cast<Kernel*>(function)->allowed_shared = static_cast<size_t>(value);
  return CUDA_SUCCESS;
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function, void** args, void** extra) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  if (broken()) return result(given(broken()));
  Shape shape{{c->gridDimX, c->gridDimY, c->gridDimZ}, {c->blockDimX, c->blockDimY, c->blockDimZ}, {0, 0, 0}, c->sharedMemBytes};
  for (unsigned i = 0; i < c->numAttrs; ++i) {
    if (c->attrs[i].id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) continue;
    const auto& size = c->attrs[i].value.clusterDim;
    shape.cluster[0] = size.x, shape.cluster[1] = size.y, shape.cluster[2] = size.z;
  }
  return result(given(launch(*reinterpret_cast<Kernel*>(function), shape, args, extra, c->hStream, "packed")));
}
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                            unsigned shared, CUstream stream, void** args, void** extra) {
  const CUlaunchConfig c{gx, gy, gz, bx, by, bz, shared, stream, nullptr, 0};
  return cuLaunchKernelEx(&c, function, args, extra);
}
