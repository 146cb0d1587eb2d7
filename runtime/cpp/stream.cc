// Writes finished fp32 rows, rounded to the output's type, past the caches where the output is large.
//
// An ordinary store first reads the cache line it is about to overwrite; for an output that nobody reads soon, that read is
// wasted traffic. Compiled TIR has no non-temporal store, so kernels hand rows (still in L1) to treadle_stream_<dtype>.
// Outputs that fit into the last-level cache are written as usual: the next kernel finds them there.

#include <immintrin.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#define TREADLE_AVX2 __attribute__((target("avx2,f16c")))

namespace {

int64_t LastLevelCache() {
  static const int64_t bytes = [] {
    const long known = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return known > 0 ? int64_t{known} : int64_t{32} << 20;
  }();
  return bytes;
}

// Each type rounds one value, and as many values as fill a 32-byte vector.

struct Float32 {
  using Bits = uint32_t;
  static constexpr int kLanes = 8;
  TREADLE_AVX2 static Bits Round(float v) {
    Bits bits;
    std::memcpy(&bits, &v, 4);
    return bits;
  }
  TREADLE_AVX2 static __m256i Round(const float* v) { return _mm256_castps_si256(_mm256_loadu_ps(v)); }
};

struct Float16 {
  using Bits = uint16_t;
  static constexpr int kLanes = 16;
  TREADLE_AVX2 static __m128i Half(const float* v) { return _mm256_cvtps_ph(_mm256_loadu_ps(v), _MM_FROUND_TO_NEAREST_INT); }
  TREADLE_AVX2 static Bits Round(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }
  TREADLE_AVX2 static __m256i Round(const float* v) { return _mm256_set_m128i(Half(v + 8), Half(v)); }
};

struct BFloat16 {
  using Bits = uint16_t;
  static constexpr int kLanes = 16;
  // To nearest, ties to even; a NaN keeps its upper half and is made quiet, so that it stays a NaN.
  TREADLE_AVX2 static __m256i Half(const float* v) {
    const __m256 value = _mm256_loadu_ps(v);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  }
  TREADLE_AVX2 static Bits Round(float v) {
    float lanes[8] = {v};
    return static_cast<Bits>(_mm256_extract_epi16(Half(lanes), 0));
  }
  TREADLE_AVX2 static __m256i Round(const float* v) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(Half(v), Half(v + 8)), 0xD8);
  }
};

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
