// The thread pool of a CPU bundle library.
//
// TVM lowers `T.parallel` to a call through the weak data pointer
// __TVMBackendParallelLaunch, which nobody but libtvm_runtime fills in.  We link this
// file into every CPU library instead, so that a bundle needs libtvm_ffi alone.  The
// pointers are hidden: were they exported, a libtvm_runtime that happens to be loaded
// in the same process would overwrite them, and timing and thread counts with them.
//
// A region is a handful of stores: the caller hands every worker its task through that
// worker's own cache line, runs task 0 itself, then takes back the tasks of workers that
// have not started.  So a worker that is asleep or descheduled never delays a short
// region, and a worker that is awake finds the same task, hence the same data, each time.

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "workspace.h"

namespace {

// Layouts as in tvm/runtime/c_backend_api.h.
struct GroupEnv {
  void* sync_handle;
  int32_t num_task;
};
using Task = int (*)(int task_id, GroupEnv* env, void* cdata);

// From libtvm_ffi, which every kernel that can raise an error needs anyway.
extern "C" __attribute__((weak)) void TVMFFIErrorMoveFromRaised(void** result);
extern "C" __attribute__((weak)) void TVMFFIErrorSetRaised(void* error);
extern "C" __attribute__((weak)) int TVMFFIObjectDecRef(void* object);

constexpr int kSpins = 2000;
constexpr int kMaxThreads = 1024;

// A worker's state doubles as the futex it sleeps on.
enum State : uint32_t {
  kIdle,     // nothing to do, the worker is polling
  kAsleep,   // nothing to do, the worker must be woken
  kReady,    // work is published and belongs to whoever takes it: worker or caller
  kTaken,    // the worker is running it
  kAwaited,  // ... and the caller sleeps until it is done
  kStop,     // the worker must return
};

struct alignas(128) Worker {  // two lines: x86 prefetches lines in pairs
  std::atomic<uint32_t> state{kIdle};
  Task task = nullptr;
  void* cdata = nullptr;
  int first = 0;     // runs task ids first, first + stride, ... below count
  int stride = 0;
  int count = 0;
  int status = 0;
  void* error = nullptr;  // what the tasks raised; raised errors are per thread in tvm-ffi
  pthread_t thread{};
};

Worker* workers = nullptr;         // size - 1 of them; the caller is the missing one
std::atomic<int> size{0};          // 0: not started
std::atomic<bool> busy{false};     // a region is running; its owner alone writes the two above
thread_local bool inside = false;  // this thread is running a task

inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void Sleep(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void Wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

int RunTasks(Task task, void* cdata, int first, int stride, int count) {
  GroupEnv env{nullptr, count};
  int status = 0;
  for (int id = first; id < count; id += stride) {
    int code = task(id, &env, cdata);
    if (status == 0) status = code;
  }
  return status;
}

// Waits until there is work; false when the pool is closing.
bool Next(Worker* me) {
  for (;;) {
    for (int spin = 0; spin < kSpins; ++spin) {
      uint32_t now = me->state.load(std::memory_order_relaxed);
      if (now == kStop) return false;
      if (now == kReady &&
          me->state.compare_exchange_strong(now, kTaken, std::memory_order_acquire)) {
        return true;
      }
      Relax();
    }
    uint32_t idle = kIdle;
    if (me->state.compare_exchange_strong(idle, kAsleep, std::memory_order_acq_rel)) {
      while (me->state.load(std::memory_order_relaxed) == kAsleep) Sleep(&me->state, kAsleep);
    }
  }
}

void* WorkerMain(void* argument) {
  Worker* me = static_cast<Worker*>(argument);
  inside = true;  // a parallel loop inside a task runs serially
  while (Next(me)) {
    me->status = RunTasks(me->task, me->cdata, me->first, me->stride, me->count);
    if (me->status != 0 && TVMFFIErrorMoveFromRaised) TVMFFIErrorMoveFromRaised(&me->error);
    if (me->state.exchange(kIdle, std::memory_order_acq_rel) == kAwaited) Wake(&me->state);
  }
  return nullptr;  // not pthread_exit: that may dlopen libgcc_s while dlclose holds the lock
}

void Publish(Worker* worker, Task task, void* cdata, int first, int stride, int count) {
  worker->task = task;
  worker->cdata = cdata;
  worker->first = first;
  worker->stride = stride;
  worker->count = count;
  if (worker->state.exchange(kReady, std::memory_order_acq_rel) == kAsleep) Wake(&worker->state);
}

// Runs the worker's tasks here if it has not begun them, else waits for it.
int Finish(Worker* worker) {
  uint32_t ready = kReady;
  if (worker->state.compare_exchange_strong(ready, kIdle, std::memory_order_acq_rel)) {
    return RunTasks(worker->task, worker->cdata, worker->first, worker->stride, worker->count);
  }
  for (int spin = 0; spin < kSpins; ++spin) {
    uint32_t now = worker->state.load(std::memory_order_acquire);
    if (now == kIdle || now == kAsleep) return worker->status;
    Relax();
  }
  uint32_t taken = kTaken;
  if (worker->state.compare_exchange_strong(taken, kAwaited, std::memory_order_acq_rel)) {
    while (worker->state.load(std::memory_order_acquire) == kAwaited) {
      Sleep(&worker->state, kAwaited);
    }
  }
  worker->state.load(std::memory_order_acquire);  // pairs with the exchange that ended the task
  return worker->status;
}

// Raises in this thread what a task raised in a worker.
void MoveError(Worker* worker) {
  if (worker->error == nullptr) return;
  TVMFFIErrorSetRaised(worker->error);  // takes its own reference
  TVMFFIObjectDecRef(worker->error);
  worker->error = nullptr;
}

int WantedSize() {
  const char* text = getenv("TREADLE_NUM_THREADS");
  if (text != nullptr && *text != '\0') {
    char* end = nullptr;
    long wanted = strtol(text, &end, 10);
    // The Python session refuses a bad value with an error; here it counts as unset.
    if (*end == '\0' && wanted >= 1 && wanted <= kMaxThreads) return static_cast<int>(wanted);
  }
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
  long online = sysconf(_SC_NPROCESSORS_ONLN);  // more CPUs than cpu_set_t can name
  return online < 1 ? 1 : online > kMaxThreads ? kMaxThreads : static_cast<int>(online);
}

// Called by the owner of `busy`.  With fewer threads than wanted the pool is just smaller.
void Start() {
  int wanted = WantedSize(), started = 1;
  workers = wanted > 1 ? new (std::nothrow) Worker[wanted - 1] : nullptr;
  if (workers == nullptr) wanted = 1;
  sigset_t all, before;
  sigfillset(&all);  // signals belong to the application's threads, not to ours
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (; started < wanted; ++started) {
    Worker* worker = &workers[started - 1];
    if (pthread_create(&worker->thread, nullptr, WorkerMain, worker) != 0) break;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  size.store(started, std::memory_order_relaxed);
}

int ParallelLaunch(Task task, void* cdata, int num_task) {
  if (inside || busy.exchange(true, std::memory_order_acquire)) {
    // Nested, or another thread has the pool: run here.  The task count stays what it
    // would have been, so that a kernel splits its work, and rounds, the same way.
    int known = size.load(std::memory_order_relaxed);
    int count = num_task != 0 ? num_task : known != 0 ? known : WantedSize();
    bool was_inside = inside;
    inside = true;
    int status = RunTasks(task, cdata, 0, 1, count);
    inside = was_inside;
    return status;
  }
  if (size.load(std::memory_order_relaxed) == 0) Start();
  int threads = size.load(std::memory_order_relaxed);
  int count = num_task != 0 ? num_task : threads;
  int helpers = (count < threads ? count : threads) - 1;
  int stride = helpers + 1;
  inside = true;
  for (int i = 0; i < helpers; ++i) Publish(&workers[i], task, cdata, i + 1, stride, count);
  int status = RunTasks(task, cdata, 0, stride, count);
  for (int i = 0; i < helpers; ++i) {
    int code = Finish(&workers[i]);
    if (code != 0) MoveError(&workers[i]);
    if (status == 0) status = code;
  }
  inside = false;
  busy.store(false, std::memory_order_release);
  return status;
}

// A forked child has none of the threads; the next region starts a new pool.  The old
// array is left alone, since at the moment of the fork its owner may have been using it.
void AfterFork() {
  workers = nullptr;
  size = 0;
  inside = false;
  busy.store(false, std::memory_order_relaxed);
}

__attribute__((constructor)) void Open() { pthread_atfork(nullptr, nullptr, AfterFork); }

// At dlclose and at exit.  `busy` stays set, so a later region (another library's
// destructor, a detached thread) runs serially instead of touching a pool that is gone.
__attribute__((destructor)) void Close() {
  if (inside) return;  // a task called exit(): its region can never end
  for (int tries = 0; busy.exchange(true, std::memory_order_acquire); ++tries) {
    if (tries == 2000) return;  // 2 s: some detached thread is still computing, let it
    timespec millisecond{0, 1000000};
    nanosleep(&millisecond, nullptr);
  }
  for (int i = 0; i < size - 1; ++i) {
    if (workers[i].state.exchange(kStop, std::memory_order_acq_rel) == kAsleep) {
      Wake(&workers[i].state);
    }
  }
  for (int i = 0; i < size - 1; ++i) pthread_join(workers[i].thread, nullptr);
  delete[] workers;
  workers = nullptr;
  size = 1;
}

}  // namespace

extern "C" {
#define TREADLE_HIDDEN __attribute__((visibility("hidden"), used))
TREADLE_HIDDEN int (*__TVMBackendParallelLaunch)(Task, void*, int) = ParallelLaunch;
TREADLE_HIDDEN void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) =
    treadle::AllocWorkspace;
TREADLE_HIDDEN int (*__TVMBackendFreeWorkspace)(int, int, void*) = treadle::FreeWorkspace;
}
