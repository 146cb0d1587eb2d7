// cycle BUNDLE INPUT LOADS CALLS: loads a bundle, runs it and unloads it, again and again; then calls one Session. Prints the
// resident memory in kB after a tenth of the loads and after all, microseconds a load with its run, nanoseconds a call.
#include <treadle/treadle.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

static long resident() {
  const std::string status = treadle::read_file("/proc/self/status");
  return std::atol(status.c_str() + status.find("VmRSS:") + 6);
}

template <typename Work>
static double seconds(int count, Work work) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) work(i);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int main(int, char** argv) {
  const std::string input = treadle::read_file(argv[2]);
  const treadle::Arguments inputs{{"x", treadle::Tensor(input.data(), "float32", {2, 5, 32})}};
  const int loads = std::atoi(argv[3]), calls = std::atoi(argv[4]);
  long early = 0;
  const double load = seconds(loads, [&](int i) {
    treadle::Session session{treadle::Bundle(argv[1])};
    session.run(inputs);
    if (i == loads / 10) early = resident();
  });
  const long late = resident();

  treadle::Session session{treadle::Bundle(argv[1])};
  std::vector<float> y(2 * 32);
  const treadle::Arguments outputs{{"y", treadle::Tensor(y.data(), {2, 32})}};
  const double call = seconds(calls, [&](int) { session.run(inputs, outputs); });
  std::printf("%ld %ld %.1f %.0f\n", early, late, load / loads * 1e6, call / calls * 1e9);
}
