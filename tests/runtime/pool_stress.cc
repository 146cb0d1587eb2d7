// Drives the pool the way kernels do, from several threads at once.  Built plain to
// measure, and with -fsanitize=thread to look for races.  Prints "ok" or aborts.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../../runtime/cpp/pool.cc"

namespace {

#define CHECK(condition) \
  if (!(condition)) (fprintf(stderr, "line %d: %s\n", __LINE__, #condition), abort())

struct Job {
  std::vector<int> ran;  // plain ints: a task run twice or a missing join is a race
  bool nested;
  int fail_at;
};

int Work(int id, GroupEnv* env, void* data) {
  auto* job = static_cast<Job*>(data);
  CHECK(env->num_task == static_cast<int>(job->ran.size()));
  ++job->ran[id];
  void* scratch = __TVMBackendAllocWorkspace(1, 0, 100 + 5000 * (id % 3), 2, 32);
  CHECK(reinterpret_cast<uintptr_t>(scratch) % 64 == 0);
  memset(scratch, id, 100);
  if (job->nested) {
    Job inner{std::vector<int>(3), false, -1};
    CHECK(__TVMBackendParallelLaunch(Work, &inner, 3) == 0);
    for (int times : inner.ran) CHECK(times == 1);
  }
  CHECK(__TVMBackendFreeWorkspace(1, 0, scratch) == 0);
  return id == job->fail_at ? -7 : 0;
}

void Caller(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    int tasks = 1 + round % 11, fail_at = round % 13;
    Job job{std::vector<int>(tasks), round % 4 == 0, fail_at};
    CHECK(__TVMBackendParallelLaunch(Work, &job, tasks) == (fail_at < tasks ? -7 : 0));
    for (int times : job.ran) CHECK(times == 1);
    if (round % 256 == 0) usleep(2000);  // long enough for the workers to fall asleep
  }
}

int Nothing(int, GroupEnv*, void*) { return 0; }

// Ends only when two threads are in the region: the time to get a worker going.
int Meet(int, GroupEnv*, void* data) {
  auto* here = static_cast<std::atomic<int>*>(data);
  for (++*here; *here < 2;) Relax();
  return 0;
}

int Width(int id, GroupEnv* env, void* data) {
  if (id == 0) *static_cast<int*>(data) = env->num_task;
  return 0;
}

// Median, because the other tenants of a small machine own the mean.
double Nanoseconds(Task task, int rounds, int pause_us) {
  std::vector<double> times;
  int repeats = pause_us != 0 ? 1 : 20;
  for (int round = 0; round < rounds; ++round) {
    if (pause_us != 0) usleep(pause_us);
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) {
      std::atomic<int> here{0};
      __TVMBackendParallelLaunch(task, &here, 2);
    }
    std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    times.push_back(took.count() / repeats);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 2000;
  int width = 0;
  CHECK(__TVMBackendParallelLaunch(Width, &width, 0) == 0);

  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back(Caller, rounds);
  for (auto& caller : callers) caller.join();

#ifndef __SANITIZE_THREAD__  // which does not know forked threads
  // A child has no workers of its own until it needs them.
  if (pid_t child = fork()) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  } else {
    int again = 0;
    CHECK(__TVMBackendParallelLaunch(Width, &again, 0) == 0 && again == width);
    Caller(20);
    exit(0);
  }
#endif
  printf("ok width=%d", width);
  if (width > 1 && argc > 2) {  // two tasks on two threads
    printf(" empty_ns=%.0f meet_ns=%.0f idle_empty_ns=%.0f idle_meet_ns=%.0f", Nanoseconds(Nothing, 1000, 0),
           Nanoseconds(Meet, 1000, 0), Nanoseconds(Nothing, 200, 2000), Nanoseconds(Meet, 200, 2000));
  }
  printf("\n");
}
