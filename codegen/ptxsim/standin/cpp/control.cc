// For tests, which call these through dlsym; and for a process that makes this its CUDA.
#include "control.h"

#include "standin.h"

using namespace standin;

API const char* fake_log() { return log_text.c_str(); }
API void fake_clear() { log_text.clear(); }
API void fake_logging(int on) { logging = on; }
API void fake_fail(const char* function, int nth, int code) { faults[function] = {nth, code}; }
API void fake_arguments(const char* kernel, int count) { argument_counts[kernel] = count; }
API void fake_capture(int on) {
  captured_by_test = on;
  spoilt = false;
}
API int fake_spoilt() { return spoilt; }
API void fake_stream_number(void* stream, unsigned long long number) { stream_numbers[stream] = number; }
API long fake_launches() { return launches; }
API long fake_live() { return static_cast<long>(live_allocations()) + live_events(); }

// Stands in for a device of this compute capability (90 for 9.0), unless it does already for another. Returns for which.
API int treadle_stand_in(int capability) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  return facts.emplace("capability", capability).first->second;
}
