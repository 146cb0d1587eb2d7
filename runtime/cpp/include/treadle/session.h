// A loaded bundle that runs.
#pragma once

#include <tvm/ffi/c_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "library.h"
#include "plan.h"
#include "signature.h"
#include "tensor.h"

namespace treadle {

using Outputs = std::map<std::string, Array, std::less<>>;

// One bundle on the CPU, with an arena of its own. A Session runs one call at a time, and calls from several threads wait
// for each other: for parallel calls give each thread its own clone(), which shares the weights.
class Session {
 public:
  explicit Session(const Bundle& bundle, DLDevice device = {kDLCPU, 0}) {
    if (device.device_type != kDLCPU)
      throw Error("DeviceError", "bundle " + bundle.path().string() + ": sessions in C++ run on the CPU only, so far", text(device), "cpu",
                  "Load CUDA bundles from Python.");
    bundle.library("cpu");
    check_plan(bundle);
    auto loaded = std::make_shared<Loaded>(bundle);  // nothing is dlopened before this
    std::vector<DLTensor> views;
    for (const Tensor& weight : bundle.weights()) views.push_back(weight.dl());
    const TVMFFIAny handle = loaded->library.call(loaded->create, arguments(nullptr, views),
                                                  "bundle " + bundle.path().string() + ": the library refuses to start");
    own(std::move(loaded), handle.v_ptr);
  }

  // Another Session over the same bundle and weights.
  Session clone() const {
    const std::lock_guard<std::mutex> hold(state_->mutex);
    const TVMFFIAny handle = state_->loaded->library.call(state_->loaded->copy, arguments(state_->handle, {}), "clone");
    return Session(state_->loaded, handle.v_ptr);
  }

  const Manifest& manifest() const { return state_->loaded->bundle.manifest(); }

  // Bytes that the arena holds now; it grows to the largest size seen.
  int64_t arena_bytes() const {
    const std::lock_guard<std::mutex> hold(state_->mutex);
    return state_->loaded->library.call(state_->loaded->arena, arguments(state_->handle, {}), "arena_bytes").v_int64;
  }

  // Runs an entry point, the first unless named, and returns its outputs by name.
  Outputs run(const Arguments& inputs, std::string_view entry = {}) {
    const Runner& runner = find(entry);
    Bound bound = runner.signature.bind(inputs);
    Outputs outputs;
    std::vector<Tensor> views;
    const std::vector<Argument>& wanted = runner.signature.outputs();
    views.reserve(wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      Array array(*wanted[i].spec().dtype, runner.signature.output_shape(i, bound.sizes));
      bound.tensors.push_back(&views.emplace_back(array.tensor()));
      outputs.emplace(wanted[i].spec().name, std::move(array));
    }
    call(runner, bound);
    return outputs;
  }

  // The same into the caller's own memory, without allocating any after the first call of a size.
  void run(const Arguments& inputs, const Arguments& outputs, std::string_view entry = {}) {
    const Runner& runner = find(entry);
    Bound bound = runner.signature.bind(inputs);
    runner.signature.accept(outputs, bound);
    call(runner, bound);
  }

 private:
  struct Runner {
    Signature signature;
    Library::Function function;
  };

  // What all clones share.
  struct Loaded {
    explicit Loaded(const Bundle& from)
        : bundle(from),
          library(bundle, bundle.library("cpu")),
          create(library.function("treadle_session_new")),
          release(library.function("treadle_session_free")),
          copy(library.function("treadle_session_clone")),
          arena(library.function("treadle_arena_bytes")) {
      for (const Entry& entry : bundle.manifest().entries)
        runners.push_back({Signature(entry, bundle.manifest().dims), library.function("treadle_run_" + entry.name)});
    }

    Bundle bundle;
    Library library;
    Library::Function create, release, copy, arena;
    std::vector<Runner> runners;
  };

  struct State {
    ~State() {
      const std::vector<TVMFFIAny> args = arguments(handle, {});
      TVMFFIAny result{};
      loaded->release(nullptr, args.data(), 1, &result);
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

  void call(const Runner& runner, const Bound& bound) {
    std::vector<DLTensor> views;
    views.reserve(bound.tensors.size());
    for (const Tensor* tensor : bound.tensors) {
      views.push_back(tensor->dl());
      views.back().strides = nullptr;  // compact, which was checked
    }
    const std::lock_guard<std::mutex> hold(state_->mutex);
    state_->loaded->library.call(runner.function, arguments(state_->handle, views), runner.signature.name());
  }

  // A session's pointer, where there is one, and tensors, as the library's functions take them.
  static std::vector<TVMFFIAny> arguments(void* handle, const std::vector<DLTensor>& views) {
    std::vector<TVMFFIAny> args;
    args.reserve(views.size() + 1);
    const auto add = [&args](int32_t type, void* pointer) {
      TVMFFIAny any{};
      any.type_index = type;
      any.v_ptr = pointer;
      args.push_back(any);
    };
    if (handle) add(kTVMFFIOpaquePtr, handle);
    for (const DLTensor& view : views) add(kTVMFFIDLTensorPtr, const_cast<DLTensor*>(&view));
    return args;
  }

  std::unique_ptr<State> state_;
};

}  // namespace treadle
