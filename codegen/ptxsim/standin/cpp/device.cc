// Devices, and errors in words.
#include <cstdio>
#include <cstring>
#include <utility>

#include "device.h"
#include "standin.h"

namespace standin {

// By the numbers that cudaDeviceAttr and CUdevice_attribute share. The figures are an H100's, for hosts that size grids by them.
int attribute(int number) {
  const int capability = fact("capability");
  switch (number) {
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 0x7fffffff;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 227 << 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 228 << 10;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrComputeCapabilityMajor: return capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return capability % 10;
    case cudaDevAttrUnifiedAddressing: return 1;
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH: return capability >= 90;
    default: return 0;
  }
}

}  // namespace standin

using namespace standin;

API cudaError_t cudaGetDeviceCount(int* count) {
  ENTER();
  *count = fact("devices");
  return given(*count ? cudaSuccess : cudaErrorNoDevice);
}
API cudaError_t cudaGetDevice(int* device) {
  ENTER();
  *device = current_device;
  return cudaSuccess;
}
API cudaError_t cudaSetDevice(int device) {
  ENTER();
  if (device < 0 || device >= fact("devices")) return given(cudaErrorInvalidDevice);
  if (device != current_device) note("cudaSetDevice %d", device);
  current_device = device;
  return cudaSuccess;
}
API cudaError_t cudaDeviceReset() {
  ENTER();
  note("cudaDeviceReset");
  forget_memory();
  reset_machine();
  mend();
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr number, int) {
  ENTER();
  *value = attribute(number);
  return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  ENTER();
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", kDeviceName);
  properties->major = attribute(cudaDevAttrComputeCapabilityMajor);
  properties->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  properties->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
  properties->warpSize = attribute(cudaDevAttrWarpSize);
  properties->maxThreadsPerBlock = attribute(cudaDevAttrMaxThreadsPerBlock);
  properties->sharedMemPerBlock = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlock));
  properties->sharedMemPerBlockOptin = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  properties->sharedMemPerMultiprocessor = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
  properties->regsPerBlock = properties->regsPerMultiprocessor = attribute(cudaDevAttrMaxRegistersPerBlock);
  properties->totalGlobalMem = mapping().bytes;
  return cudaSuccess;
}
API cudaError_t cudaRuntimeGetVersion(int* version) {
  ENTER();
  *version = 13000;
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* version) {
  ENTER();
  *version = fact("driver");
  return cudaSuccess;
}

API cudaError_t cudaGetLastError() {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  const cudaError_t last = std::exchange(last_error, cudaSuccess);
  return broken() ? broken() : last;
}
API cudaError_t cudaPeekAtLastError() {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  if (const int code = injected(__func__)) last_error = static_cast<cudaError_t>(code);  // as work that failed meanwhile does
  return broken() ? broken() : last_error;
}

namespace {
constexpr struct {
  cudaError_t code;
  const char *name, *text;
} kErrors[] = {
#define ERROR(code, text) {code, #code, text}
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorMissingConfiguration, "__global__ function call is not configured"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ERROR(cudaErrorInvalidPtx, "a PTX JIT compilation failed"),
    ERROR(cudaErrorFileNotFound, "file not found"),
    ERROR(cudaErrorSymbolNotFound, "named symbol not found"),
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ERROR(cudaErrorInvalidClusterSize, "cluster misconfiguration"),
    ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
#undef ERROR
};
}  // namespace

API const char* cudaGetErrorName(cudaError_t error) {
  for (const auto& known : kErrors) {
    if (known.code == error) return known.name;
  }
  return "cudaErrorUnknown";
}
API const char* cudaGetErrorString(cudaError_t error) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  if (const char* text = explanation(error)) return text;
  for (const auto& known : kErrors) {
    if (known.code == error) return known.text;
  }
  return "unknown error";
}
