// weights.safetensors of any bytes. Of what is accepted every tensor is read to its end.
#include <treadle/safetensors.h>

#include <cstdlib>
#include <numeric>
#include <string>

#include "target.h"

static void read(std::string_view file) {
  refusable([&] {
    for (const auto& [name, entry] : treadle::safetensors::read(file, "weights.safetensors")) {
      int64_t wanted = 0;
      if (entry.begin > entry.end || entry.end > file.size()) std::abort();
      if (!treadle::byte_size(entry.shape, entry.dtype->bytes(), &wanted)) std::abort();
      if (static_cast<uint64_t>(wanted) != entry.end - entry.begin) std::abort();
      volatile char sum = std::accumulate(file.begin() + entry.begin, file.begin() + entry.end, char{0}, [](char a, char b) { return a ^ b; });
      (void)sum;
    }
  });
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kPrefix = 8;
  const std::string_view file = bytes(data, size);
  read(file);
  // Once more with the header's length made right, for a mutation that lengthens the header spoils it.
  const size_t end = file.rfind('}');
  if (size < kPrefix || end == file.npos || end < kPrefix) return 0;
  std::string mended(file);
  for (size_t i = 0, length = end + 1 - kPrefix; i < kPrefix; ++i, length >>= 8) mended[i] = static_cast<char>(length & 0xFF);
  read(mended);
  return 0;
}
