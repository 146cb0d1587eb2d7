// The weights that a manifest asks for, in its order: views of one map, shared by all sessions of a bundle.
#pragma once

#include <cstring>
#include <filesystem>
#include <list>
#include <string>
#include <vector>

#include "file.h"
#include "manifest.h"
#include "safetensors.h"
#include "tensor.h"

namespace treadle {

class Weights {
 public:
  static constexpr const char* kFile = "weights.safetensors";

  Weights(const std::filesystem::path& file, const std::vector<TensorSpec>& specs) : map_(file) {
    const auto found = safetensors::read(map_.bytes(), file.string());
    for (const TensorSpec& spec : specs) {
      const auto at = found.find(spec.name);
      if (at == found.end() || found.size() != specs.size())
        refuse(file, "does not hold the weights the manifest lists", std::to_string(found.size()) + " tensors",
               std::to_string(specs.size()) + " tensors" + (at == found.end() ? ", '" + spec.name + "' among them" : ""));
      tensors_.push_back(view(file, at->second, spec));
    }
  }

  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  Tensor view(const std::filesystem::path& file, const safetensors::Entry& entry, const TensorSpec& spec) {
    Shape want;
    for (const SizeExpr& size : spec.shape) want.push_back(size.evaluate({}));
    if (entry.dtype != spec.dtype || entry.shape != want)
      refuse(file, "weight '" + spec.name + "' differs from the manifest", std::string(entry.dtype->name) + text(entry.shape),
             std::string(spec.dtype->name) + text(want));
    const char* data = map_.bytes().data() + entry.begin;
    // safetensors packs tensors back to back, so a map cannot promise more than bytes.
    const auto alignment = static_cast<uintptr_t>(std::max(spec.alignment, spec.dtype->bytes()));
    if (reinterpret_cast<uintptr_t>(data) % alignment == 0) return Tensor(static_cast<const void*>(data), spec.dtype->name, want);
    if (alignment > Array::kAlign) refuse(file, "weight '" + spec.name + "' wants an alignment we do not give", std::to_string(alignment) + " B");
    Array& copy = copies_.emplace_back(*spec.dtype, want);
    std::memcpy(copy.data(), data, static_cast<size_t>(copy.bytes()));
    return copy.tensor();
  }

  [[noreturn]] static void refuse(const std::filesystem::path& file, const std::string& why, std::string given, std::string expected = {}) {
    throw Error("BundleError", file.string() + ": " + why, std::move(given), std::move(expected),
                "Rebuild the bundle with `treadle compile ... -o " + file.parent_path().string() + "`.");
  }

  Mapped map_;
  std::list<Array> copies_;
  std::vector<Tensor> tensors_;
};

}  // namespace treadle
