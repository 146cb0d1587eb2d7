// verdicts TARGET FILE...: what the C++ readers say to each file, a line each: `accepted`, or the type of the error. The targets
// are those of the fuzzers, whose files these are.
#include <treadle/plan.h>

#include <cstdio>
#include <string>

#include "target.h"

static void read(const std::string& target, const std::string& data) {
  if (target == "manifest") {
    treadle::Manifest::from_json(data);
  } else if (target == "safetensors") {
    treadle::safetensors::read(data, "weights.safetensors");
  } else if (target == "sums") {
    treadle::sums::parse(data, "x.treadle");
  } else {
    const size_t cut = std::min(data.find('\0'), data.size());
    const treadle::Manifest manifest = treadle::Manifest::from_json(data.substr(0, cut));
    const treadle::json::Value value = treadle::json::parse(data.substr(std::min(cut + 1, data.size())), treadle::plan::kFile);
    treadle::check_plan(value, manifest);
  }
}

int main(int count, char** argv) {
  for (int i = 2; i < count; ++i) {
    try {
      read(argv[1], treadle::read_file(argv[i]));
      std::puts("accepted");
    } catch (const treadle::Error& wrong) {
      std::puts(wrong.type().c_str());
    }
  }
}
