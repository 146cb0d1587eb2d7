// A bundle library written by hand: what codegen generates, in the small.
//
//   a = x * gain   (in the arena)      y = a + 1      total = row sums of a
//
// x[0] == -1 makes an entry raise, x[0] == -2 fails inside a worker thread.

#include <tvm/ffi/c_api.h>

#include <cstdlib>
#include <cstring>

extern "C" {
struct GroupEnv {
  void* sync_handle;
  int32_t num_task;
};
// Weak, as in TVM's objects: the pool's strong definition fills it in at link time.
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(int (*)(int, GroupEnv*, void*), void*, int);
}

#ifndef ADDEND  // a second library, told apart by its results
#define ADDEND 1.0f
#endif

namespace {

const DLTensor* Arg(const TVMFFIAny& any) {
  if (any.type_index == kTVMFFIDLTensorPtr) return static_cast<const DLTensor*>(any.v_ptr);
  return TVMFFITensorGetDLTensorPtr(any.v_obj);
}
float* Data(const DLTensor* t) {
  return reinterpret_cast<float*>(static_cast<char*>(t->data) + t->byte_offset);
}

struct Session {
  float* gain;
  float* arena = nullptr;
  int64_t arena_bytes = 0;
};

void Scale(const float* x, const float* gain, float* a, int64_t n, int64_t c) {
  for (int64_t i = 0; i < n * c; ++i) a[i] = x[i] * gain[i % c];
}
void AddOne(const float* a, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + ADDEND;
}

struct RowSum {
  const float* a;
  float* total;
  int64_t n, c;
  bool fail;
};
int RowSumTask(int id, GroupEnv* env, void* data) {
  auto* job = static_cast<RowSum*>(data);
  if (job->fail && id == env->num_task - 1) {
    TVMFFIErrorSetRaisedFromCStr("ValueError", "raised in the last task");
    return -1;
  }
  for (int64_t i = id; i < job->n; i += env->num_task) {
    job->total[i] = 0;
    for (int64_t j = 0; j < job->c; ++j) job->total[i] += job->a[i * job->c + j];
  }
  return 0;
}
int Sum(const float* a, float* total, int64_t n, int64_t c, bool fail) {
  RowSum job{a, total, n, c, fail};
  return __TVMBackendParallelLaunch(RowSumTask, &job, 0);
}

}  // namespace

#define ENTRY(name) \
  extern "C" __attribute__((visibility("default"))) int __tvm_ffi_##name( \
      void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result)

#ifndef ABI
#define ABI 2
#endif
extern "C" __attribute__((visibility("default"))) int treadle_abi_version() { return ABI; }
extern "C" __attribute__((visibility("default"))) const char* treadle_manifest_digest() { return MANIFEST_DIGEST; }
extern "C" __attribute__((visibility("default"))) const char* treadle_plan_digest() { return PLAN_DIGEST; }

ENTRY(treadle_session_new) {
  if (count != 1) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "expected one weight");
    return -1;
  }
  result->type_index = kTVMFFIOpaquePtr;
  result->v_ptr = new Session{Data(Arg(args[0]))};
  return 0;
}

ENTRY(treadle_session_clone) {
  result->type_index = kTVMFFIOpaquePtr;
  result->v_ptr = new Session{static_cast<Session*>(args[0].v_ptr)->gain};
  return count == 1 ? 0 : -1;
}

ENTRY(treadle_session_free) {
  auto* session = static_cast<Session*>(args[0].v_ptr);
  free(session->arena);
  delete session;
  return count == 1 && result ? 0 : -1;
}

ENTRY(treadle_arena_bytes) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = static_cast<Session*>(args[0].v_ptr)->arena_bytes;
  return count == 1 ? 0 : -1;
}

ENTRY(treadle_run_main) {
  auto* session = static_cast<Session*>(args[0].v_ptr);
  const DLTensor *x = Arg(args[1]), *y = Arg(args[2]), *total = Arg(args[3]);
  int64_t n = x->shape[0], c = x->shape[1], bytes = n * c * sizeof(float);
  if (n > 0 && Data(x)[0] == -1.0f) {
    TVMFFIErrorSetRaisedFromCStr("BoundsError", "x[0] is -1");
    return -1;
  }
  if (bytes > session->arena_bytes) {
    free(session->arena);
    session->arena = static_cast<float*>(malloc(bytes));
    session->arena_bytes = bytes;
  }
  bool fail = n > 0 && Data(x)[0] == -2.0f;
  Scale(Data(x), session->gain, session->arena, n, c);
  AddOne(session->arena, Data(y), n * c);
  return Sum(session->arena, Data(total), n, c, fail) + (count == 4 && result ? 0 : 1);
}

ENTRY(tiny_scale) {
  const DLTensor *x = Arg(args[0]), *gain = Arg(args[1]), *a = Arg(args[2]);
  Scale(Data(x), Data(gain), Data(a), x->shape[0], x->shape[1]);
  return count == 3 && result ? 0 : -1;
}

ENTRY(tiny_add_one) {
  const DLTensor *a = Arg(args[0]), *y = Arg(args[1]);
  AddOne(Data(a), Data(y), a->shape[0] * a->shape[1]);
  return count == 2 && result ? 0 : -1;
}

ENTRY(tiny_row_sum) {
  const DLTensor *a = Arg(args[0]), *total = Arg(args[1]);
  return Sum(Data(a), Data(total), a->shape[0], a->shape[1], false) + (count == 2 && result ? 0 : 1);
}
