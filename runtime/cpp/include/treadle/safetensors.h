// weights.safetensors through one read-only map: 8 bytes of header length, a JSON header, and the tensors back to back.
// Every offset is checked in 64 bits before it is used: the tensors must tile the data with no gap and no overlap.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"
#include "error.h"
#include "json.h"
#include "tensor.h"

namespace treadle::safetensors {

struct Entry {
  const DType* dtype;
  Shape shape;
  uint64_t begin, end;  // in the whole file
};

inline constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit

[[noreturn]] inline void refuse(const std::string& source, const std::string& why, std::string given = {}, std::string expected = {}) {
  throw Error("BundleError", source + ": cannot be read (" + why + ")", std::move(given), std::move(expected),
              "Rebuild the bundle with `treadle compile ... -o`.");
}

inline Entry entry(const json::Node& node, uint64_t data_start, uint64_t file_size) {
  // Other keys are allowed by the format, and ignored in Python too.
  const json::Node f[] = {node.field("dtype"), node.field("shape"), node.field("data_offsets")};
  const DType* dtype = nullptr;
  for (const DType& known : kDTypes)
    if (known.safetensors == f[0].string()) dtype = &known;
  if (!dtype) f[0].refuse("is not a dtype we know", "'" + f[0].string() + "'");
  Shape shape;
  for (const json::Node& size : f[1].items()) shape.push_back(size.integer());
  const auto offsets = f[2].items();
  if (offsets.size() != 2) f[2].refuse("is no pair of offsets", std::to_string(offsets.size()) + " numbers", "begin and end");
  // Both are non-negative int64, so their sums with an offset into the file cannot wrap a uint64.
  const uint64_t begin = data_start + static_cast<uint64_t>(offsets[0].integer()), end = data_start + static_cast<uint64_t>(offsets[1].integer());
  int64_t bytes;
  if (!byte_size(shape, dtype->bytes(), &bytes)) f[1].refuse("overflows", text(shape), "fewer than 2**63 bytes");
  if (begin > end || end > file_size || end - begin != static_cast<uint64_t>(bytes))
    f[2].refuse("does not fit its tensor", std::to_string(begin - data_start) + " to " + std::to_string(end - data_start),
                std::to_string(bytes) + " B within the file");
  return {dtype, std::move(shape), begin, end};
}

// What the file holds, by name; `source` is its name in messages.
inline std::map<std::string, Entry> read(std::string_view file, const std::string& source) {
  constexpr uint64_t kPrefix = 8;
  if (file.size() < kPrefix) refuse(source, "too short for a header", std::to_string(file.size()) + " B", "at least 8 B");
  uint64_t header = 0;
  for (uint64_t i = kPrefix; i-- > 0;) header = header << 8 | static_cast<unsigned char>(file[i]);
  if (header > kMaxHeader || header > file.size() - kPrefix)
    refuse(source, "its header does not fit", std::to_string(header) + " B", std::to_string(std::min<uint64_t>(kMaxHeader, file.size() - kPrefix)) + " B or fewer");
  const json::Value value = json::parse(file.substr(kPrefix, header), source);
  std::map<std::string, Entry> found;
  for (const auto& [name, node] : json::Node(value, "", source).entries()) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : node.entries()) (void)key, text.string();
    } else {
      found.emplace(name, entry(node, kPrefix + header, file.size()));
    }
  }
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const auto& [name, e] : found) spans.emplace_back(e.begin, e.end);
  std::sort(spans.begin(), spans.end());
  uint64_t at = kPrefix + header;
  for (const auto& [begin, end] : spans) {
    if (begin != at) refuse(source, begin < at ? "tensors overlap" : "a gap between tensors", "byte " + std::to_string(begin), "byte " + std::to_string(at));
    at = end;
  }
  if (at != file.size()) refuse(source, "bytes behind the last tensor", std::to_string(file.size()) + " B", std::to_string(at) + " B");
  return found;
}

}  // namespace treadle::safetensors
