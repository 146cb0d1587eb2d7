// The element types of CPU kernels' helpers: each widens to and rounds from fp32, one value or eight.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define TREADLE_AVX2 __attribute__((target("avx2,f16c")))

namespace treadle {

struct Float32 {
  using Bits = uint32_t;
  TREADLE_AVX2 static Bits Round(float v) {
    Bits bits;
    std::memcpy(&bits, &v, 4);
    return bits;
  }
  TREADLE_AVX2 static float Widen(Bits bits) {
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
  }
  TREADLE_AVX2 static __m256 Widen8(const Bits* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  TREADLE_AVX2 static void Store8(Bits* p, __m256 v) { _mm256_storeu_ps(reinterpret_cast<float*>(p), v); }
};

struct Float16 {
  using Bits = uint16_t;
  TREADLE_AVX2 static Bits Round(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }
  TREADLE_AVX2 static float Widen(Bits bits) { return _cvtsh_ss(bits); }
  TREADLE_AVX2 static __m256 Widen8(const Bits* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  TREADLE_AVX2 static void Store8(Bits* p, __m256 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

struct BFloat16 {
  using Bits = uint16_t;
  // To nearest, ties to even; a NaN keeps its upper half and is made quiet, so that it stays a NaN.
  TREADLE_AVX2 static __m128i Round8(__m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xD8));
  }
  TREADLE_AVX2 static Bits Round(float v) {
    return static_cast<Bits>(_mm_extract_epi16(Round8(_mm256_set1_ps(v)), 0));
  }
  TREADLE_AVX2 static float Widen(Bits bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float v;
    std::memcpy(&v, &wide, 4);
    return v;
  }
  TREADLE_AVX2 static __m256 Widen8(const Bits* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  TREADLE_AVX2 static void Store8(Bits* p, __m256 v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), Round8(v)); }
};

}  // namespace treadle
