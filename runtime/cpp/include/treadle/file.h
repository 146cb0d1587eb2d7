// Reading files: whole, digested, or mapped.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"
#include "sha256.h"

namespace treadle {

// An open file. Named pipes are opened without waiting for a writer; callers refuse what is no regular file.
class File {
 public:
  explicit File(std::filesystem::path path) : path_(std::move(path)), handle_(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    struct stat facts;
    if (handle_ < 0) fail();
    if (fstat(handle_, &facts) != 0) {
      const int why = errno;
      close(handle_);
      errno = why;
      fail();
    }
    size_ = facts.st_size;
  }
  ~File() { close(handle_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int64_t size() const { return size_; }
  int handle() const { return handle_; }

  // The next bytes, as many as fit; 0 at the end.
  size_t read(void* into, size_t room) {
    ssize_t count;
    do count = ::read(handle_, into, room);
    while (count < 0 && errno == EINTR);
    if (count < 0) fail();
    return static_cast<size_t>(count);
  }

  [[noreturn]] void fail() const {
    throw Error("BundleError", path_.string() + ": cannot be read", std::strerror(errno), "a readable file",
                "Check the path and its permissions.");
  }

 private:
  std::filesystem::path path_;
  int handle_;
  int64_t size_ = 0;
};

inline std::string read_file(const std::filesystem::path& path) {
  File file(path);
  std::string data;
  std::vector<char> block(1 << 16);
  while (const size_t count = file.read(block.data(), block.size())) data.append(block.data(), count);
  return data;
}

inline std::string digest_file(const std::filesystem::path& path) {
  File file(path);
  Sha256 sum;
  std::vector<char> block(1 << 16);
  while (const size_t count = file.read(block.data(), block.size())) sum.update(block.data(), count);
  return sum.hex();
}

// A file mapped into memory, read-only. Whoever truncates it later kills this process: bundles are replaced, never edited.
class Mapped {
 public:
  explicit Mapped(const std::filesystem::path& path) {
    File file(path);
    size_ = static_cast<size_t>(file.size());
    if (size_ == 0) return;
    data_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.handle(), 0);
    if (data_ == MAP_FAILED) file.fail();
  }
  ~Mapped() {
    if (size_) munmap(data_, size_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace treadle
