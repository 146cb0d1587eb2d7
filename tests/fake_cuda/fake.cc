// A stand-in for libcudart.so.13 and libcuda.so.1, for machines without a GPU.
//
// Device memory is host memory, kernels are counted and never run, and every call is written to a log that tests read. Any
// function can be told to fail at its n-th call from now, with any code. While a stream is being captured, what CUDA forbids
// then fails and spoils the capture, after which launches fail too. What it proves: loading, dispatch, order, streams,
// allocation, error paths, host cost. What it cannot: anything that a kernel computes.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace {

std::recursive_mutex mutex;
std::string log_text;
bool logging = true;
long launches = 0;

struct Fault {
  int after;
  int code;
};
std::map<std::string, Fault> faults;
std::map<std::string, int> argument_counts;         // of kernels: the launch API does not say
std::map<const void*, std::string> kernels;         // launch stub -> name
std::map<const void*, size_t> allowed_shared;       // by its attribute; without one a block gets at most kPlainShared
std::map<void*, size_t> memory;
long events = 0;
bool capturing = false;
bool spoilt = false;  // the capture, by a call that it forbids
std::map<void*, unsigned long long> stream_numbers;
thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

void note(const char* format, ...) {
  if (!logging) return;
  char line[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(line, sizeof line, format, args);
  va_end(args);
  log_text += line;
  log_text += '\n';
}

int injected(const char* function) {
  const auto fault = faults.find(function);
  if (fault == faults.end() || --fault->second.after > 0) return 0;
  const int code = fault->second.code;
  faults.erase(fault);
  return code;
}

cudaError_t given(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

constexpr size_t kPlainShared = 48 << 10, kMostShared = 227 << 10;  // of sm_90

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::atoi(text) : otherwise;
}

int devices() { return number("FAKE_CUDA_DEVICES", 1); }

// What a capture in global mode forbids.
cudaError_t unless_capturing() {
  if (!capturing) return cudaSuccess;
  spoilt = true;
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace

#define ENTER()                                                              \
  std::lock_guard<std::recursive_mutex> lock(mutex);                         \
  if (const int code = injected(__func__)) return given(static_cast<cudaError_t>(code))

extern "C" {

// For tests.
const char* fake_log() { return log_text.c_str(); }
void fake_clear() { log_text.clear(); }
void fake_logging(int on) { logging = on; }
void fake_fail(const char* function, int nth, int code) { faults[function] = {nth, code}; }
void fake_arguments(const char* kernel, int count) { argument_counts[kernel] = count; }
void fake_capture(int on) {
  capturing = on;
  spoilt = false;
}
int fake_spoilt() { return spoilt; }
void fake_stream_number(void* stream, unsigned long long number) { stream_numbers[stream] = number; }
long fake_launches() { return launches; }
long fake_live() { return static_cast<long>(memory.size()) + events; }

// Registration: by static constructors, when a library is loaded.
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  kernels[stub] = name;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return given(cudaErrorMissingConfiguration); }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { return given(cudaErrorNotSupported); }

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* stub, void** args) {
  ENTER();
  const auto found = kernels.find(stub);
  if (found == kernels.end()) return given(cudaErrorInvalidDeviceFunction);
  if (!c->gridDim.x || !c->gridDim.y || !c->gridDim.z || c->gridDim.y > 65535 || c->gridDim.z > 65535 ||
      c->gridDim.x > 0x7fffffff || c->blockDim.x * c->blockDim.y * c->blockDim.z > 1024) {
    return given(cudaErrorInvalidConfiguration);
  }
  if (c->dynamicSmemBytes > std::max(allowed_shared[stub], kPlainShared)) return given(cudaErrorInvalidValue);
  if (spoilt) return given(cudaErrorStreamCaptureInvalidated);
  ++launches;
  if (!logging) return cudaSuccess;
  std::string values;
  for (int i = 0; i < argument_counts[found->second]; ++i) {
    char text[24];
    std::snprintf(text, sizeof text, "%s%#llx", i ? "," : "", static_cast<unsigned long long>(*static_cast<uint64_t*>(args[i])));
    values += text;
  }
  note("launch %s grid=%u,%u,%u block=%u,%u,%u shared=%zu stream=%p args=%s", found->second.c_str(), c->gridDim.x, c->gridDim.y,
       c->gridDim.z, c->blockDim.x, c->blockDim.y, c->blockDim.z, c->dynamicSmemBytes, static_cast<void*>(c->stream), values.c_str());
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  ENTER();
  note("attribute %s %d=%d", kernels[stub].c_str(), static_cast<int>(attribute), value);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<size_t>(value) > kMostShared) return given(cudaErrorInvalidValue);
    allowed_shared[stub] = static_cast<size_t>(value);
  }
  return cudaSuccess;
}

