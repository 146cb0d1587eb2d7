// A bundle: the directory that `treadle compile` writes. Opening it decides whether it may be used at all, in an order chosen
// so that nothing is trusted before it is checked: folder, sums, manifest, weights. Only then may anyone dlopen the library
// inside, and library() says which, for this CPU. The rules are those of runtime/bundle.py.
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cpu.h"
#include "error.h"
#include "manifest.h"
#include "sums.h"
#include "weights.h"

namespace treadle {

// A verified bundle; holding one means that its files matched their digests when it was opened. Copies share everything.
class Bundle {
 public:
  explicit Bundle(const std::filesystem::path& path) {
    const std::filesystem::path root = std::filesystem::absolute(path).lexically_normal();
    try {
      open(root);
    } catch (const std::filesystem::filesystem_error& wrong) {
      throw Error("BundleError", "bundle " + root.string() + ": cannot be read", wrong.what(), "readable files",
                  "Check the path and its permissions.");
    }
  }

  const std::filesystem::path& path() const { return facts_->path; }
  const Manifest& manifest() const { return facts_->manifest; }
  const Sums& sums() const { return facts_->sums; }
  const std::vector<Tensor>& weights() const { return facts_->weights ? facts_->weights->tensors() : none(); }

  // The library for a kind of target: `cpu` stands for any variant of it, the first that this machine can run.
  const LibrarySpec& library(const std::string& target) const {
    std::vector<const LibrarySpec*> fitting;
    std::string held;
    for (const LibrarySpec& library : manifest().libraries) {
      if (library.target == target || library.target.compare(0, target.size() + 1, target + ":") == 0) fitting.push_back(&library);
      held += (held.empty() ? "one of " : ", ") + library.target;
    }
    if (fitting.empty())
      throw Error("ArchError", where() + "has no library for target " + target, target, held.empty() ? "none: it holds no library" : held,
                  recompile(target) + ".");
    std::string missing;
    for (const LibrarySpec* library : fitting) {
      std::string lacks;
      for (const std::string& feature : library->cpu_features)
        if (!cpu_features().count(feature)) lacks += (lacks.empty() ? "" : ", ") + feature;
      if (lacks.empty()) return *library;
      if (missing.empty()) missing = lacks;
    }
    std::string wanted;
    for (const std::string& feature : fitting[0]->cpu_features) wanted += (wanted.empty() ? "" : ", ") + feature;
    throw Error("ArchError", where() + fitting[0]->file + " needs CPU features this machine lacks", "a CPU without " + missing, wanted,
                recompile("cpu:native") + " on this machine.");
  }

 private:
  struct Facts {
    std::filesystem::path path;
    Sums sums;
    Manifest manifest;
    std::unique_ptr<const Weights> weights;
  };

  void open(const std::filesystem::path& root) {
    namespace fs = std::filesystem;
    const std::string start = "bundle " + root.string() + ": ";
    if (!fs::exists(root))
      throw Error("BundleError", start + "does not exist", {}, {}, "Check the path, or make it with `treadle compile ... -o " + root.string() + "`.");
    if (!fs::is_directory(root))
      throw Error("BundleError", start + "not a bundle", "a file", "a directory", "If it is a zip of a bundle, unpack it first.");
    Sums sums = verify_sums(root);
    if (!sums.count(Manifest::kFile)) missing(start, root, Manifest::kFile);
    Manifest manifest = Manifest::from_json(read_file(root / Manifest::kFile));
    for (const LibrarySpec& library : manifest.libraries)
      if (!sums.count(library.file)) missing(start, root, "the manifest names " + library.file + ", which");
    std::unique_ptr<const Weights> weights;
    if (!manifest.weights.empty()) {
      if (!sums.count(Weights::kFile)) missing(start, root, std::string("the manifest names ") + Weights::kFile + ", which");
      weights = std::make_unique<Weights>(root / Weights::kFile, manifest.weights);
    }
    facts_ = std::make_shared<const Facts>(Facts{root, std::move(sums), std::move(manifest), std::move(weights)});
  }

  [[noreturn]] static void missing(const std::string& start, const std::filesystem::path& root, const std::string& what) {
    throw Error("BundleError", start + what + " is missing", {}, {}, "Rebuild it with `treadle compile ... -o " + root.string() + "`.");
  }

  static const std::vector<Tensor>& none() {
    static const std::vector<Tensor> empty;
    return empty;
  }

  std::string where() const { return "bundle " + path().string() + ": "; }
  std::string recompile(const std::string& target) const {
    return "Run `treadle compile " + manifest().name + " --target " + target + " -o " + path().string() + "`";
  }

  std::shared_ptr<const Facts> facts_;
};

}  // namespace treadle
