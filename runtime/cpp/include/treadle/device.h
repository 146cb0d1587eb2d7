// Device names, and which library of a bundle serves them. The rules are those of runtime/devices.py.
#pragma once

#include <dlpack/dlpack.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle.h"
#include "cuda.h"
#include "error.h"
#include "tensor.h"

namespace treadle {

// `cpu`, `cuda` (the first) or `cuda:N`.
inline DLDevice device(std::string_view name) {
  if (name == "cpu") return {kDLCPU, 0};
  if (name == "cuda") return {kDLCUDA, 0};
  constexpr std::string_view start = "cuda:";
  const std::string_view digits = name.substr(0, start.size()) == start ? name.substr(start.size()) : "";
  if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != digits.npos)
    throw Error("UnknownNameError", "unknown device", "'" + std::string(name) + "'", "one of cpu, cuda:N");
  return {kDLCUDA, std::stoi(std::string(digits))};
}

// The caller's stream: its cudaStream_t, or nullptr for the legacy default stream, which is never taken by accident.
struct Stream {
  explicit Stream(void* stream) : handle(stream) {}
  void* handle;
};

namespace arch {

// Of sm_90a: 9, 0 and `a`.
struct Parts {
  int major = 0, minor = 0;
  char suffix = 0;
};

// False where the name is none of an NVIDIA architecture.
inline bool parse(const std::string& name, Parts* parts) {
  if (name.compare(0, 3, "sm_") != 0) return false;
  std::string digits = name.substr(3);
  if (!digits.empty() && (digits.back() == 'a' || digits.back() == 'f')) {
    parts->suffix = digits.back();
    digits.pop_back();
  }
  if (digits.size() < 2 || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos) return false;
  parts->minor = digits.back() - '0';
  digits.pop_back();
  parts->major = std::stoi(digits);
  return true;
}

// Plain code runs on its own capability and on later minors of the same major; code with the suffix `a` uses instructions that
// exist on exactly one.
inline bool fits(const Parts& parts, const CudaDevice& on) {
  if (parts.suffix == 'a') return parts.major == on.major && parts.minor == on.minor;
  return parts.major == on.major && parts.minor <= on.minor;
}

// What a CUDA library was compiled for; none for a CPU library.
inline std::vector<std::string> of(const LibrarySpec& library) {
  std::vector<std::string> found;
  const std::string& target = library.target;
  if (target.compare(0, 5, "cuda:") != 0) return found;
  for (size_t start = 5, end; start <= target.size(); start = end + 1) {
    end = std::min(target.find(',', start), target.size());
    found.push_back(target.substr(start, end - start));
  }
  return found;
}

}  // namespace arch

// The library that serves `device`, or an Error where none can here.
inline const LibrarySpec& library_for(const Bundle& bundle, DLDevice device) {
  if (device.device_type == kDLCPU) return bundle.library("cpu");
  const std::string where = "bundle " + bundle.path().string() + ": ";
  const std::string recompile = "Run `treadle compile " + bundle.manifest().name + " --target cuda:";
  std::string targets, held;
  for (const LibrarySpec& library : bundle.manifest().libraries) {
    targets += (targets.empty() ? "" : ", ") + library.target;
    for (const std::string& name : arch::of(library)) held += (held.empty() ? "" : ", ") + name;
  }
  if (device.device_type != kDLCUDA || held.empty())
    throw Error("ArchError", where + "has no library for device " + text(device), "targets " + (targets.empty() ? "none" : targets), "a cuda target",
                recompile + "ARCH -o ...`, or make the Session on the CPU.");
  const CudaDevice found = cuda::find_device(device.device_id);
  // Of several that fit, the newer and more specific one was compiled with more instructions to choose from.
  const LibrarySpec* best = nullptr;
  std::pair<int, bool> rank;
  for (const LibrarySpec& library : bundle.manifest().libraries)
    for (const std::string& name : arch::of(library)) {
      arch::Parts parts;
      if (!arch::parse(name, &parts) || !arch::fits(parts, found)) continue;
      const std::pair<int, bool> now{parts.major * 10 + parts.minor, parts.suffix != 0};
      if (!best || now > rank) best = &library, rank = now;
    }
  if (!best)
    throw Error("ArchError", where + "holds no code for " + found.text(), "code for " + held, "code for " + found.arch(),
                recompile + found.arch() + (found.major >= 9 ? "a" : "") + " -o " + bundle.path().string() + "`.");
  return *best;
}

}  // namespace treadle
