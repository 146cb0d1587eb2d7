// A loaded bundle that runs.
#pragma once

#include <tvm/ffi/c_api.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle.h"
#include "device.h"
#include "error.h"
#include "library.h"
#include "plan.h"
#include "signature.h"
#include "tensor.h"

namespace treadle {

using Outputs = std::map<std::string, Array, std::less<>>;

// One bundle on one device, with an arena of its own. A Session runs one call at a time, and calls from several threads wait
// for each other: for parallel calls give each thread its own clone(), which shares the weights.
//
// On CUDA a call enqueues its kernels on the caller's stream and returns. After one call at a size, into outputs of the
// caller's own, it allocates nothing and can be captured into a CUDA graph, which stays valid for as long as the Session.
class Session {
 public:
  explicit Session(const Bundle& bundle, DLDevice device = {kDLCPU, 0}) {
    const LibrarySpec& spec = library_for(bundle, device);
    check_plan(bundle);
    auto loaded = std::make_shared<Loaded>(bundle, spec, device);  // no library of the bundle's is dlopened before this
    std::vector<DLTensor> views;
    for (const Tensor& weight : bundle.weights()) views.push_back(weight.dl());
    std::vector<TVMFFIAny> args;
    if (device.device_type == kDLCUDA) args.push_back(any(int64_t{device.device_id}));
    add(args, views);
    const std::string where = "bundle " + bundle.path().string() + ": the library refuses to start";
    const TVMFFIAny handle = loaded->library.call(loaded->create, args, where);
    own(std::move(loaded), handle.v_ptr);
  }
  Session(const Bundle& bundle, std::string_view device_name) : Session(bundle, treadle::device(device_name)) {}

  // Another Session over the same bundle and weights.
  Session clone() const {
    const std::lock_guard<std::mutex> hold(state_->mutex);
    const TVMFFIAny handle = state_->loaded->library.call(state_->loaded->copy, {any(state_->handle)}, "clone");
    return Session(state_->loaded, handle.v_ptr);
  }

  const Manifest& manifest() const { return state_->loaded->bundle.manifest(); }
  DLDevice device() const { return state_->loaded->device; }

  // Bytes that the arena holds now; it grows to the largest size seen.
  int64_t arena_bytes() const {
    const std::lock_guard<std::mutex> hold(state_->mutex);
    return state_->loaded->library.call(state_->loaded->arena, {any(state_->handle)}, "arena_bytes").v_int64;
  }

  // Runs an entry point, the first unless named, and returns its outputs by name.
  Outputs run(const Arguments& inputs, std::string_view entry = {}) { return run(inputs, nullptr, entry); }

  // The same into the caller's own memory, without allocating any after the first call of a size.
  void run(const Arguments& inputs, const Arguments& outputs, std::string_view entry = {}) { run(inputs, outputs, nullptr, entry); }

  // Both on a CUDA device, on the stream that the inputs are ready on.
  Outputs run(const Arguments& inputs, Stream stream, std::string_view entry = {}) { return run(inputs, &stream, entry); }
  void run(const Arguments& inputs, const Arguments& outputs, Stream stream, std::string_view entry = {}) {
    run(inputs, outputs, &stream, entry);
  }

  // For programs without CUDA of their own: a copy on the session's CUDA device, and one in the host's memory. Both follow what
  // the stream holds, and are complete when they return.
  Array upload(const Tensor& host, Stream stream) const {
    const DType& type = checked(host, {kDLCPU, 0}, "upload", "host");
    Array made = allocate(type, host.shape(), stream, "upload");
    copy(made.data(), host.address(), made.bytes(), stream, "upload");
    return made;
  }
  Array download(const Tensor& source, Stream stream) const {
    const DType& type = checked(source, device(), "download", "source");
    Array made(type, source.shape());
    copy(made.data(), source.address(), made.bytes(), stream, "download");
    return made;
  }
  Array download(const Array& source, Stream stream) const { return download(source.tensor(), stream); }

