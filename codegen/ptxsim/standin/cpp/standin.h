// A stand-in for libcudart.so.13 and libcuda.so.1, for machines without a GPU.
//
// Device memory is host memory that a child process shares, and every launch runs there, in the PTX machine, before the call
// that enqueues it returns: a stream's work is over when it has been given. What CUDA would refuse is refused with CUDA's
// codes. What the machine finds wrong in a kernel breaks the device as an illegal address does: every later call returns the
// same code, whose string says which kernel, CTA, thread, address and line, until cudaDeviceReset.
//
// For tests every call is written to a log, and any function can be told to fail at its n-th call from now (control.cc).
// What the device claims of itself, and whether kernels run at all, are facts: see `fact`.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace standin {

// One for everything: a launch holds it for as long as the kernel runs.
extern std::recursive_mutex mutex;

// state.cc
bool noting();
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));
int injected(const char* function);
int fact(const char* name);  // devices, capability, driver, init, run, log, memory: as set, or from the environment, or the default
extern thread_local int current_device;
extern thread_local cudaError_t last_error;
cudaError_t given(cudaError_t error);                          // what a call returns, remembered as the last error
cudaError_t explained(cudaError_t error, std::string text);    // the error, whose string is this when it is given next
cudaError_t broken();                                          // what broke the device, or success
cudaError_t breaks(cudaError_t error, std::string text);
const char* explanation(cudaError_t error);                    // nullptr: none but CUDA's own
void mend();

// memory.cc
cudaError_t allocate(void** data, size_t bytes);
cudaError_t release(void* data);
cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t fill(void* at, int value, size_t bytes);
bool on_device(const void* at);
size_t live_allocations();
void forget_memory();
struct Mapping {
  int file;
  uintptr_t base;
  size_t bytes;
};
const Mapping& mapping();
std::string changes();  // of memory since the last call, as the machine is told them

// kernels.cc
struct Kernel {
  std::string name;
  std::string ptx;      // the file with its text
  std::string trouble;  // why there is none
  cudaError_t refused = cudaSuccess;
  size_t allowed_shared = 0;  // by its attribute
  std::vector<size_t> params;
  bool asked = false;  // the machine, about the parameters
};
Kernel* kernel(const void* stub);
Kernel* kernel_in_text(const std::string& ptx, const char* name);

// launch.cc
struct Shape {
  unsigned grid[3], block[3], cluster[3];  // a cluster of 0: what the kernel itself requires
  size_t shared;
};
cudaError_t launch(Kernel& kernel, const Shape& shape, void** args, void** extra, void* stream, const char* verb);

// stream.cc
using Work = std::function<cudaError_t()>;
cudaError_t enqueue(void* stream, Work work);  // does it now, or records it where the stream is being captured
bool capturing(void* stream);
cudaError_t unless_capturing();  // what a capture forbids spoils it
long live_events();

// machine.cc
cudaError_t parameters(Kernel& kernel);
cudaError_t run(const Kernel& kernel, const Shape& shape, const std::vector<std::string>& params);
void reset_machine();

}  // namespace standin

#define ENTER()                                                            \
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);              \
  if (const int code = standin::injected(__func__)) return standin::given(static_cast<cudaError_t>(code))
// Calls that reach the device fail once it is broken.
#define ENTER_DEVICE() \
  ENTER();             \
  if (const cudaError_t error = standin::broken()) return standin::given(error)
