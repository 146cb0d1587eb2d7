// encode BUNDLE IMAGE HEIGHT WIDTH: runs an encoder on a file of 3 x HEIGHT x WIDTH raw float32 and prints a norm of each output.
#include <treadle/treadle.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 5) return std::fprintf(stderr, "usage: encode BUNDLE IMAGE HEIGHT WIDTH\n"), 2;
  const int64_t height = std::atoll(argv[3]), width = std::atoll(argv[4]);
  std::vector<float> image(static_cast<size_t>(3 * height * width));
  const auto bytes = static_cast<std::streamsize>(image.size() * sizeof(float));
  if (!std::ifstream(argv[2], std::ios::binary).read(reinterpret_cast<char*>(image.data()), bytes))
    return std::fprintf(stderr, "encode: %s holds no %lld bytes\n", argv[2], static_cast<long long>(bytes)), 1;

  const treadle::Bundle bundle(argv[1]);
  treadle::Session session(bundle);
  const treadle::Outputs outputs = session.run({{"image", treadle::Tensor(image.data(), {1, 3, height, width})}});

  for (const auto& [name, array] : outputs) {
    double sum = 0;
    for (int64_t i = 0; i < array.size(); ++i) sum += double{array.as<float>()[i]} * array.as<float>()[i];
    std::printf("%s %s %a\n", name.c_str(), treadle::text(array.shape()).c_str(), std::sqrt(sum));
  }
} catch (const treadle::Error& wrong) {
  std::fprintf(stderr, "encode: %s: %s\n", wrong.type().c_str(), wrong.what());
  return 1;
}
