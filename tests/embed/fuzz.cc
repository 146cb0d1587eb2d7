// The readers of a bundle's text, fed with anything: the first byte chooses which. Each may only return or throw treadle::Error.
#include <treadle/manifest.h>
#include <treadle/safetensors.h>
#include <treadle/sums.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0: treadle::Manifest::from_json(text); break;
      case 1: treadle::safetensors::read(text, "fuzz"); break;
      case 2: {
        // The digest could not be guessed: give the body its own.
        const std::string body(text);
        treadle::sums::parse(body + treadle::Sha256::of(body) + "\n", "fuzz");
        break;
      }
      default: treadle::SizeExpr(std::string(text)).evaluate({{"N", 3}, {"H", 1 << 20}});
    }
  } catch (const treadle::Error&) {
  }
  return 0;
}
