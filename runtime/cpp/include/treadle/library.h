// A bundle's shared library: opened, its ABI and what it was made for checked, its functions called.
#pragma once

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "ffi.h"

namespace treadle {

class Library {
 public:
  static constexpr int kAbiVersion = 2;

  using Function = int (*)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

  Library(const Bundle& bundle, const LibrarySpec& spec) : ffi_(Ffi::get()), file_(bundle.path() / spec.file) {
    handle_ = dlopen(spelling(file_, bundle.sums().at(spec.file).digest).c_str(), RTLD_NOW | RTLD_LOCAL);
    const std::string rebuild = "treadle compile ... -o " + bundle.path().string() + "`.";
    if (!handle_)
      throw Error("BundleError", file_.string() + ": the system cannot load this library", dlerror(), "a shared library for this system",
                  "Compile the bundle again on this system: `" + rebuild);
    try {
      check(bundle, rebuild);
    } catch (const Error&) {
      dlclose(handle_);
      throw;
    }
  }
  ~Library() { dlclose(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const Ffi& ffi() const { return ffi_; }

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
  void check(const Bundle& bundle, const std::string& rebuild) const {
    const auto abi = reinterpret_cast<int (*)()>(dlsym(handle_, "treadle_abi_version"));
    if (const int found = abi ? abi() : 0; found != kAbiVersion)
      throw Error("BundleError", file_.string() + ": the library has another ABI than this runtime", "version " + std::to_string(found),
                  "version " + std::to_string(kAbiVersion), "Compile the bundle again with this release: `" + rebuild);
    // It is manifest and plan compiled: beside others it would read or write past a tensor's end.
    for (const auto& [file, symbol] : {std::pair{"manifest.json", "treadle_manifest_digest"}, {"plan.json", "treadle_plan_digest"}}) {
      const auto tell = reinterpret_cast<const char* (*)()>(dlsym(handle_, symbol));
      const std::string given = tell ? tell() : "none", &wanted = bundle.sums().at(file).digest;
      if (given != wanted)
        throw Error("BundleError", file_.string() + ": the library was made for another " + file, "sha256 " + given.substr(0, 12) + "...",
                    wanted.substr(0, 12) + "...", "Copy the bundle again, or rebuild it with `" + rebuild);
    }
  }

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
