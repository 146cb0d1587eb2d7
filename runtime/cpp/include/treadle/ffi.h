// libtvm_ffi, opened at run time: a program that links it could not even say that it is missing.
#pragma once

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <string>

#include "dl.h"
#include "error.h"

namespace treadle {

class Ffi {
 public:
  // The one of this process. A failure is not remembered: the next call looks again.
  static const Ffi& get() {
    static const Ffi ffi;
    return ffi;
  }

  // The error that a library's function raised in this thread, as one of ours.
  Error raised(const std::string& where) const {
    TVMFFIObjectHandle handle = nullptr;
    move_from_raised_(&handle);
    if (!handle) return Error("TreadleError", where + ": failed without saying why");
    const TVMFFIErrorCell* cell = TVMFFIErrorGetCellPtr(handle);
    const std::string kind(cell->kind.data, cell->kind.size), message(cell->message.data, cell->message.size);
    dec_ref_(handle);
    return Error(type_of(kind), where + ": " + message);
  }

  // Makes `stream` the one that this thread's kernels of a device run on, and returns the one before.
  void* exchange_stream(DLDevice device, void* stream) const {
    void* before = nullptr;
    if (set_stream_(device.device_type, device.device_id, stream, &before)) throw raised("the stream cannot be set");
    return before;
  }

 private:
  Ffi() : handle_(open()) {
    move_from_raised_ = symbol<decltype(move_from_raised_)>("TVMFFIErrorMoveFromRaised");
    dec_ref_ = symbol<decltype(dec_ref_)>("TVMFFIObjectDecRef");
    set_stream_ = symbol<decltype(set_stream_)>("TVMFFIEnvSetStream");
  }

  static void* open() {
    std::string why;
    if (void* handle = dl::open("libtvm_ffi.so", RTLD_LOCAL, &why)) return handle;
    throw Error("ToolchainError", "libtvm_ffi.so, which every bundle's library needs, cannot be loaded", why,
                "it on the program's rpath, in LD_LIBRARY_PATH, or in " + dl::program_folder().string(),
                "`pip install apache-tvm-ffi`, then copy what `python -m tvm_ffi.config --libfiles` prints beside the program.");
  }

  template <typename F>
  F symbol(const char* name) const {
    if (void* found = dlsym(handle_, name)) return reinterpret_cast<F>(found);
    throw Error("ToolchainError", std::string("libtvm_ffi.so does not export ") + name, {}, "apache-tvm-ffi 0.1.14 or newer");
  }

  // Generated code may name our types outright; otherwise Python's kinds stand for the nearest of ours.
  static std::string type_of(const std::string& kind) {
    for (const char* ours : {"ArgumentError", "UnknownNameError", "BoundsError", "AlignmentError", "BundleError", "ArchError",
                             "ToolchainError", "DeviceError"})
      if (kind == ours) return kind;
    if (kind == "ValueError" || kind == "TypeError" || kind == "IndexError") return "ArgumentError";
    if (kind == "MemoryError" || kind == "CUDAError") return "DeviceError";
    return "TreadleError";
  }

  void* handle_;
  void (*move_from_raised_)(TVMFFIObjectHandle*);
  int (*dec_ref_)(TVMFFIObjectHandle);
  int (*set_stream_)(int32_t, int32_t, void*, void**);
};

}  // namespace treadle