 private:
  struct Runner {
    Signature signature;
    Library::Function function;
  };

  // What all clones share.
  struct Loaded {
    Loaded(const Bundle& from, const LibrarySpec& spec, DLDevice on)
        : bundle(from),
          device(on),
          library(bundle, spec),
          create(library.function("treadle_session_new")),
          release(library.function("treadle_session_free")),
          copy(library.function("treadle_session_clone")),
          arena(library.function("treadle_arena_bytes")) {
      if (device.device_type == kDLCUDA) {
        memory_new = library.function("treadle_device_new");
        memory_free = library.function("treadle_device_free");
        memory_copy = library.function("treadle_device_copy");
      }
      for (const Entry& entry : bundle.manifest().entries)
        runners.push_back({Signature(entry, bundle.manifest().dims, device), library.function("treadle_run_" + entry.name)});
    }

    Bundle bundle;
    DLDevice device;
    Library library;
    Library::Function create, release, copy, arena;
    Library::Function memory_new = nullptr, memory_free = nullptr, memory_copy = nullptr;  // of a CUDA device
    std::vector<Runner> runners;
  };

  struct State {
    ~State() {
      const TVMFFIAny session = any(handle);
      TVMFFIAny result{};
      loaded->release(nullptr, &session, 1, &result);
    }

    std::shared_ptr<const Loaded> loaded;  // outlives the handle
    void* handle;
    std::mutex mutex;
  };

  Session(std::shared_ptr<const Loaded> loaded, void* handle) { own(std::move(loaded), handle); }

  void own(std::shared_ptr<const Loaded> loaded, void* handle) {
    state_.reset(new State{std::move(loaded), handle, {}});
  }

  const Runner& find(std::string_view entry) const {
    const std::vector<Runner>& runners = state_->loaded->runners;
    if (entry.empty()) return runners.front();
    std::string names;
    for (const Runner& runner : runners) {
      if (runner.signature.name() == entry) return runner;
      names += (names.empty() ? "" : ", ") + runner.signature.name();
    }
    throw Error("UnknownNameError", "unknown entry point", "'" + std::string(entry) + "'", "one of " + names);
  }

  Outputs run(const Arguments& inputs, const Stream* stream, std::string_view entry) {
    const Runner& runner = find(entry);
    require(stream, runner.signature.name());
    Bound bound = runner.signature.bind(inputs);
    Outputs outputs;
    std::vector<Tensor> views;
    const std::vector<Argument>& wanted = runner.signature.outputs();
    views.reserve(wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const DType& type = *wanted[i].spec().dtype;
      Shape shape = runner.signature.output_shape(i, bound.sizes);
      Array array = stream ? allocate(type, std::move(shape), *stream, wanted[i].where()) : Array(type, std::move(shape));
      bound.tensors.push_back(&views.emplace_back(array.tensor()));
      outputs.emplace(wanted[i].spec().name, std::move(array));
    }
    call(runner, bound, stream);
    return outputs;
  }

  void run(const Arguments& inputs, const Arguments& outputs, const Stream* stream, std::string_view entry) {
    const Runner& runner = find(entry);
    require(stream, runner.signature.name());
    Bound bound = runner.signature.bind(inputs);
    runner.signature.accept(outputs, bound);
    call(runner, bound, stream);
  }

  // A stream on CUDA, and none elsewhere: the default stream is never taken by accident.
  void require(const Stream* stream, const std::string& where) const {
    const bool cuda = device().device_type == kDLCUDA;
    if (cuda && !stream)
      throw Error("ArgumentError", where + ": no stream is known to run on " + text(device()), "no stream",
                  "run(inputs, treadle::Stream(s)) with the stream that your tensors are ready on", "Stream(nullptr) is the legacy default stream.");
    if (!cuda && stream) throw Error("ArgumentError", where + ": a stream is for CUDA sessions", "a stream", "none on " + text(device()));
  }

