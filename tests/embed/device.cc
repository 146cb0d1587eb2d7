// device BUNDLE calls | wrong | DEVICE: what a program with CUDA sessions does and meets, on the stand-in device, without its kernels.
//
// The bundle is the small one of tests/fake_cuda: x [N,P,32] in, y [N,32] out. `calls` prints what reached the CUDA runtime, stage by stage,
// each behind `== name`; `wrong` makes every mistake; DEVICE makes a Session there. What is tried is told in a line, with tabs:
// case, then `accepted` or type, message, given, expected, hint. Facts are told as `-- name value`. Compiled without CUDA's headers.
#include <treadle/treadle.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

using treadle::Array;
using treadle::Bundle;
using treadle::Session;
using treadle::Stream;
using treadle::Tensor;

// The stand-in's own functions; it is loaded by the first Session.
template <typename F, typename... Args>
static auto fake(const char* name, Args... args) {
  void* found = dlsym(dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD), name);
  if (!found) std::fprintf(stderr, "no %s\n", name), std::exit(3);
  return reinterpret_cast<F*>(found)(args...);
}
static void fail(const char* function, int code, int nth = 1) { fake<void(const char*, int, int)>("fake_fail", function, nth, code); }
static void capture(int on) { fake<void(int)>("fake_capture", on); }
static long live() { return fake<long()>("fake_live"); }

static void stage(const char* name) {
  std::printf("== %s\n%s", name, fake<const char*()>("fake_log"));
  fake<void()>("fake_clear");
}

static void tell(const char* name, const std::function<void()>& call) try {
  call();
  std::printf("%s\taccepted\n", name);
} catch (const treadle::Error& e) {
  std::printf("%s\t%s\t%s\t%s\t%s\t%s\n", name, e.type().c_str(), e.message().c_str(), e.given().c_str(), e.expected().c_str(), e.hint().c_str());
}

static Stream on(uintptr_t handle) { return Stream(reinterpret_cast<void*>(handle)); }

static std::vector<float> values(size_t count) {
  std::vector<float> made(count);
  for (size_t i = 0; i < count; ++i) made[i] = static_cast<float>(i);
  return made;
}

static void calls(const Bundle& bundle) {
  std::optional<Session> session(std::in_place, bundle, "cuda:0");
  stage("load");
  const std::vector<float> host = values(2 * 5 * 32);
  std::optional<Array> x = session->upload(Tensor(host.data(), {2, 5, 32}), on(0x7000));
  stage("upload");
  treadle::Outputs fresh = session->run({{"x", x->tensor()}}, on(0x7000));
  stage("first call");
  treadle::Outputs again = session->run({{"x", x->tensor()}}, on(0x7000));
  stage("second call");
  Array& y = fresh.at("y");
  session->run({{"x", x->tensor()}}, {{"y", y.tensor()}}, on(0x8000));
  stage("another stream, into memory there");
  const Tensor foreign(x->tensor().dl());  // as a program with DLPack tensors has them
  session->run({{"x", foreign}}, {{"y", y.tensor()}}, on(0x8000));
  stage("the same again, from a DLTensor");

  capture(1);
  session->run({{"x", x->tensor()}}, {{"y", y.tensor()}}, on(0x8000));
  tell("fresh outputs", [&] { session->run({{"x", x->tensor()}}, on(0x8000)); });
  tell("upload", [&] { session->upload(Tensor(host.data(), {2, 5, 32}), on(0x8000)); });
  tell("download", [&] { session->download(y, on(0x8000)); });
  tell("a larger call", [&] { session->clone().run({{"x", x->tensor()}}, {{"y", y.tensor()}}, on(0x8000)); });
  std::printf("-- spoilt %d\n", fake<int()>("fake_spoilt"));
  capture(0);
  stage("captured");

  std::optional<Session> twin = session->clone();
  stage("clone");
  std::thread([&] { twin->run({{"x", x->tensor()}}, {{"y", y.tensor()}}, on(0x9000)); }).join();
  stage("from another thread");
  std::printf("-- left on %p\n", treadle::Ffi::get().exchange_stream({kDLCUDA, 0}, nullptr));

  const Array back = session->download(*x, on(0x7000));
  std::printf("-- back %d %s on %s\n", std::memcmp(back.as<float>(), host.data(), host.size() * 4) == 0, treadle::text(back.shape()).c_str(),
              treadle::text(back.device()).c_str());
  const Array empty = session->upload(Tensor(host.data(), {0, 5, 32}), on(0x7000));
  stage("download");
  const treadle::Outputs none = session->run({{"x", empty.tensor()}}, on(0x7000));
  std::printf("-- empty %s\n", treadle::text(none.at("y").shape()).c_str());
  stage("sizes of zero");
  session.reset();
  twin.reset();  // the arrays keep the library
  stage("sessions end");
  fresh.clear(), again.clear(), x.reset();
  std::printf("-- live %ld\n", live());
}

