// What every generated host function is written in: errors, views, calls. Where the memory is, say memory_cpu.h and
// memory_cuda.h; what the functions below do with a session, session.h.
//
// A bundle's library exports, as tvm-ffi functions:
//   treadle_session_new(weights...) -> pointer      host tensors in the manifest's order; on CUDA after the device's index
//   treadle_session_clone(pointer) -> pointer       a session with an arena of its own over the same weights
//   treadle_session_free(pointer)                   treadle_arena_bytes(pointer) -> int
//   treadle_run_<entry>(pointer, inputs..., outputs...)
// on CUDA those of device_memory.h, and every kernel under its own name. As plain C functions:
//   treadle_abi_version() -> int
//   treadle_manifest_digest(), treadle_plan_digest() -> const char*    the SHA-256 of the files that it was made for
#pragma once

#include <tvm/ffi/c_api.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <string>

#define TREADLE_EXPORT extern "C" __attribute__((visibility("default")))
#define TREADLE_KERNEL(name) extern "C" int __tvm_ffi_##name(void*, const TVMFFIAny*, int32_t, TVMFFIAny*)

namespace treadle {

constexpr int kAbiVersion = 2;
constexpr int64_t kAlign = 256;

inline int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Raises an error of the given kind; returns -1, so that `return fail(...)` reads as what it does.
__attribute__((format(printf, 2, 3))) inline int fail(const char* kind, const char* format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof message, format, args);
  va_end(args);
  TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

// Puts the step in front of the error that its kernel raised: the kernel knows what went wrong, only the plan knows where.
inline int failed_in(const char* node, const char* kernel) {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) return fail("InternalError", "node %s (kernel %s) failed without saying why", node, kernel);
  const TVMFFIErrorCell* cell = TVMFFIErrorGetCellPtr(error);
  const std::string kind(cell->kind.data, cell->kind.size), message(cell->message.data, cell->message.size);
  TVMFFIObjectDecRef(error);
  const char* parts[] = {"node ", node, " (kernel ", kernel, "): ", message.c_str()};
  TVMFFIErrorSetRaisedFromCStrParts(kind.c_str(), parts, 6);
  return -1;
}

// The arena may grow to what a call needs, and never past the bound stated for the bundle.
inline int check_bound(int64_t bytes, int64_t bound) {
  if (bytes <= bound) return 0;
  return fail("ValueError", "the call needs %lld arena bytes, above the bundle's bound of %lld", static_cast<long long>(bytes),
              static_cast<long long>(bound));
}

// The tensor behind an argument, or nullptr where it is none.
inline const DLTensor* tensor(const TVMFFIAny& any) {
  if (any.type_index == kTVMFFIDLTensorPtr) return static_cast<const DLTensor*>(any.v_ptr);
  if (any.type_index == kTVMFFITensor) return TVMFFITensorGetDLTensorPtr(any.v_ptr);
  return nullptr;
}

inline void* data(const DLTensor* t) { return static_cast<char*>(t->data) + t->byte_offset; }

inline int64_t elements(const DLTensor& t) {
  int64_t count = 1;
  for (int32_t i = 0; i < t.ndim; ++i) count *= t.shape[i];
  return count;
}

// A compact tensor over memory that somebody else owns, ready to be passed to a kernel.
template <int rank>
struct View {
  int64_t shape[rank > 0 ? rank : 1];
  DLTensor tensor;

  template <typename... Sizes>
  View(void* data, DLDevice device, DLDataType dtype, Sizes... sizes)
      : shape{static_cast<int64_t>(sizes)...}, tensor{data, device, rank, dtype, shape, nullptr, 0} {}
  View(const View&) = delete;

  TVMFFIAny any() {
    TVMFFIAny a{};
    a.type_index = kTVMFFIDLTensorPtr;
    a.v_ptr = &tensor;
    return a;
  }
};

using Kernel = int(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

// Calls a kernel whose last `outputs` views are what it writes. Where those hold no element there is nothing to do, and a
// GPU could not even be asked: a grid of zero blocks does not exist.
template <int outputs = 0, typename... Views>
inline int call(Kernel* kernel, Views&... views) {
  constexpr int count = sizeof...(Views);
  const TVMFFIAny args[] = {views.any()...};
  bool empty = outputs > 0;
  for (int i = count - outputs; i < count; ++i) empty = empty && elements(*static_cast<const DLTensor*>(args[i].v_ptr)) == 0;
  if (empty) return 0;
  TVMFFIAny result{};
  return kernel(nullptr, args, count, &result);
}

}  // namespace treadle
