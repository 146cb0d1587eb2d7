// A bundle's shared library: opened, its ABI checked, its functions called.
#pragma once

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "ffi.h"

namespace treadle {

class Library {
 public:
  static constexpr int kAbiVersion = 1;

  using Function = int (*)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

  Library(const Bundle& bundle, const LibrarySpec& spec) : ffi_(Ffi::get()), file_(bundle.path() / spec.file) {
    handle_ = dlopen(spelling(file_, bundle.sums().at(spec.file).digest).c_str(), RTLD_NOW | RTLD_LOCAL);
    const std::string rebuild = "treadle compile ... -o " + bundle.path().string() + "`.";
    if (!handle_)
      throw Error("BundleError", file_.string() + ": the system cannot load this library", dlerror(), "a shared library for this system",
                  "Compile the bundle again on this system: `" + rebuild);
    const auto abi = reinterpret_cast<int (*)()>(dlsym(handle_, "treadle_abi_version"));
    if (const int found = abi ? abi() : 0; found != kAbiVersion) {
      dlclose(handle_);
      throw Error("BundleError", file_.string() + ": the library has another ABI than this runtime", "version " + std::to_string(found),
                  "version " + std::to_string(kAbiVersion), "Compile the bundle again with this release: `" + rebuild);
    }
  }
  ~Library() { dlclose(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  Function function(const std::string& name) const {
    if (void* found = dlsym(handle_, ("__tvm_ffi_" + name).c_str())) return reinterpret_cast<Function>(found);
    throw Error("BundleError", file_.string() + ": the library does not export " + name + ", which the bundle relies on", {}, {},
                "Compile the bundle again with `treadle compile ... -o`.");
  }

  TVMFFIAny call(Function callee, const std::vector<TVMFFIAny>& args, const std::string& where) const {
    TVMFFIAny result{};
    if (callee(nullptr, args.data(), static_cast<int32_t>(args.size()), &result)) throw ffi_.raised(where);
    return result;
  }

 private:
  // dlopen recognises a library by the spelling of its path, so after a bundle has been compiled again in place it would hand
  // back the old code. Each new content is opened under a spelling of its own: lib/./cpu.so, lib/././cpu.so, ...
  static std::string spelling(const std::filesystem::path& file, const std::string& digest) {
    static std::mutex mutex;
    static std::map<std::string, std::vector<std::string>> loaded;  // path -> digests loaded from it
    const std::lock_guard<std::mutex> hold(mutex);
    std::vector<std::string>& digests = loaded[file.string()];
    const auto found = std::find(digests.begin(), digests.end(), digest);
    std::string path = file.parent_path().string() + "/";
    for (auto dots = found - digests.begin(); dots > 0; --dots) path += "./";
    if (found == digests.end()) digests.push_back(digest);
    return path + file.filename().string();
  }

  const Ffi& ffi_;
  std::filesystem::path file_;
  void* handle_;
};

}  // namespace treadle
