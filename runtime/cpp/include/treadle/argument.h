// The checks of one tensor argument. Every refusal names the entry, the argument, what was given and what was expected.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "manifest.h"
#include "tensor.h"

namespace treadle {

// A tensor by the name that the manifest gives it.
struct Named {
  std::string name;
  Tensor tensor;
};

using Arguments = std::vector<Named>;

class Argument {
 public:
  // `device` is the session's, and `alignment` what it asks of every address, beside what the entry asks of each.
  Argument(const std::string& entry, const char* role, const TensorSpec& spec, DLDevice device, int64_t alignment)
      : spec_(&spec), where_(entry + ": " + role + " '" + spec.name + "'"), device_(device),
        alignment_(std::max({spec.alignment, spec.dtype->bytes(), alignment})) {}

  const TensorSpec& spec() const { return *spec_; }
  const std::string& where() const { return where_; }

  // All that can be checked without knowing the sizes.
  void check(const Tensor& t) const {
    const DType& want = *spec_->dtype;
    const DLDataType given = t.dtype_code();
    if (given.code != want.code || given.bits != want.bits || given.lanes != 1)
      refuse("ArgumentError", "has the wrong dtype", text(given), std::string(want.name));
    if (t.shape().size() != spec_->shape.size())
      refuse("ArgumentError", "has the wrong rank", axes(t.shape().size()) + ", shape " + text(t.shape()),
             axes(spec_->shape.size()) + ", shape " + shape());
    if (!same(t.device(), device_))
      refuse("DeviceError", "is on another device than the session", text(t.device()), text(device_),
             device_.device_type == kDLCPU ? "Copy it into host memory." : "Copy it there, as Session::upload does for host memory.");
    int64_t bytes;
    if (!byte_size(t.shape(), want.bytes(), &bytes))
      refuse("BoundsError", "has an impossible size", "shape " + text(t.shape()), "sizes from 0, and fewer than 2**63 bytes");
    if (!bytes) return;
    if (!compact(t))
      refuse("ArgumentError", "is not contiguous", "strides " + text(t.strides()) + " for shape " + text(t.shape()), "a compact tensor",
             "Copy it into fresh memory.");
    if (!t.address()) refuse("ArgumentError", "has no data", "a null pointer", "the address of " + std::to_string(bytes) + " B");
    const auto address = reinterpret_cast<uintptr_t>(t.address());
    if (address % static_cast<uintptr_t>(alignment_))
      refuse("AlignmentError", "starts at an address the kernels cannot use", "an address aligned to " + std::to_string(address & -address) + " bytes",
             "a multiple of " + std::to_string(alignment_) + " bytes", "Copy it into fresh memory.");
  }

  void check_size(const Tensor& t, size_t axis, int64_t want) const {
    if (t.shape()[axis] != want)
      refuse("ArgumentError", "has the wrong size in axis " + std::to_string(axis),
             std::to_string(t.shape()[axis]) + ", shape " + text(t.shape()), std::to_string(want) + ", shape " + shape());
  }

  [[noreturn]] void refuse(const char* type, const std::string& why, std::string given = {}, std::string expected = {},
                           std::string hint = {}) const {
    throw Error(type, where_ + " " + why, std::move(given), std::move(expected), std::move(hint));
  }

 private:
  static std::string axes(size_t count) { return std::to_string(count) + " axes"; }

  static bool compact(const Tensor& t) {
    int64_t step = 1;
    for (size_t i = t.strides().size(); i-- > 0; step *= t.shape()[i])
      if (t.shape()[i] != 1 && t.strides()[i] != step) return false;
    return true;
  }

  std::string shape() const {
    std::string sizes;
    for (const SizeExpr& size : spec_->shape) sizes += (sizes.empty() ? "" : ", ") + size.text();
    return "(" + sizes + ")";
  }

  const TensorSpec* spec_;
  std::string where_;
  DLDevice device_;
  int64_t alignment_;
};

}  // namespace treadle