  void call(const Runner& runner, const Bound& bound, const Stream* stream) {
    std::vector<DLTensor> views;
    views.reserve(bound.tensors.size());
    for (const Tensor* tensor : bound.tensors) {
      views.push_back(tensor->dl());
      views.back().strides = nullptr;  // compact, which was checked
    }
    std::vector<TVMFFIAny> args{any(state_->handle)};
    add(args, views);
    const Library& library = state_->loaded->library;
    const std::lock_guard<std::mutex> hold(state_->mutex);
    if (!stream) {
      library.call(runner.function, args, runner.signature.name());
      return;
    }
    const OnStream on(library.ffi(), device(), stream->handle);
    library.call(runner.function, args, runner.signature.name());
  }

  // Within it, this thread's kernels of a device run on a stream.
  struct OnStream {
    OnStream(const Ffi& with, DLDevice on, void* stream) : ffi(with), device(on), before(ffi.exchange_stream(on, stream)) {}
    ~OnStream() { ffi.exchange_stream(device, before); }
    OnStream(const OnStream&) = delete;
    OnStream& operator=(const OnStream&) = delete;
    const Ffi& ffi;
    DLDevice device;
    void* before;
  };

  Array allocate(const DType& type, Shape shape, Stream stream, const std::string& where) const {
    return Array(type, std::move(shape), device(), [&, loaded = state_->loaded](int64_t bytes) -> Array::Memory {
      const int64_t index = loaded->device.device_id;
      void* made = bytes ? loaded->library.call(loaded->memory_new, {any(index), any(stream.handle), any(bytes)}, where).v_ptr : nullptr;
      return {made, [loaded, index](void* memory) {
                const TVMFFIAny args[] = {any(index), any(memory)};
                TVMFFIAny result{};
                loaded->memory_free(nullptr, args, 2, &result);
              }};
    });
  }

  void copy(void* to, const void* from, int64_t bytes, Stream stream, const std::string& where) const {
    const Loaded& loaded = *state_->loaded;
    if (!bytes) return;
    loaded.library.call(loaded.memory_copy, {any(int64_t{device().device_id}), any(stream.handle), any(to), any(const_cast<void*>(from)), any(bytes)}, where);
  }

  // What is to be copied: compact, with memory on the device expected; returns its dtype.
  const DType& checked(const Tensor& t, DLDevice on, const std::string& what, const char* name) const {
    if (device().device_type != kDLCUDA)
      throw Error("ArgumentError", what + " is for CUDA sessions", "a session on " + text(device()), "one on a CUDA device");
    const DType* type = find_dtype(text(t.dtype_code()));
    if (!type) throw Error("ArgumentError", what + ": the tensor has an unknown dtype", text(t.dtype_code()), "one of " + dtype_names());
    TensorSpec spec{name, {}, type, 1};
    for (int64_t size : t.shape()) spec.shape.emplace_back(std::to_string(std::max<int64_t>(size, 0)));
    Argument(what, "argument", spec, on, 1).check(t);
    return *type;
  }

  static TVMFFIAny any(int64_t value) {
    TVMFFIAny made{};
    made.type_index = kTVMFFIInt;
    made.v_int64 = value;
    return made;
  }
  static TVMFFIAny any(void* pointer) {
    TVMFFIAny made{};
    made.type_index = kTVMFFIOpaquePtr;
    made.v_ptr = pointer;
    return made;
  }

  // Appends tensors as the library's functions take them.
  static void add(std::vector<TVMFFIAny>& args, const std::vector<DLTensor>& views) {
    args.reserve(args.size() + views.size());
    for (const DLTensor& view : views) {
      TVMFFIAny made{};
      made.type_index = kTVMFFIDLTensorPtr;
      made.v_ptr = const_cast<DLTensor*>(&view);
      args.push_back(made);
    }
  }

  std::unique_ptr<State> state_;
};

}  // namespace treadle
