// The CUDA driver and runtime of this machine, asked only once a CUDA device is wanted, and without CUDA's headers. The rules
// are those of runtime/cuda.py.
#pragma once

#include <cstdlib>
#include <string>
#include <utility>

#include "dl.h"
#include "error.h"

namespace treadle {

// One device; versions as CUDA counts them, 13000 for 13.0.
struct CudaDevice {
  int index;
  std::string name;
  int major, minor, driver, runtime;

  // As compilers write it, without suffix: sm_90.
  std::string arch() const { return "sm_" + std::to_string(major) + std::to_string(minor); }
  std::string text() const { return name + " (cuda:" + std::to_string(index) + ", " + arch() + ")"; }
};

namespace cuda {

inline constexpr const char* kDriver = "libcuda.so.1";
inline constexpr const char* kRuntime = "libcudart.so.13";

inline std::string dotted(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

inline std::string hidden() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible ? " with CUDA_VISIBLE_DEVICES='" + std::string(visible) + "'" : "";
}

// The driver, which says what devices there are. A failure is not remembered: the next call looks again.
class Driver {
 public:
  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

  template <typename... Args>
  void call(const char* function, Args... args) const {
    const auto found = reinterpret_cast<int (*)(Args...)>(dlsym(handle_, function));
    const int code = found ? found(args...) : kNotFound;
    if (code == 0) return;
    const auto name_of = reinterpret_cast<int (*)(int, const char**)>(dlsym(handle_, "cuGetErrorName"));
    const char* name = nullptr;
    if (name_of) name_of(code, &name);
    throw Error("DeviceError", std::string("the NVIDIA driver refuses ") + function, (name ? name : "error " + std::to_string(code)) + hidden(),
                "a working CUDA device", "See what `nvidia-smi` says, or make the Session on the CPU.");
  }

 private:
  static constexpr int kNotFound = 500;  // CUDA_ERROR_NOT_FOUND

  Driver() {
    handle_ = dlopen(kDriver, RTLD_NOW | RTLD_LOCAL);
    if (!handle_)
      throw Error("DeviceError", "no NVIDIA driver on this machine", dlerror(), std::string(kDriver) + ", which the driver installs",
                  "Make the Session on the CPU, or install the driver.");
    call("cuInit", 0u);
  }

  void* handle_;
};

// The CUDA runtime, which a bundle's library calls: the one of this process, found again by its name wherever it lies.
inline int runtime_version() {
  std::string why;
  void* handle = dlopen(kRuntime, RTLD_NOW | RTLD_NOLOAD);
  if (!handle) handle = dl::open(kRuntime, RTLD_GLOBAL, &why);
  const std::string beside = dl::program_folder().string();
  if (!handle)
    throw Error("DeviceError", "no CUDA runtime", why, std::string(kRuntime) + " on the program's rpath, in LD_LIBRARY_PATH, or in " + beside,
                "`pip install nvidia-cuda-runtime`, then copy its " + std::string(kRuntime) + " beside the program.");
  const auto tell = reinterpret_cast<int (*)(int*)>(dlsym(handle, "cudaRuntimeGetVersion"));
  int version = 0;
  if (const int code = tell ? tell(&version) : -1)
    throw Error("DeviceError", "the CUDA runtime does not tell its version", "error " + std::to_string(code), kRuntime);
  return version;  // the handle stays open: bundles' libraries need it
}

// The device, or an Error that says what is missing on the way to it. Loads the CUDA runtime.
inline CudaDevice find_device(int index) {
  constexpr int kMajor = 75, kMinor = 76;  // CUdevice_attribute
  const Driver& driver = Driver::get();
  int count = 0, handle = 0;
  driver.call("cuDeviceGetCount", &count);
  if (!count)
    throw Error("DeviceError", "no CUDA device on this machine", std::string(kDriver) + " finds none" + hidden(), "at least one",
                "Make the Session on the CPU.");
  if (index < 0 || index >= count)
    throw Error("DeviceError", "no device cuda:" + std::to_string(index), std::to_string(count) + " CUDA device" + (count > 1 ? "s" : "") + hidden(),
                "an index below " + std::to_string(count), "Use cuda:" + std::to_string(count - 1) + ".");
  CudaDevice found{index, {}, 0, 0, 0, 0};
  char name[256] = {};
  driver.call("cuDeviceGet", &handle, index);
  driver.call("cuDeviceGetAttribute", &found.major, kMajor, handle);
  driver.call("cuDeviceGetAttribute", &found.minor, kMinor, handle);
  driver.call("cuDeviceGetName", &name[0], static_cast<int>(sizeof name), handle);
  driver.call("cuDriverGetVersion", &found.driver);
  found.name = name;
  found.runtime = runtime_version();
  // Within a major version any driver runs any runtime.
  if (found.driver / 1000 < found.runtime / 1000)
    throw Error("DeviceError", "the NVIDIA driver is older than the CUDA runtime",
                "a driver for CUDA " + dotted(found.driver) + ", runtime " + dotted(found.runtime),
                "a driver for CUDA " + std::to_string(found.runtime / 1000) + ".0 or newer", "Update the NVIDIA driver.");
  return found;
}

}  // namespace cuda
}  // namespace treadle
