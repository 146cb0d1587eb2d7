// Device memory for a session: weights uploaded once, an arena that grows, and calls that only enqueue.
//
// Everything runs on the stream that tvm-ffi holds for the device (TVMFFIEnvGetStream), which is where the kernels' own entry
// points launch too. A call that fits the arena makes no allocation and waits for nothing, so after one call at a size the
// whole entry can be captured into a CUDA graph at that size.
#pragma once

#include <tvm/ffi/extra/c_env_api.h>

#include <utility>
#include <vector>

#include "cuda_device.h"
#include "device_memory.h"
#include "session.h"

namespace treadle {

struct Cuda {
  class Weights {
   public:
    Weights() = default;
    Weights(const Weights&) = delete;
    Weights& operator=(const Weights&) = delete;
    ~Weights() {
      if (data_) cudaFree(data_);  // of nothing it would open a context
    }

    // One allocation for all weights. Arguments: the device's index, then host tensors.
    int load(const TVMFFIAny* args, int32_t count, int32_t expected) {
      if (count < 1 || args[0].type_index != kTVMFFIInt) return fail("TypeError", "treadle_session_new: the device's index comes first");
      index_ = static_cast<int>(args[0].v_int64);
      OnDevice on;
      if (on.enter(index_)) return -1;
      int64_t total = 0;
      const auto place = [&](const DLTensor& t) { return offsets_.push_back(total), total += aligned(bytes(t)), 0; };
      if (each_weight(args + 1, count - 1, expected, place)) return -1;
      if (total == 0) return 0;
      if (cuda(cudaMalloc(reinterpret_cast<void**>(&data_), total), "device memory for the weights")) return -1;
      int next = 0;
      const auto upload = [&](const DLTensor& t) {
        return cuda(cudaMemcpy(at(next++), data(&t), bytes(t), cudaMemcpyHostToDevice), "uploading the weights");
      };
      if (each_weight(args + 1, count - 1, expected, upload)) return -1;
      // A copy from pageable memory may return before its last bytes arrive, and other streams do not wait for it.
      return cuda(cudaDeviceSynchronize(), "uploading the weights");
    }

    DLDevice device() const { return {kDLCUDA, index_}; }
    void* at(int index) const { return data_ + offsets_[index]; }

   private:
    static int64_t bytes(const DLTensor& t) { return (elements(t) * t.dtype.bits * t.dtype.lanes + 7) / 8; }

    int index_ = 0;
    char* data_ = nullptr;
    std::vector<int64_t> offsets_;
  };

  class Arena;

  // One call of an entry point.
  class Turn {
   public:
    explicit Turn(Session<Cuda>& s) : index_(s.device().device_id) {}
    inline ~Turn();  // of a call that failed half-way: what it enqueued uses the arena all the same

    int begin() {
      if (on_.enter(index_)) return -1;
      stream_ = static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, index_));
      pending_ = cudaPeekAtLastError();
      return 0;
    }

    // After the last launch. Kernels report their own launches; this finds what else has gone wrong by then.
    inline int finish(const char* node, const char* kernel);

    cudaStream_t stream() const { return stream_; }

   private:
    friend class Arena;
    int index_;
    OnDevice on_;
    cudaStream_t stream_ = nullptr;
    cudaError_t pending_ = cudaSuccess;  // the caller's own, from before: not ours to report
    Arena* arena_ = nullptr;             // what the call uses of it must be over before another stream may
  };

  class Arena {
   public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
      if (data_) cudaFree(data_);
      for (void* old : captured_) cudaFree(old);
      if (done_) cudaEventDestroy(done_);
    }

    // Memory for `bytes`, or nullptr with the error raised.
    char* reserve(int64_t bytes, int64_t bound, Turn& turn) {
      cudaStreamCaptureStatus status;
      if (cuda(cudaStreamIsCapturing(turn.stream(), &status), "asking whether the stream is being captured")) return nullptr;
      const bool capturing = status != cudaStreamCaptureStatusNone;
      if (!data_ || bytes > size_) {
        if (check_bound(bytes, bound) || grow(bytes, capturing)) return nullptr;
      }
      if (capturing) {
        in_graph_ = true;  // replays are ordered by whoever launches the graph
      } else {
        if (follow(turn.stream())) return nullptr;
        turn.arena_ = this;
      }
      return data_;
    }

    // The call's last launch is enqueued.
    cudaError_t release(cudaStream_t stream) { return cudaEventRecord(done_, stream); }

    int64_t size() const { return size_; }

   private:
    int grow(int64_t bytes, bool capturing) {
      if (capturing) {
        return fail("CUDAError", "the arena must grow to %lld bytes, which cannot be captured; run once at this size before capturing",
                    static_cast<long long>(bytes));
      }
      if (!done_ && cuda(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "creating an event")) return -1;
      // Work that is still queued may use the old memory, on whatever stream it was given.
      if (data_ && cuda(cudaDeviceSynchronize(), "waiting for earlier work before the arena grows")) return -1;
      if (in_graph_) captured_.push_back(data_);  // graphs hold its address
      if (!in_graph_ && cuda(cudaFree(std::exchange(data_, nullptr)), "freeing the arena")) return -1;
      data_ = nullptr;
      in_graph_ = false;
      size_ = 0;
      char what[64];
      std::snprintf(what, sizeof what, "device memory for %lld arena bytes", static_cast<long long>(bytes));
      if (cuda(cudaMalloc(reinterpret_cast<void**>(&data_), std::max(aligned(bytes), kAlign)), what)) return -1;
      size_ = bytes;
      used_ = false;
      return 0;
    }

    // A call on another stream than the last one's waits for it there, not here: both write the same memory. A stream is
    // known by its number: a new one may have a destroyed one's handle, and all threads' own default streams share theirs.
    int follow(cudaStream_t stream) {
      unsigned long long number = 0;
      if (cuda(cudaStreamGetId(stream, &number), "asking for the stream's number")) return -1;
      const bool switched = used_ && number != used_on_;
      if (switched && cuda(cudaStreamWaitEvent(stream, done_, 0), "following the session's last call")) return -1;
      used_ = true;
      used_on_ = number;
      return 0;
    }

    char* data_ = nullptr;
    int64_t size_ = 0;
    std::vector<void*> captured_;
    bool in_graph_ = false;
    cudaEvent_t done_ = nullptr;
    unsigned long long used_on_ = 0;
    bool used_ = false;
  };
};

inline int Cuda::Turn::finish(const char* node, const char* kernel) {
  const cudaError_t now = cudaPeekAtLastError();
  if (now != pending_) {
    char what[256];
    std::snprintf(what, sizeof what, "after the last launch, node %s (kernel %s)", node, kernel);
    return cuda(now, what);
  }
  Arena* arena = std::exchange(arena_, nullptr);
  return arena ? cuda(arena->release(stream_), "recording the end of the call") : 0;
}

inline Cuda::Turn::~Turn() {
  if (arena_) arena_->release(stream_);
}

}  // namespace treadle
