// What every generated host function is written in: views, calls, the arena, errors.
//
// A bundle's library exports, as tvm-ffi functions:
//   treadle_session_new(weights...) -> pointer     treadle_session_free(pointer)     treadle_arena_bytes(pointer) -> int
//   treadle_run_<entry>(pointer, inputs..., outputs...)                              and every kernel under its own name
// and the plain C symbol treadle_abi_version.
#pragma once

#include <tvm/ffi/c_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#define TREADLE_EXPORT extern "C" __attribute__((visibility("default")))
#define TREADLE_KERNEL(name) extern "C" int __tvm_ffi_##name(void*, const TVMFFIAny*, int32_t, TVMFFIAny*)

namespace treadle {

constexpr int kAbiVersion = 1;
constexpr int64_t kAlign = 256;

inline int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

inline int fail(const char* kind, const char* message) {
  TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

// Scratch memory of a session: grows to the largest call seen, and never past the bound stated for the bundle.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { std::free(data_); }

  // Memory for `bytes`, or nullptr with the error raised.
  char* reserve(int64_t bytes, int64_t bound) {
    if (bytes <= size_) return data_;
    char message[160];
    if (bytes > bound) {
      std::snprintf(message, sizeof message, "the call needs %lld arena bytes, above the bundle's bound of %lld",
                    static_cast<long long>(bytes), static_cast<long long>(bound));
      fail("ValueError", message);
      return nullptr;
    }
    std::free(data_);
    data_ = static_cast<char*>(std::aligned_alloc(kAlign, aligned(bytes)));
    size_ = data_ ? bytes : 0;
    if (!data_) {
      std::snprintf(message, sizeof message, "no memory for %lld arena bytes", static_cast<long long>(bytes));
      fail("MemoryError", message);
    }
    return data_;
  }

  int64_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  int64_t size_ = 0;
};

struct Session {
  std::vector<void*> weights;  // owned by the caller, who keeps them alive
  Arena arena;
};

// The tensor behind an argument, or nullptr where it is none.
inline const DLTensor* tensor(const TVMFFIAny& any) {
  if (any.type_index == kTVMFFIDLTensorPtr) return static_cast<const DLTensor*>(any.v_ptr);
  if (any.type_index == kTVMFFITensor) return TVMFFITensorGetDLTensorPtr(any.v_ptr);
  return nullptr;
}

inline void* data(const DLTensor* t) { return static_cast<char*>(t->data) + t->byte_offset; }

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

template <typename... Views>
inline int call(Kernel* kernel, Views&... views) {
  const TVMFFIAny args[] = {views.any()...};
  TVMFFIAny result{};
  return kernel(nullptr, args, sizeof...(views), &result);
}

inline int session_new(const TVMFFIAny* args, int32_t count, int32_t expected, TVMFFIAny* result) {
  if (count != expected) return fail("TypeError", "treadle_session_new: one tensor per weight of the manifest, in its order");
  auto* session = new (std::nothrow) Session;
  if (!session) return fail("MemoryError", "no memory for a session");
  for (int32_t i = 0; i < count; ++i) {
    const DLTensor* t = tensor(args[i]);
    if (!t) {
      delete session;
      return fail("TypeError", "treadle_session_new: every weight must be a tensor");
    }
    session->weights.push_back(data(t));
  }
  result->type_index = kTVMFFIOpaquePtr;
  result->v_ptr = session;
  return 0;
}

inline Session* session(const TVMFFIAny* args, int32_t count, int32_t expected) {
  if (count == expected && count > 0 && args[0].type_index == kTVMFFIOpaquePtr) return static_cast<Session*>(args[0].v_ptr);
  fail("TypeError", "a session pointer and one tensor per input and output of the manifest are expected, in its order");
  return nullptr;
}

}  // namespace treadle
