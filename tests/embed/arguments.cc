// arguments BUNDLE: calls an encoder wrongly in every way and prints what is said, a line each: case, type, message, given,
// expected, hint.
#include <treadle/treadle.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

using treadle::Arguments;
using treadle::Tensor;

int main(int, char** argv) {
  treadle::Session session{treadle::Bundle(argv[1])};
  std::vector<float> image(1 << 16), features(192 * 4), pooled(192);
  std::vector<double> doubles(1 << 16);
  const Tensor good(image.data(), {1, 3, 28, 28});
  const auto run = [&session](const Tensor& t) { session.run({{"image", t}}); };
  const auto into = [&](const Arguments& outputs) { session.run({{"image", good}}, outputs); };
  const Tensor f(features.data(), {1, 192, 2, 2}), p(pooled.data(), {1, 192});

  DLTensor foreign = good.dl();
  foreign.device = {kDLCUDA, 1};
  const Tensor elsewhere(foreign);
  int64_t strides[] = {3 * 28 * 28, 28 * 28, 1, 28};
  foreign.device = {kDLCPU, 0};
  foreign.strides = strides;
  const Tensor transposed(foreign);

  const std::vector<std::pair<const char*, std::function<void()>>> cases = {
      {"rank", [&] { run(Tensor(image.data(), {3, 28, 28})); }},
      {"dtype", [&] { run(Tensor(doubles.data(), {1, 3, 28, 28})); }},
      {"bits", [&] { run(Tensor(image.data(), "bfloat16", {1, 3, 28, 28})); }},
      {"size", [&] { run(Tensor(image.data(), {1, 4, 28, 28})); }},
      {"step", [&] { run(Tensor(image.data(), {1, 3, 28, 29})); }},
      {"bound", [&] { run(Tensor(image.data(), {0, 3, 28, 28})); }},
      {"negative", [&] { run(Tensor(image.data(), {1, 3, -28, 28})); }},
      {"absurd", [&] { run(Tensor(image.data(), {INT64_MAX, 3, 28, 28})); }},
      {"null", [&] { run(Tensor(static_cast<float*>(nullptr), {1, 3, 28, 28})); }},
      {"device", [&] { run(elsewhere); }},
      {"strides", [&] { run(transposed); }},
      {"address", [&] { run(Tensor(reinterpret_cast<float*>(reinterpret_cast<char*>(image.data()) + 1), {1, 3, 28, 28})); }},
      {"unknown", [&] { session.run({{"picture", good}}); }},
      {"missing", [&] { session.run(Arguments{}); }},
      {"twice", [&] { session.run({{"image", good}, {"image", good}}); }},
      {"entry", [&] { session.run({{"image", good}}, "encode"); }},
      {"output size", [&] { into({{"features", f}, {"pooled", Tensor(pooled.data(), {2, 96})}}); }},
      {"output missing", [&] { into({{"pooled", p}}); }},
      {"output const", [&] { into({{"features", f}, {"pooled", Tensor(static_cast<const float*>(pooled.data()), {1, 192})}}); }},
      {"overlap", [&] { into({{"features", f}, {"pooled", Tensor(image.data() + 100, {1, 192})}}); }},
      {"shape", [&] { Tensor(DLTensor{nullptr, {kDLCPU, 0}, 3, {2, 32, 1}, nullptr, nullptr, 0}); }},
      {"element", [&] { session.run({{"image", good}}).at("pooled").as<double>(); }},
      {"stream", [&] { session.run({{"image", good}}, treadle::Stream(nullptr)); }},
      {"upload", [&] { session.upload(good, treadle::Stream(nullptr)); }},
      {"no such device", [&] { treadle::Session(treadle::Bundle(argv[1]), "gpu:0"); }},
      {"cuda", [&] { treadle::Session(treadle::Bundle(argv[1]), DLDevice{kDLCUDA, 0}); }},
  };
  for (const auto& [name, call] : cases) {
    try {
      call();
      std::printf("%s\taccepted\n", name);
    } catch (const treadle::Error& e) {
      std::printf("%s\t%s\t%s\t%s\t%s\t%s\n", name, e.type().c_str(), e.message().c_str(), e.given().c_str(), e.expected().c_str(), e.hint().c_str());
    }
  }
  into({{"pooled", p}, {"features", f}});  // and after all that it still runs, with outputs in any order
  std::printf("good\t%a\t%a\n", static_cast<double>(features[0]), static_cast<double>(pooled[191]));
}
