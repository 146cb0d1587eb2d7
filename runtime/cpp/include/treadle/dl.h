// Opening what a program needs at run time and does not link, so that it can say what is missing.
#pragma once

#include <dlfcn.h>

#include <filesystem>
#include <string>

namespace treadle::dl {

// The folder of the running program.
inline std::filesystem::path program_folder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

// Looks where the system looks (already loaded, the program's rpath, LD_LIBRARY_PATH), then beside the program; nullptr, and
// the system's reason, where it is in neither.
inline void* open(const char* name, int visibility, std::string* why) {
  if (void* handle = dlopen(name, RTLD_NOW | visibility)) return handle;
  *why = dlerror();
  return dlopen((program_folder() / name).c_str(), RTLD_NOW | visibility);
}

}  // namespace treadle::dl
