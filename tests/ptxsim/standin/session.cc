// session BUNDLE: a C++ program with a CUDA session, which knows nothing of the stand-in. The bundle takes x [N,P,32] and gives
// y [N,32]. Prints what of y is not the mean of x over P, and the error that there is.
#include <treadle/treadle.h>

#include <cmath>
#include <cstdio>
#include <vector>

int main(int, char** argv) try {
  constexpr int64_t n = 2, p = 50, c = 32;
  std::vector<float> values(n * p * c), mean(n * c, 0.0f);
  for (int64_t i = 0; i < n * p * c; ++i) {
    values[static_cast<size_t>(i)] = static_cast<float>(i % 101) - 50.0f;
    mean[static_cast<size_t>(i / (p * c) * c + i % c)] += values[static_cast<size_t>(i)] / p;
  }
  treadle::Session session(treadle::Bundle(argv[1]), "cuda:0");
  const treadle::Stream stream(nullptr);
  const treadle::Array x = session.upload(treadle::Tensor(values.data(), {n, p, c}), stream);
  for (int turn = 0; turn < 2; ++turn) {
    const treadle::Outputs outputs = session.run({{"x", x.tensor()}}, stream);
    const treadle::Array y = session.download(outputs.at("y"), stream);
    int wrong = 0;
    for (size_t i = 0; i < mean.size(); ++i) wrong += !(std::fabs(y.as<float>()[i] - mean[i]) < 1e-4f);
    std::printf("%d wrong of %zu\n", wrong, mean.size());
  }
} catch (const treadle::Error& wrong) {
  std::printf("%s: %s\n", wrong.type().c_str(), wrong.what());
}
