// Device memory for callers without an allocator of their own: what treadle::Array and the copies of treadle::Session in C++
// stand on, so that such a program needs no CUDA to be built.
//
//   treadle_device_new(device, stream, bytes) -> pointer
//   treadle_device_free(device, pointer)                          waits for the work that may use it, as cudaFree does
//   treadle_device_copy(device, stream, to, from, bytes)          after what the stream holds, and waits for it; either may be host memory
#pragma once

#include "cuda_device.h"

namespace treadle {

// That the arguments are integers (i) and pointers (p), in this order.
inline int check_arguments(const TVMFFIAny* args, int32_t count, const char* kinds, const char* function) {
  bool right = true;
  int32_t given = 0;
  for (; right && kinds[given]; ++given) right = given < count && args[given].type_index == (kinds[given] == 'i' ? kTVMFFIInt : kTVMFFIOpaquePtr);
  return right && given == count ? 0 : fail("TypeError", "%s: wrong arguments", function);
}

// Allocating or waiting would spoil a capture: it is refused before it is tried.
inline int refuse_capture(cudaStream_t stream, const char* what) {
  cudaStreamCaptureStatus status;
  if (cuda(cudaStreamIsCapturing(stream, &status), "asking whether the stream is being captured")) return -1;
  if (status == cudaStreamCaptureStatusNone) return 0;
  return fail("CUDAError", "%s cannot be captured; %s", what, "give outputs of your own, and copy outside the capture");
}

inline int device_new(const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  OnDevice on;
  if (check_arguments(args, count, "ipi", "treadle_device_new") || on.enter(static_cast<int>(args[0].v_int64))) return -1;
  if (refuse_capture(static_cast<cudaStream_t>(args[1].v_ptr), "allocating")) return -1;
  char what[64];
  std::snprintf(what, sizeof what, "device memory for %lld bytes", static_cast<long long>(args[2].v_int64));
  void* made = nullptr;
  if (cuda(cudaMalloc(&made, static_cast<size_t>(args[2].v_int64)), what)) return -1;
  result->type_index = kTVMFFIOpaquePtr;
  result->v_ptr = made;
  return 0;
}

inline int device_free(const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
  OnDevice on;
  if (check_arguments(args, count, "ip", "treadle_device_free") || on.enter(static_cast<int>(args[0].v_int64))) return -1;
  return cuda(cudaFree(args[1].v_ptr), "freeing device memory");
}

inline int device_copy(const TVMFFIAny* args, int32_t count, TVMFFIAny*) {
  OnDevice on;
  if (check_arguments(args, count, "ipppi", "treadle_device_copy") || on.enter(static_cast<int>(args[0].v_int64))) return -1;
  const auto stream = static_cast<cudaStream_t>(args[1].v_ptr);
  if (refuse_capture(stream, "copying and waiting for it")) return -1;
  const auto bytes = static_cast<size_t>(args[4].v_int64);
  if (cuda(cudaMemcpyAsync(args[2].v_ptr, args[3].v_ptr, bytes, cudaMemcpyDefault, stream), "copying")) return -1;
  return cuda(cudaStreamSynchronize(stream), "copying");
}

}  // namespace treadle
