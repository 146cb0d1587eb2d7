// What the fuzz targets share. A treadle::Error is the right answer to bad bytes; any other exception ends the process, and
// libFuzzer reports it as it does a crash or a sanitizer's finding.
#pragma once

#include <treadle/error.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

inline std::string_view bytes(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

template <typename F>
void refusable(F&& run) try {
  run();
} catch (const treadle::Error&) {
}
