// Moves tiles between memory and fp32 staging lines, transposed, for scans whose walk runs along the contiguous axis.
//
// Memory holds `lines` rows at `pitch` elements; a tile is `columns` adjacent elements of each. Staging holds the tile's columns
// as rows at `stage` floats. Eight by eight elements go through registers, so that both sides see whole vectors. A row of a tile
// is one or two cache lines of a page that nothing else touches for a while, which no hardware prefetcher foresees: gathering
// asks for rows `ahead`, beyond the last row for the first ones of the following tile, `next` elements further on.

#include "elements.h"

namespace {

using namespace treadle;

TREADLE_AVX2 inline void Transpose8(__m256 (&r)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

template <typename Type>
TREADLE_AVX2 int32_t Gather(float* to, int64_t stage, const void* from, int64_t pitch, int64_t lines, int64_t columns, int64_t next, int64_t ahead) {
  const auto* src = static_cast<const typename Type::Bits*>(from);
  int64_t l = 0;
  for (; l + 8 <= lines; l += 8, src += 8 * pitch) {
    const auto* soon = src + ahead * pitch;
    if (l + ahead >= lines) soon += next - lines * pitch;
    for (int i = 0; i < 8 && ahead; ++i) {
      for (int64_t c = 0; c < columns; c += 64 / static_cast<int64_t>(sizeof *src)) {
        _mm_prefetch(reinterpret_cast<const char*>(soon + i * pitch + c), _MM_HINT_T1);
      }
    }
    int64_t c = 0;
    for (; c + 8 <= columns; c += 8) {
      __m256 r[8];
      for (int i = 0; i < 8; ++i) r[i] = Type::Widen8(src + i * pitch + c);
      Transpose8(r);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(to + (c + i) * stage + l, r[i]);
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < 8; ++i) to[c * stage + l + i] = Type::Widen(src[i * pitch + c]);
    }
  }
  for (; l < lines; ++l, src += pitch) {
    for (int64_t c = 0; c < columns; ++c) to[c * stage + l] = Type::Widen(src[c]);
  }
  return 0;
}

template <typename Type>
TREADLE_AVX2 int32_t Scatter(void* to, int64_t pitch, const float* from, int64_t stage, int64_t lines, int64_t columns, int32_t large) {
  auto* dst = static_cast<typename Type::Bits*>(to);
  // Past the caches only where a row of the tile is whole 32-byte vectors: half a vector would be a read after all.
  const bool whole = sizeof *dst == 4 && columns % 8 == 0 && pitch % 8 == 0 && !(reinterpret_cast<uintptr_t>(dst) & 31);
  const bool past = whole && large;
  int64_t l = 0;
  for (; l + 8 <= lines; l += 8, dst += 8 * pitch) {
    int64_t c = 0;
    for (; c + 16 <= columns && past; c += 16) {  // both halves of a cache line one after the other
      __m256 r[8], s[8];
      for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + (c + i) * stage + l);
      for (int i = 0; i < 8; ++i) s[i] = _mm256_loadu_ps(from + (c + 8 + i) * stage + l);
      Transpose8(r);
      Transpose8(s);
      for (int i = 0; i < 8; ++i) {
        _mm256_stream_ps(reinterpret_cast<float*>(dst + i * pitch + c), r[i]);
        _mm256_stream_ps(reinterpret_cast<float*>(dst + i * pitch + c + 8), s[i]);
      }
    }
    for (; c + 8 <= columns; c += 8) {
      __m256 r[8];
      for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + (c + i) * stage + l);
      Transpose8(r);
      for (int i = 0; i < 8; ++i) Type::Store8(dst + i * pitch + c, r[i]);
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < 8; ++i) dst[i * pitch + c] = Type::Round(from[c * stage + l + i]);
    }
  }
  for (; l < lines; ++l, dst += pitch) {
    for (int64_t c = 0; c < columns; ++c) dst[c] = Type::Round(from[c * stage + l]);
  }
  return 0;
}

}  // namespace

#define TREADLE_TILE(name, Type)                                                                                             \
  extern "C" int32_t treadle_gather_##name(float* to, int64_t stage, const void* from, int64_t pitch, int64_t lines,        \
                                           int64_t columns, int64_t next, int64_t ahead) {                                                 \
    return Gather<Type>(to, stage, from, pitch, lines, columns, next, ahead);                                                      \
  }                                                                                                                          \
  extern "C" int32_t treadle_scatter_##name(void* to, int64_t pitch, const float* from, int64_t stage, int64_t lines,       \
                                            int64_t columns, int32_t large) {                                              \
    return Scatter<Type>(to, pitch, from, stage, lines, columns, large);                                                     \
  }

TREADLE_TILE(float32, Float32)
TREADLE_TILE(float16, Float16)
TREADLE_TILE(bfloat16, BFloat16)
