// Writes rows of large outputs past the caches.
//
// An ordinary store first reads the cache line it is about to overwrite; for an output that nobody reads soon that is a
// third stream of traffic on top of one read and one write. Compiled TIR has no non-temporal store, so kernels hand finished
// rows (still in L1) to treadle_stream. Small outputs are copied as usual: the next kernel finds them in the cache.

#include <immintrin.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

// Streaming pays once the whole output cannot stay in the last-level cache.
int64_t LastLevelCache() {
  static const int64_t bytes = [] {
    const long known = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return known > 0 ? int64_t{known} : int64_t{32} << 20;
  }();
  return bytes;
}

__attribute__((target("avx2"))) void Stream(char* dst, const char* src, int64_t bytes) {
  // Non-temporal stores need 32-byte alignment: the few bytes before it and after the last full vector go the usual way.
  const int64_t lead = -reinterpret_cast<intptr_t>(dst) & 31;
  const int64_t head = lead < bytes ? lead : bytes;
  std::memcpy(dst, src, head);
  int64_t i = head;
  for (; i + 32 <= bytes; i += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + i), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + i)));
  }
  std::memcpy(dst + i, src + i, bytes - i);
}

}  // namespace

extern "C" {

// Copies `bytes` from `src` to `dst`, part of an output of `total` bytes.
int32_t treadle_stream(void* dst, const void* src, int64_t bytes, int64_t total) {
  if (total > LastLevelCache()) {
    Stream(static_cast<char*>(dst), static_cast<const char*>(src), bytes);
  } else {
    std::memcpy(dst, src, bytes);
  }
  return 0;
}

// Non-temporal stores are not ordered by the barrier that ends a parallel region: call once at the end of a task.
int32_t treadle_stream_end() {
  _mm_sfence();
  return 0;
}
}
