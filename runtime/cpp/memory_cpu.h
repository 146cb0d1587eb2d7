// Host memory for a session: weights stay where the caller has them, the arena comes from aligned_alloc.
#pragma once

#include "session.h"

#include <cstdlib>
#include <vector>

namespace treadle {

struct Cpu {
  class Weights {
   public:
    // The caller keeps the tensors alive for as long as the session.
    int load(const TVMFFIAny* args, int32_t count, int32_t expected) {
      return each_weight(args, count, expected, [this](const DLTensor& t) { return at_.push_back(data(&t)), 0; });
    }
    DLDevice device() const { return {kDLCPU, 0}; }
    void* at(int index) const { return at_[index]; }

   private:
    std::vector<void*> at_;
  };

  class Turn;

  class Arena {
   public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() { std::free(data_); }

    // Memory for `bytes`, or nullptr with the error raised. Never null for a call without elements either.
    char* reserve(int64_t bytes, int64_t bound, Turn&) {
      if (data_ && bytes <= size_) return data_;
      if (check_bound(bytes, bound)) return nullptr;
      std::free(data_);
      data_ = static_cast<char*>(std::aligned_alloc(kAlign, std::max(aligned(bytes), kAlign)));
      size_ = data_ ? bytes : 0;
      if (!data_) fail("MemoryError", "no memory for %lld arena bytes", static_cast<long long>(bytes));
      return data_;
    }

    int64_t size() const { return size_; }

   private:
    char* data_ = nullptr;
    int64_t size_ = 0;
  };

  // Kernels have returned when their calls have: there is nothing to begin or finish.
  class Turn {
   public:
    explicit Turn(Session<Cpu>&) {}
    int begin() { return 0; }
    int finish(const char*, const char*) { return 0; }
  };
};

}  // namespace treadle
