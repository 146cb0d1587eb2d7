// Streams, events, captures and graphs. Everything is over when the call that enqueued it returns, unless it is captured.
#include <chrono>
#include <map>
#include <memory>
#include <utility>

#include "control.h"
#include "standin.h"

namespace standin {

bool spoilt = false, captured_by_test = false;
std::map<void*, unsigned long long> stream_numbers;

namespace {

using Graph = std::vector<Work>;

struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  void* origin;
  bool forbids;  // relaxed captures forbid nothing
};

struct Event {
  std::chrono::steady_clock::time_point when;
  std::shared_ptr<Capture> capture;  // recorded in one: who waits for it joins
};

std::map<void*, std::shared_ptr<Capture>> captures;  // by stream
std::map<void*, Event> events;
uintptr_t next_event = 1, next_stream = 0x1000;

std::shared_ptr<Capture> capture_of(void* stream) {
  const auto found = captures.find(stream);
  return found == captures.end() ? nullptr : found->second;
}

}  // namespace

bool capturing(void* stream) { return captured_by_test || captures.count(stream); }

cudaError_t enqueue(void* stream, Work work) {
  if (captured_by_test) return cudaSuccess;
  if (const auto capture = capture_of(stream)) return capture->graph->push_back(std::move(work)), cudaSuccess;
  return work();
}

cudaError_t unless_capturing() {
  bool forbidden = captured_by_test;
  for (const auto& [stream, capture] : captures) forbidden = forbidden || capture->forbids;
  if (!forbidden) return cudaSuccess;
  spoilt = true;
  return cudaErrorStreamCaptureUnsupported;
}

long live_events() { return static_cast<long>(events.size()); }

}  // namespace standin

using namespace standin;

namespace {
// A wait of the host spoils a capture, and otherwise has nothing to wait for.
cudaError_t waited() {
  if (const cudaError_t error = unless_capturing()) return error;
  return broken();
}
}  // namespace

API cudaError_t cudaDeviceSynchronize() {
  ENTER();
  note("cudaDeviceSynchronize");
  return given(waited());
}
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ENTER();
  note("cudaStreamSynchronize %p", static_cast<void*>(stream));
  return given(waited());
}
API cudaError_t cudaStreamQuery(cudaStream_t) {
  ENTER();
  return given(waited());
}
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  ENTER_DEVICE();
  *stream = reinterpret_cast<cudaStream_t>(next_stream += 0x10);
  return cudaSuccess;
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { return cudaStreamCreateWithPriority(stream, flags, 0); }
API cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  ENTER();
  captures.erase(stream);
  return cudaSuccess;
}
API cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* number) {
  ENTER();
  const auto found = stream_numbers.find(stream);
  *number = found != stream_numbers.end() ? found->second : reinterpret_cast<uintptr_t>(stream);
  return cudaSuccess;
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  ENTER_DEVICE();
  return given(enqueue(stream, [=] { return function(data), cudaSuccess; }));
}

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  ENTER_DEVICE();
  *event = reinterpret_cast<cudaEvent_t>(next_event);
  events[reinterpret_cast<void*>(next_event++)] = {};
  return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  ENTER();
  events.erase(event);
  return cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  ENTER_DEVICE();
  note("record %p", static_cast<void*>(stream));
  events[event] = {std::chrono::steady_clock::now(), capture_of(stream)};
  return cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) { return cudaEventRecord(event, stream); }
API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  ENTER_DEVICE();
  note("wait %p", static_cast<void*>(stream));
  if (const auto found = events.find(event); found != events.end() && found->second.capture) captures[stream] = found->second.capture;
  return cudaSuccess;
}
API cudaError_t cudaEventSynchronize(cudaEvent_t) {
  ENTER();
  return given(waited());
}
API cudaError_t cudaEventQuery(cudaEvent_t) {
  ENTER();
  return given(waited());
}
API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  ENTER_DEVICE();
  *milliseconds = std::chrono::duration<float, std::milli>(events[to].when - events[from].when).count();
  return cudaSuccess;
}

API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  ENTER();
  *status = capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  ENTER_DEVICE();
  if (!stream) return given(cudaErrorStreamCaptureUnsupported);
  if (capturing(stream)) return given(cudaErrorIllegalState);
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->forbids = mode != cudaStreamCaptureModeRelaxed;
  captures[stream] = std::move(capture);
  spoilt = false;
  return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  ENTER_DEVICE();
  const auto capture = capture_of(stream);
  *graph = nullptr;
  if (!capture) return given(cudaErrorIllegalState);
  if (capture->origin != stream) return given(cudaErrorStreamCaptureUnmatched);
  for (auto joined = captures.begin(); joined != captures.end();) joined = joined->second == capture ? captures.erase(joined) : ++joined;
  if (std::exchange(spoilt, false)) return given(cudaErrorStreamCaptureInvalidated);
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(*capture->graph));
  return cudaSuccess;
}
API cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  ENTER_DEVICE();
  *made = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(made, graph, flags);
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  ENTER_DEVICE();
  const Graph& works = *reinterpret_cast<Graph*>(graph);
  note("graph of %zu %p", works.size(), static_cast<void*>(stream));
  for (const Work& work : works) {
    if (const cudaError_t error = enqueue(stream, work)) return given(error);
  }
  return cudaSuccess;
}
API cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
