// Element types by the names that manifests use.
#pragma once

#include <dlpack/dlpack.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "error.h"

namespace treadle {

struct DType {
  std::string_view name;
  std::string_view safetensors;  // what weight files call it
  uint8_t code;                  // DLPack's
  uint8_t bits;

  int64_t bytes() const { return bits / 8; }
};

inline constexpr DType kDTypes[] = {
    {"float32", "F32", 2, 32}, {"float16", "F16", 2, 16}, {"bfloat16", "BF16", 4, 16},           {"float64", "F64", 2, 64},
    {"int32", "I32", 0, 32},   {"int64", "I64", 0, 64},   {"uint8", "U8", 1, 8},                 {"int8", "I8", 0, 8},
    {"bool", "BOOL", 6, 8},    {"float8_e4m3fn", "F8_E4M3", 10, 8}, {"float8_e5m2", "F8_E5M2", 12, 8},
};

// nullptr where there is none of that name.
inline const DType* find_dtype(std::string_view name) {
  for (const DType& dtype : kDTypes)
    if (dtype.name == name) return &dtype;
  return nullptr;
}

inline std::string dtype_names() {
  std::string names;
  for (const DType& dtype : kDTypes) names += (names.empty() ? "" : ", ") + std::string(dtype.name);
  return names;
}

inline const DType& dtype(std::string_view name) {
  if (const DType* found = find_dtype(name)) return *found;
  throw Error("UnknownNameError", "unknown dtype", "'" + std::string(name) + "'", "one of " + dtype_names());
}

// As it is called in messages, also where no kernel knows it.
inline std::string text(DLDataType given) {
  for (const DType& dtype : kDTypes)
    if (dtype.code == given.code && dtype.bits == given.bits && given.lanes == 1) return std::string(dtype.name);
  return "DLPack code " + std::to_string(given.code) + ", " + std::to_string(given.bits) + " bits, " +
         std::to_string(given.lanes) + " lanes";
}

// The element type of a C++ type. The 16 and 8 bit floats have none in C++17: name them instead.
template <typename T>
const DType& dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, float>) return kDTypes[0];
  else if constexpr (std::is_same_v<U, double>) return kDTypes[3];
  else if constexpr (std::is_same_v<U, int32_t>) return kDTypes[4];
  else if constexpr (std::is_same_v<U, int64_t>) return kDTypes[5];
  else if constexpr (std::is_same_v<U, uint8_t>) return kDTypes[6];
  else if constexpr (std::is_same_v<U, int8_t>) return kDTypes[7];
  else {
    static_assert(std::is_same_v<U, bool>, "no kernel knows this type; pass a void* and the dtype's name");
    return kDTypes[8];
  }
}

}  // namespace treadle