static void wrong(const Bundle& bundle) {
  constexpr int kOutOfMemory = 2, kNoImage = 209, kIllegal = 700;
  Session session(bundle, "cuda:0");
  const std::vector<float> host = values(2 * 5 * 32);
  std::vector<float> out(2 * 32);
  const Stream s = on(0x7000);
  const Array x = session.upload(Tensor(host.data(), {2, 5, 32}), s);
  Array y = session.upload(Tensor(out.data(), {2, 32}), s);
  const auto there = [&](int64_t bytes, DLDevice device) {
    return Tensor(const_cast<char*>(static_cast<const char*>(x.data())) + bytes, "float32", {1, 5, 32}, device);
  };
  const auto run = [&](const Tensor& t) { session.run({{"x", t}}, s); };
  const auto into = [&](const Tensor& t) { session.run({{"x", x.tensor()}}, {{"y", t}}, s); };
  const DLDevice cuda0{kDLCUDA, 0}, cuda1{kDLCUDA, 1};

  tell("no stream", [&] { session.run({{"x", x.tensor()}}); });
  tell("host", [&] { run(Tensor(host.data(), {2, 5, 32})); });
  tell("device", [&] { run(there(0, cuda1)); });
  tell("null", [&] { run(Tensor(static_cast<float*>(nullptr), {1, 5, 32}, cuda0)); });
  tell("address", [&] { run(there(4, cuda0)); });
  tell("dtype", [&] { run(Tensor(x.data(), "int32", {2, 5, 32}, cuda0)); });
  tell("size", [&] { run(Tensor(x.data(), "float32", {2, 5, 16}, cuda0)); });
  tell("bound", [&] { run(Tensor(x.data(), "float32", {65, 1, 32}, cuda0)); });
  tell("output host", [&] { into(Tensor(out.data(), {2, 32})); });
  tell("output device", [&] { into(Tensor(y.data(), "float32", {2, 32}, cuda1)); });
  tell("output address", [&] { into(Tensor(static_cast<char*>(y.data()) + 8, "float32", {2, 32}, cuda0)); });
  tell("output const", [&] { into(Tensor(x.data(), "float32", {2, 32}, cuda0)); });
  tell("overlap", [&] { into(Tensor(const_cast<void*>(x.data()), "float32", {2, 32}, cuda0)); });
  tell("elements", [&] { y.as<float>(); });
  tell("upload device", [&] { session.upload(x.tensor(), s); });
  tell("download host", [&] { session.download(Tensor(host.data(), {2, 5, 32}), s); });
  tell("download null", [&] { session.download(Tensor(static_cast<float*>(nullptr), {4}, cuda0), s); });

  const long before = live();
  fail("cudaMalloc", kOutOfMemory);
  tell("no memory for outputs", [&] { session.run({{"x", x.tensor()}}, s); });
  fail("cudaMalloc", kOutOfMemory, 2);
  tell("no memory for the arena", [&] { session.run({{"x", x.tensor()}}, s); });
  fail("cudaMalloc", kOutOfMemory);
  tell("no memory to upload", [&] { session.upload(Tensor(host.data(), {2, 5, 32}), s); });
  fail("cudaMalloc", kOutOfMemory);
  tell("no memory for the weights", [&] { Session(bundle, "cuda:0"); });
  fail("cudaMemcpyAsync", kIllegal);
  tell("copy", [&] { session.download(x, s); });
  fail("cudaLaunchKernelExC", kNoImage, 2);
  tell("launch", [&] { session.run({{"x", x.tensor()}}, s); });
  fail("cudaPeekAtLastError", kIllegal, 2);
  tell("meanwhile", [&] { session.run({{"x", x.tensor()}}, s); });
  std::printf("-- kept %ld\n", live() - before);
  tell("good", [&] { session.run({{"x", x.tensor()}}, s); });
}

int main(int, char** argv) {
  const Bundle bundle(argv[1]);
  const std::string what = argv[2];
  if (what == "calls") {
    calls(bundle);
  } else if (what == "wrong") {
    wrong(bundle);
    std::printf("-- live %ld\n", live());
  } else {
    tell(argv[2], [&] { Session(bundle, what); });
  }
}
