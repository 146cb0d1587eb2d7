// encode_cuda BUNDLE IMAGE HEIGHT WIDTH: encode.cc on the first GPU. It needs no CUDA to be built; a program that has it passes its
// own cudaStream_t, and tensors over its own device memory.
#include <treadle/treadle.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 5) return std::fprintf(stderr, "usage: encode_cuda BUNDLE IMAGE HEIGHT WIDTH\n"), 2;
  const int64_t height = std::atoll(argv[3]), width = std::atoll(argv[4]);
  std::vector<float> pixels(static_cast<size_t>(3 * height * width));
  const auto bytes = static_cast<std::streamsize>(pixels.size() * sizeof(float));
  if (!std::ifstream(argv[2], std::ios::binary).read(reinterpret_cast<char*>(pixels.data()), bytes))
    return std::fprintf(stderr, "encode_cuda: %s holds no %lld bytes\n", argv[2], static_cast<long long>(bytes)), 1;

  treadle::Session session(treadle::Bundle(argv[1]), "cuda:0");
  const treadle::Stream stream(nullptr);  // the legacy default stream
  const treadle::Array image = session.upload(treadle::Tensor(pixels.data(), {1, 3, height, width}), stream);
  const treadle::Outputs outputs = session.run({{"image", image.tensor()}}, stream);

  for (const auto& [name, there] : outputs) {
    const treadle::Array array = session.download(there, stream);
    double sum = 0;
    for (int64_t i = 0; i < array.size(); ++i) sum += double{array.as<float>()[i]} * array.as<float>()[i];
    std::printf("%s %s %a\n", name.c_str(), treadle::text(array.shape()).c_str(), std::sqrt(sum));
  }
} catch (const treadle::Error& wrong) {
  std::fprintf(stderr, "encode_cuda: %s: %s\n", wrong.type().c_str(), wrong.what());
  return 1;
}
