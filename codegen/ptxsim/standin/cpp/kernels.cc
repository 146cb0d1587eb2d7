// Which kernels there are: what libraries register when they are loaded, and where the PTX of each lies.
//
// A library holds machine code; its PTX lies beside it, as nvcc wrote it on the way: `../sources/ARCH.ptx` in a bundle, else
// `LIBRARY.ARCH.ptx`. ARCH is the best image of the library's fat binary that the device can run.
#include "kernels.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "standin.h"

namespace standin {
namespace {

struct Library {
  std::string file;
  std::vector<Image> images;
  std::map<const void*, Kernel> kernels;  // by stub
};

std::map<const void*, std::unique_ptr<Library>> libraries;  // by the handle that registration returns
std::map<std::pair<std::string, std::string>, Kernel> by_text;  // file and name

template <typename T>
T read(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// "sm_90a" on a device of compute capability 9.0: code with a suffix `a` runs on exactly one, plain code on later minors.
bool fits(const Image& image, int capability) {
  if (image.suffix == 'a') return image.number == capability;
  return image.number <= capability && image.number / 10 == capability / 10;
}

void locate(Kernel& kernel, const Library& library) {
  const Image* best = nullptr;
  for (const Image& image : library.images) {
    if (fits(image, fact("capability")) && (!best || image.number > best->number || image.suffix > best->suffix)) best = &image;
  }
  kernel.refused = best ? cudaSuccess : cudaErrorNoKernelImageForDevice;
  if (!best || !kernel.ptx.empty() || !fact("run")) return;
  const std::string name = "sm_" + std::to_string(best->number) + (best->suffix ? std::string(1, best->suffix) : "") + ".ptx";
  const size_t slash = library.file.rfind('/') + 1, dot = library.file.find('.', slash);
  const std::string in_bundle = library.file.substr(0, slash) + "../sources/" + name;
  const std::string beside = library.file.substr(0, dot) + "." + name;
  kernel.ptx = access(in_bundle.c_str(), R_OK) == 0 ? in_bundle : access(beside.c_str(), R_OK) == 0 ? beside : "";
  if (kernel.ptx.empty()) kernel.trouble = "no PTX of " + library.file + ": neither " + in_bundle + " nor " + beside + " is there";
}

}  // namespace

// The layout is not documented by NVIDIA; codegen/fatbin.py reads it too.
std::vector<Image> images(const void* fatbin) {
  constexpr uint32_t kMagic = 0xBA55ED50;
  constexpr uint64_t kArch = 1 << 20, kFamily = 1 << 21;
  std::vector<Image> found;
  const auto* at = static_cast<const unsigned char*>(fatbin);
  if (read<uint32_t>(at) != kMagic) return found;
  const auto* end = at + read<uint16_t>(at + 6) + read<uint64_t>(at + 8);
  at += read<uint16_t>(at + 6);
  while (at < end) {
    const uint64_t flags = read<uint64_t>(at + 40);
    const char suffix = flags & kArch ? 'a' : flags & kFamily ? 'f' : '\0';
    if (read<uint16_t>(at) == 2) found.push_back({static_cast<int>(read<uint32_t>(at + 28)), suffix});
    at += read<uint32_t>(at + 4) + read<uint64_t>(at + 8);
  }
  return found;
}

Kernel* kernel(const void* stub) {
  for (auto& [handle, library] : libraries) {
    const auto found = library->kernels.find(stub);
    if (found == library->kernels.end()) continue;
    locate(found->second, *library);
    return &found->second;
  }
  return nullptr;
}

Kernel* kernel_in_text(const std::string& ptx, const char* name) {
  Kernel& k = by_text[{ptx, name}];
  k.name = name;
  k.ptx = ptx;
  if (ptx.empty()) k.trouble = "a module that was loaded from machine code has no PTX";
  return &k;
}

}  // namespace standin

using namespace standin;

// By static constructors, when a library is loaded. The wrapper is `{magic, version, fat binary, ...}`.
API void** __cudaRegisterFatBinary(void* wrapper) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  auto library = std::make_unique<Library>();
  Dl_info info;
  if (dladdr(wrapper, &info) && info.dli_fname) {
    if (char* whole = realpath(info.dli_fname, nullptr)) library->file = whole, std::free(whole);
  }
  library->images = images(static_cast<void**>(wrapper)[1]);
  void** handle = reinterpret_cast<void**>(library.get());
  libraries[handle] = std::move(library);
  return handle;
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void** handle) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  libraries.erase(handle);
}
API void __cudaRegisterFunction(void** handle, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  std::lock_guard<std::recursive_mutex> lock(standin::mutex);
  libraries[handle]->kernels[stub].name = name;
}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
