// Writes finished fp32 rows, rounded to the output's type, past the caches where the output is large.
//
// An ordinary store first reads the cache line it is about to overwrite; for an output that nobody reads soon, that read is
// wasted traffic. Compiled TIR has no non-temporal store, so kernels hand rows (still in L1) to treadle_stream_<dtype>.
// Outputs that fit into the last-level cache are written as usual: the next kernel finds them there.

#include "elements.h"

namespace {

using namespace treadle;

template <typename Type, bool kPastCaches>
TREADLE_AVX2 void Write(typename Type::Bits* dst, const float* row, int64_t count) {
  int64_t i = 0;
  if (kPastCaches) {  // non-temporal stores need 32-byte alignment
    for (; i < count && (reinterpret_cast<uintptr_t>(dst + i) & 31); ++i) dst[i] = Type::Round(row[i]);
  }
  for (; i + Type::kLanes <= count; i += Type::kLanes) {
    const __m256i bits = Type::Round(row + i);
    if (kPastCaches) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + i), bits);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i), bits);
    }
  }
  for (; i < count; ++i) dst[i] = Type::Round(row[i]);
}

template <typename Type>
int32_t Stream(void* dst, const float* row, int64_t count, int64_t total_bytes) {
  auto* out = static_cast<typename Type::Bits*>(dst);
  if (total_bytes > LastLevelCache()) {
    Write<Type, true>(out, row, count);
  } else {
    Write<Type, false>(out, row, count);
  }
  return 0;
}

}  // namespace

extern "C" {

// Each writes `count` values of an output that holds `total_bytes` in all.
int32_t treadle_stream_float32(void* dst, const float* row, int64_t count, int64_t total_bytes) {
  return Stream<Float32>(dst, row, count, total_bytes);
}
int32_t treadle_stream_float16(void* dst, const float* row, int64_t count, int64_t total_bytes) {
  return Stream<Float16>(dst, row, count, total_bytes);
}
int32_t treadle_stream_bfloat16(void* dst, const float* row, int64_t count, int64_t total_bytes) {
  return Stream<BFloat16>(dst, row, count, total_bytes);
}

// Non-temporal stores are not ordered by the barrier that ends a parallel region: called once at the end of a task.
int32_t treadle_stream_end() {
  _mm_sfence();
  return 0;
}
}
