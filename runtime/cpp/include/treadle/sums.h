// SHA256SUMS: one line `sha256  size  relative/path` per file, and a last line that is the SHA-256 of the bytes above it.
// Sizes and digests are compared before any byte is used: a truncated library kills the process inside dlopen. The rules are
// those of runtime/sums.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "error.h"
#include "file.h"

namespace treadle {

struct Sum {
  std::string digest;
  uint64_t size;
};

using Sums = std::map<std::string, Sum>;

namespace sums {

namespace fs = std::filesystem;
inline constexpr const char* kFile = "SHA256SUMS";

[[noreturn]] inline void refuse(const fs::path& root, const std::string& why, std::string given = {}, std::string expected = {}) {
  throw Error("BundleError", "bundle " + root.string() + ": " + why, std::move(given), std::move(expected),
              "Copy the bundle again, or rebuild it with `treadle compile ... -o " + root.string() + "`.");
}

// A relative path as we write it: no empty part, no `.` and no `..`.
inline bool plain(const std::string& path) {
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

// One line taken apart; false where it is malformed.
inline bool read_line(const std::string& line, std::string* path, Sum* sum) {
  constexpr size_t kDigest = 64;
  if (line.size() < kDigest + 6 || line.compare(kDigest, 2, "  ") != 0) return false;
  if (line.find_first_not_of("0123456789abcdef") != kDigest) return false;
  const size_t gap = line.find("  ", kDigest + 2);
  if (gap == std::string::npos) return false;
  const std::string size = line.substr(kDigest + 2, gap - kDigest - 2);
  if (size.empty() || size.size() > 19 || size.find_first_not_of("0123456789") != std::string::npos) return false;
  if (size[0] == '0' && size.size() > 1) return false;
  *path = line.substr(gap + 2);
  for (char c : *path)
    if (static_cast<unsigned char>(c) < 0x20 || c == '\\') return false;
  *sum = {line.substr(0, kDigest), std::stoull(size)};
  return !path->empty();
}

inline Sums parse(const std::string& data, const fs::path& root) {
  const size_t content = data.find_last_not_of('\n');
  const size_t cut = content == std::string::npos ? 0 : data.rfind('\n', content) + 1;  // npos + 1 is 0
  const std::string body = data.substr(0, cut);
  if (data.substr(cut) != Sha256::of(body) + "\n")
    refuse(root, std::string(kFile) + " is damaged", "a last line that does not match", "the SHA-256 of the lines above it");
  Sums found;
  size_t number = 0;
  for (size_t start = 0, end; start < body.size(); start = end + 1) {
    end = body.find('\n', start);
    const std::string where = std::string(kFile) + " line " + std::to_string(++number);
    const std::string line = body.substr(start, end - start);
    std::string path;
    Sum sum;
    if (!read_line(line, &path, &sum)) refuse(root, where + " is malformed", "'" + line.substr(0, 80) + "'", "sha256  size  relative/path");
    if (!plain(path)) refuse(root, where + " leaves the bundle", "'" + path + "'", "a plain relative path");
    if (path == kFile || !found.emplace(path, sum).second) refuse(root, where + " lists " + path + " again");
  }
  return found;
}

// Relative paths of all regular files; anything else (links, sockets) is refused.
inline std::set<std::string> present(const fs::path& root) {
  std::set<std::string> found;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    const std::string path = entry.path().lexically_relative(root).generic_string();
    const fs::file_type type = entry.symlink_status().type();
    if (type == fs::file_type::regular) found.insert(path);
    else if (type != fs::file_type::directory) refuse(root, path + " is a link or special file", {}, "regular files");
  }
  return found;
}

}  // namespace sums

// Compares every file with SHA256SUMS; returns what it says, by path.
inline Sums verify_sums(const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  const std::string name = sums::kFile;
  std::set<std::string> files = sums::present(root);
  if (!files.erase(name)) sums::refuse(root, name + " is missing, so this is no bundle or an incomplete one");
  const Sums listed = sums::parse(read_file(root / name), root);
  for (const auto& [path, sum] : listed)
    if (!files.count(path)) sums::refuse(root, path + " is missing", "no such file", std::to_string(sum.size) + " B");
  for (const std::string& path : files)
    if (!listed.count(path)) sums::refuse(root, path + " is not listed in " + name, "an extra file", "none");
  // All sizes before any digest: a truncated copy is then reported at once, however large.
  for (const auto& [path, sum] : listed)
    if (const uint64_t size = fs::file_size(root / path); size != sum.size)
      sums::refuse(root, path + " has the wrong size", std::to_string(size) + " B", std::to_string(sum.size) + " B");
  for (const auto& [path, sum] : listed)
    if (const std::string digest = digest_file(root / path); digest != sum.digest)
      sums::refuse(root, path + " is damaged", "sha256 " + digest.substr(0, 12) + "...", sum.digest.substr(0, 12) + "...");
  return listed;
}

}  // namespace treadle