// Devices and errors.
cudaError_t cudaGetDevice(int* device) {
  ENTER();
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  ENTER();
  if (device < 0 || device >= devices()) return given(cudaErrorInvalidDevice);
  if (device != current_device) note("cudaSetDevice %d", device);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  ENTER();
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (const int code = injected(__func__)) last_error = static_cast<cudaError_t>(code);  // as work that failed meanwhile does
  return last_error;
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return "unknown error";
  }
}

// Memory.
cudaError_t cudaMalloc(void** data, size_t bytes) {
  ENTER();
  if (const cudaError_t error = unless_capturing()) return given(error);
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*data) return given(cudaErrorMemoryAllocation);
  memory[*data] = bytes;
  note("cudaMalloc %zu", bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  ENTER();
  if (!data) return cudaSuccess;
  if (const cudaError_t error = unless_capturing()) return given(error);
  const auto found = memory.find(data);
  if (found == memory.end()) return given(cudaErrorInvalidValue);
  note("cudaFree %zu", found->second);
  memory.erase(found);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  ENTER();
  if (const cudaError_t error = unless_capturing()) return given(error);
  note("cudaMemcpy %zu", bytes);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

// Streams and events. Everything is over when its call returns: ordering is only recorded.
cudaError_t cudaDeviceSynchronize() {
  ENTER();
  note("cudaDeviceSynchronize");
  return given(unless_capturing());
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ENTER();
  note("cudaStreamSynchronize %p", static_cast<void*>(stream));
  return given(unless_capturing());
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  ENTER();
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* number) {
  ENTER();
  const auto found = stream_numbers.find(stream);
  *number = found != stream_numbers.end() ? found->second : reinterpret_cast<uintptr_t>(stream);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  ENTER();
  *event = reinterpret_cast<cudaEvent_t>(++events);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
  ENTER();
  --events;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream) {
  ENTER();
  note("record %p", static_cast<void*>(stream));
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t, unsigned) {
  ENTER();
  note("wait %p", static_cast<void*>(stream));
  return cudaSuccess;
}

// The driver as TVM's loader uses it: modules and their functions.
CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  constexpr unsigned kFatbin = 0xBA55ED50;
  note("module %s", *static_cast<const unsigned*>(image) == kFatbin ? "fatbin" : "of another kind");
  *module = reinterpret_cast<CUmodule>(const_cast<void*>(image));
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  static std::map<std::string, std::string> names;
  *function = reinterpret_cast<CUfunction>(const_cast<char*>((names[name] = name).c_str()));
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function, void**, void**) {
  note("packed %s grid=%u,%u,%u block=%u,%u,%u stream=%p", reinterpret_cast<const char*>(function), c->gridDimX, c->gridDimY,
       c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ, static_cast<void*>(c->hStream));
  return CUDA_SUCCESS;
}

// The driver: facts about devices, from the environment.
CUresult cuInit(unsigned) { return static_cast<CUresult>(number("FAKE_CUDA_INIT", 0)); }
CUresult cuDeviceGetCount(int* count) {
  *count = devices();
  return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  const int capability = number("FAKE_CUDA_CAPABILITY", 90);
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? capability / 10 : capability % 10;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  std::snprintf(name, size, "Stand-in GPU");
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_DRIVER", 13000);
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
  return CUDA_SUCCESS;
}
}
