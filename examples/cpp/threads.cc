// threads BUNDLE COUNT RUNS: an encoder from several threads, a Session each over shared weights; prints how many of their
// results differ in any bit from those of one thread.
#include <treadle/treadle.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 4) return std::fprintf(stderr, "usage: threads BUNDLE COUNT RUNS\n"), 2;
  const int count = std::atoi(argv[2]), runs = std::atoi(argv[3]);
  std::vector<float> image(3 * 56 * 84);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<float>(i % 251) / 125 - 1;
  const treadle::Arguments inputs{{"image", treadle::Tensor(image.data(), {1, 3, 56, 84})}};

  treadle::Session first{treadle::Bundle(argv[1])};
  const treadle::Outputs want = first.run(inputs);
  std::atomic<int> different{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t)
    threads.emplace_back([&, session = first.clone()]() mutable {
      for (int run = 0; run < runs; ++run)
        for (const auto& [name, array] : session.run(inputs))
          different += std::memcmp(array.data(), want.at(name).data(), static_cast<size_t>(array.bytes())) != 0;
    });
  for (std::thread& thread : threads) thread.join();
  std::printf("%d threads, %d runs each, %d different\n", count, runs, different.load());
  return different.load() ? 1 : 0;
} catch (const treadle::Error& wrong) {
  std::fprintf(stderr, "threads: %s: %s\n", wrong.type().c_str(), wrong.what());
  return 1;
}
