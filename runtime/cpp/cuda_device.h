// Calling CUDA: errors in words, and the current device put back.
#pragma once

#include <cuda_runtime_api.h>

#include "host.h"

namespace treadle {

// 0, or -1 with an error that says what was attempted. The caller's thread is left without a pending CUDA error.
inline int cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return 0;
  cudaGetLastError();
  const char* kind = error == cudaErrorMemoryAllocation ? "MemoryError" : "CUDAError";
  return fail(kind, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

// Makes a device current, as every CUDA call acts on the current one, and puts the caller's back.
class OnDevice {
 public:
  OnDevice() = default;
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (moved_) cudaSetDevice(before_);
  }

  int enter(int index) {
    if (cuda(cudaGetDevice(&before_), "cudaGetDevice")) return -1;
    if (before_ == index) return 0;
    moved_ = true;
    return cuda(cudaSetDevice(index), "cudaSetDevice");
  }

 private:
  int before_ = 0;
  bool moved_ = false;
};

}  // namespace treadle
