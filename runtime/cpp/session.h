// The session behind treadle_session_new, the same for every kind of memory.
//
// `Memory` (Cpu in memory_cpu.h, Cuda in memory_cuda.h) provides
//   Weights   the weights, put where kernels read them; shared between a session and its clones
//   Arena     scratch memory, one per session
//   Turn      one call: from its construction until finish(), the session's device is current
#pragma once

#include "host.h"

#include <memory>
#include <new>

namespace treadle {

template <typename Memory>
struct Session {
  explicit Session(std::shared_ptr<const typename Memory::Weights> shared) : weights(std::move(shared)) {}

  DLDevice device() const { return weights->device(); }
  void* weight(int index) const { return weights->at(index); }

  std::shared_ptr<const typename Memory::Weights> weights;
  typename Memory::Arena arena;
};

template <typename Memory>
int give(std::shared_ptr<const typename Memory::Weights> weights, TVMFFIAny* result) {
  auto* made = new (std::nothrow) Session<Memory>(std::move(weights));
  if (!made) return fail("MemoryError", "no memory for a session");
  result->type_index = kTVMFFIOpaquePtr;
  result->v_ptr = made;
  return 0;
}

template <typename Memory>
int session_new(const TVMFFIAny* args, int32_t count, int32_t expected, TVMFFIAny* result) {
  auto weights = std::make_shared<typename Memory::Weights>();
  if (weights->load(args, count, expected)) return -1;
  return give<Memory>(std::move(weights), result);
}

template <typename Memory>
Session<Memory>* session(const TVMFFIAny* args, int32_t count, int32_t expected) {
  if (count == expected && args[0].type_index == kTVMFFIOpaquePtr) return static_cast<Session<Memory>*>(args[0].v_ptr);
  fail("TypeError", "a session pointer and one tensor per input and output of the manifest are expected, in its order");
  return nullptr;
}

template <typename Memory>
int session_clone(const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  const auto* s = session<Memory>(args, count, 1);
  return s ? give<Memory>(s->weights, result) : -1;
}

template <typename Memory>
int session_free(const TVMFFIAny* args, int32_t count) {
  const auto* s = session<Memory>(args, count, 1);
  delete s;
  return s ? 0 : -1;
}

template <typename Memory>
int arena_bytes(const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  const auto* s = session<Memory>(args, count, 1);
  if (!s) return -1;
  result->type_index = kTVMFFIInt;
  result->v_int64 = s->arena.size();
  return 0;
}

// The weights among the arguments, one by one; -1 with the error raised where they are not what the manifest says.
template <typename Put>
int each_weight(const TVMFFIAny* args, int32_t count, int32_t expected, Put put) {
  if (count != expected) return fail("TypeError", "treadle_session_new: %d weights given, %d expected", count, expected);
  for (int32_t i = 0; i < count; ++i) {
    const DLTensor* t = tensor(args[i]);
    if (!t || t->device.device_type != kDLCPU) return fail("TypeError", "treadle_session_new: weight %d is no host tensor", i);
    if (put(*t)) return -1;
  }
  return 0;
}

}  // namespace treadle
