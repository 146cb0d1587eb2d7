// Times a bundle's generated plan from C++, as an application would call it.
//
//   plan_driver LIBRARY KERNEL NODES POSITIONS CHANNELS CALLS ROUNDS   prints {"plan": seconds, "kernels": seconds} per call
//
// The bundle is bench/plan_overhead.py's: one input and one output [1, POSITIONS, CHANNELS], NODES calls of one kernel.
#include "host.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using Function = treadle::Kernel;

template <typename F>
double seconds(int calls, F call) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

Function* symbol(void* library, const std::string& name) {
  auto* found = reinterpret_cast<Function*>(dlsym(library, ("__tvm_ffi_" + name).c_str()));
  if (!found) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(1);
  }
  return found;
}

void check(int code) {
  if (code) {
    std::fprintf(stderr, "a call failed\n");
    std::exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const int nodes = std::atoi(argv[3]), calls = std::atoi(argv[6]), rounds = std::atoi(argv[7]);
  const int64_t positions = std::atoi(argv[4]), channels = std::atoi(argv[5]);
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }

  TVMFFIAny session{};
  check(symbol(library, "treadle_session_new")(nullptr, nullptr, 0, &session));
  std::vector<float> in(positions * channels), out(positions * channels);
  constexpr DLDevice cpu{kDLCPU, 0};
  constexpr DLDataType f32{kDLFloat, 32, 1};
  treadle::View<3> x(in.data(), cpu, f32, 1, positions, channels), y(out.data(), cpu, f32, 1, positions, channels);
  treadle::View<3> planes(out.data(), cpu, f32, 1, channels, positions);

  Function* run = symbol(library, "treadle_run_main");
  Function* kernel = symbol(library, argv[2]);
  const TVMFFIAny whole[] = {session, x.any(), y.any()};
  const TVMFFIAny single[] = {x.any(), planes.any()};
  std::vector<double> plan, kernels;
  TVMFFIAny result{};
  for (int r = 0; r < rounds; ++r) {
    plan.push_back(seconds(calls, [&] { check(run(nullptr, whole, 3, &result)); }));
    kernels.push_back(nodes * seconds(calls * nodes, [&] { check(kernel(nullptr, single, 2, &result)); }));
  }
  std::printf("{\"plan\": %.9g, \"kernels\": %.9g}\n", median(plan), median(kernels));
  return symbol(library, "treadle_session_free")(nullptr, &session, 1, &result);
}
