// cuTensorMapEncodeTiled: 128 bytes of our own layout, which codegen/ptxsim/tensor_map.py reads, and the driver's checks.
#include <cstring>

#include "standin.h"

namespace {

struct Map {
  uint32_t magic;
  uint8_t type, rank, interleave, swizzle, promotion, nan, steps[5], zero;
  uint64_t address;
  uint32_t dims[5], zeros;
  uint64_t strides[4];
  uint32_t box[5], rest[7];
};
static_assert(sizeof(Map) == sizeof(CUtensorMap));

// By CUtensorMapDataType's numbers: u8 u16 u32 s32 u64 s64 f16 f32 f64 bf16 and float32 in three more ways.
constexpr unsigned kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
constexpr bool kFloat[] = {false, false, false, false, false, false, true, true, true, true, true, true, true};
constexpr unsigned kTypes = sizeof kBytes / sizeof *kBytes;

}  // namespace

API CUresult cuTensorMapEncodeTiled(CUtensorMap* made, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* dims,
                                    const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                                    CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                    CUtensorMapFloatOOBfill fill) {
  constexpr unsigned kSpans[] = {0, 32, 64, 128};  // bytes, by the swizzle's number
  constexpr CUresult kWrong = CUDA_ERROR_INVALID_VALUE;
  const auto at = reinterpret_cast<uintptr_t>(address);
  // Sub-byte types, interleaved layouts and the newer swizzles are not modelled.
  if (static_cast<unsigned>(type) >= kTypes || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || static_cast<unsigned>(swizzle) > 3) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (!made || reinterpret_cast<uintptr_t>(made) % 64 || !address || at % 16 || rank < 1 || rank > 5) return kWrong;
  if (static_cast<unsigned>(promotion) > 3 || static_cast<unsigned>(fill) > 1 || (fill && !kFloat[type])) return kWrong;
  Map map{};
  map.magic = 0x50414d54;
  map.type = static_cast<uint8_t>(type), map.rank = static_cast<uint8_t>(rank), map.swizzle = static_cast<uint8_t>(swizzle);
  map.promotion = static_cast<uint8_t>(promotion), map.nan = static_cast<uint8_t>(fill);
  map.address = at;
  for (unsigned i = 0; i < rank; ++i) {
    if (!dims[i] || dims[i] > UINT32_MAX || !box[i] || box[i] > 256 || !steps[i] || steps[i] > 8) return kWrong;
    map.dims[i] = static_cast<uint32_t>(dims[i]), map.box[i] = box[i], map.steps[i] = static_cast<uint8_t>(steps[i]);
    if (i + 1 == rank) break;
    if (!strides[i] || strides[i] % 16 || strides[i] >= 1ull << 40) return kWrong;
    map.strides[i] = strides[i];
  }
  const unsigned inner = box[0] * kBytes[type];
  if (inner % 16 || (kSpans[swizzle] && inner > kSpans[swizzle])) return kWrong;
  std::memcpy(made, &map, sizeof map);
  return CUDA_SUCCESS;
}
