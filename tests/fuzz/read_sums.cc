// SHA256SUMS of any bytes, and the same with the last line that they ask for: without it nothing behind it is reached.
#include <treadle/sums.h>

#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text(bytes(data, size));
  refusable([&] { treadle::sums::parse(text, "x.treadle"); });
  if (!text.empty() && text.back() != '\n') text += '\n';
  refusable([&] { treadle::sums::parse(text + treadle::Sha256::of(text) + "\n", "x.treadle"); });
  return 0;
}
