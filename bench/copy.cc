// The machine's copy bandwidth: three ways to copy one array to another, each over all the threads given.
//
// Every thread is pinned, touches its own part first, and copies that part. Which way wins depends on the machine: a plain
// store reads the line it is about to overwrite, a non-temporal one does not but bypasses the caches.
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

namespace {

struct Copy {
  size_t bytes;  // of one array, a multiple of 64 per thread
  std::vector<int> cpus;
  char* from;
  char* to;

  template <typename F>
  void each(F work) {
    std::vector<std::thread> threads;
    const size_t part = bytes / cpus.size();
    for (size_t i = 0; i < cpus.size(); ++i) {
      threads.emplace_back([=] {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpus[i], &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
        work(from + i * part, to + i * part, part);
      });
    }
    for (auto& t : threads) t.join();
  }
};

void with_memcpy(const char* from, char* to, size_t n) { std::memcpy(to, from, n); }

void with_avx(const char* from, char* to, size_t n) {
  for (size_t i = 0; i < n; i += 32) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + i), _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i)));
  }
}

void with_streaming(const char* from, char* to, size_t n) {
  for (size_t i = 0; i < n; i += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i)));
  }
  _mm_sfence();
}

}  // namespace

extern "C" {

void* copy_new(size_t bytes, const int* cpus, int count) {
  auto* c = new (std::nothrow) Copy{bytes, {cpus, cpus + count}, nullptr, nullptr};
  if (!c) return nullptr;
  c->from = static_cast<char*>(std::aligned_alloc(4096, bytes));
  c->to = static_cast<char*>(std::aligned_alloc(4096, bytes));
  if (c->from && c->to) {
    c->each([](char* from, char* to, size_t n) {
      std::memset(from, 1, n);
      std::memset(to, 2, n);
    });
    return c;
  }
  std::free(c->from);
  std::free(c->to);
  delete c;
  return nullptr;
}

void copy_run(void* handle, int method) {
  auto* c = static_cast<Copy*>(handle);
  c->each(method == 0 ? with_memcpy : method == 1 ? with_avx : with_streaming);
}

void copy_free(void* handle) {
  auto* c = static_cast<Copy*>(handle);
  std::free(c->from);
  std::free(c->to);
  delete c;
}
}
