// For tests, which call these through dlsym.
#include "control.h"

#include "standin.h"

using namespace standin;

API void fake_set(const char* fact, int value) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  facts[fact] = value;
}
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
