// libtvm_ffi, opened at run time: a program that links it could not even say that it is missing.
#pragma once

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <filesystem>
#include <string>

#include "error.h"

namespace treadle {

class Ffi {
 public:
  // The one of this process. Looked for where the system looks (already loaded, the program's rpath, LD_LIBRARY_PATH), then
  // beside the program. A failure is not remembered: the next call looks again.
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

 private:
  Ffi() : handle_(open()) {
    move_from_raised_ = symbol<decltype(move_from_raised_)>("TVMFFIErrorMoveFromRaised");
    dec_ref_ = symbol<decltype(dec_ref_)>("TVMFFIObjectDecRef");
  }

  static void* open() {
    constexpr const char* name = "libtvm_ffi.so";
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return handle;
    const std::string why = dlerror();
    std::error_code ignored;
    const std::filesystem::path beside = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / name;
    if (void* handle = dlopen(beside.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
    throw Error("ToolchainError", "libtvm_ffi.so, which every bundle's library needs, cannot be loaded", why,
                "it on the program's rpath, in LD_LIBRARY_PATH, or in " + beside.parent_path().string(),
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
};

}  // namespace treadle
