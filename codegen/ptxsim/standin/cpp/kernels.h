// Fat binaries.
#pragma once

#include <vector>

namespace standin {

struct Image {
  int number;  // 90 of sm_90a
  char suffix;
};

// The machine code in a fat binary.
std::vector<Image> images(const void* fatbin);

}  // namespace standin
