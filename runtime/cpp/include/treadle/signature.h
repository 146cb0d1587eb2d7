// Binding a caller's tensors to one entry point: everything that can be wrong is found here, before any kernel runs, and
// said in terms of the caller's names. The rules are those of runtime/signature.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "argument.h"
#include "error.h"
#include "manifest.h"
#include "tensor.h"

namespace treadle {

// Tensors that passed every check, in the manifest's order.
struct Bound {
  Sizes sizes;
  std::vector<const Tensor*> tensors;
};

class Signature {
 public:
  static constexpr int64_t kCudaAlignment = 16;  // the widest load of CUDA kernels

  // Both must outlive the Signature.
  Signature(const Entry& entry, const std::map<std::string, Dim>& dims, DLDevice device)
      : name_(entry.name), dims_(&dims), updates_(entry.updates) {
    const int64_t alignment = device.device_type == kDLCUDA ? kCudaAlignment : 1;
    for (const TensorSpec& spec : entry.inputs) inputs_.emplace_back(entry.name, "input", spec, device, alignment);
    for (const TensorSpec& spec : entry.outputs) outputs_.emplace_back(entry.name, "output", spec, device, alignment);
  }

  const std::string& name() const { return name_; }
  const std::vector<Argument>& outputs() const { return outputs_; }

  // Checks the inputs and finds the sizes that they state.
  Bound bind(const Arguments& given) const {
    Bound bound{{}, in_order(given, inputs_, "input")};
    std::map<std::string, std::string> origin;  // dim -> the axis that states it
    for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i].check(*bound.tensors[i]);
    each_axis([&](size_t i, size_t axis, const SizeExpr& size) {
      if (!size.is_name()) return;
      const std::string& dim = size.binds().first;
      const std::string here = inputs_[i].spec().name + ".shape[" + std::to_string(axis) + "]";
      const int64_t value = bound.tensors[i]->shape()[axis];
      const auto [found, fresh] = bound.sizes.emplace(dim, value);
      if (fresh) origin[dim] = here;
      if (found->second != value)
        throw Error("ArgumentError", name_ + ": " + dim + " is " + std::to_string(found->second) + " from " + origin[dim] + " but " +
                                         std::to_string(value) + " from " + here,
                    std::to_string(found->second) + " and " + std::to_string(value), "one value of " + dim);
    });
    each_axis([&](size_t i, size_t axis, const SizeExpr& size) {
      const auto& [dim, factor] = size.binds();
      if (dim.empty() || bound.sizes.count(dim)) return;
      const int64_t value = bound.tensors[i]->shape()[axis];
      if (value % factor)
        inputs_[i].refuse("BoundsError", "has a size in axis " + std::to_string(axis) + " that does not divide by " + std::to_string(factor),
                          std::to_string(value), "a multiple of " + std::to_string(factor), "Crop or pad the input.");
      bound.sizes[dim] = value / factor;
      origin[dim] = inputs_[i].spec().name + ".shape[" + std::to_string(axis) + "] / " + std::to_string(factor);
    });
    check_bounds(bound.sizes, origin);
    // Only now are all dims known: an input may use one that a later input states.
    each_axis([&](size_t i, size_t axis, const SizeExpr& size) {
      if (!size.is_name()) inputs_[i].check_size(*bound.tensors[i], axis, size.evaluate(bound.sizes));
    });
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (std::find(updates_.begin(), updates_.end(), inputs_[i].spec().name) != updates_.end()) check_updated(i, bound);
    return bound;
  }

  Shape output_shape(size_t index, const Sizes& sizes) const {
    Shape shape;
    for (const SizeExpr& size : outputs_[index].spec().shape) shape.push_back(size.evaluate(sizes));
    return shape;
  }

  // Adds the caller's own outputs, checked like inputs; they must not overlap anything else.
  void accept(const Arguments& given, Bound& bound) const {
    const std::vector<const Tensor*> tensors = in_order(given, outputs_, "output");
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const Argument& output = outputs_[i];
      output.check(*tensors[i]);
      const Shape want = output_shape(i, bound.sizes);
      for (size_t axis = 0; axis < want.size(); ++axis) output.check_size(*tensors[i], axis, want[axis]);
      if (tensors[i]->read_only()) output.refuse("ArgumentError", "is read-only", {}, {}, "Pass a tensor over non-const memory.");
      for (size_t other = 0; other < bound.tensors.size(); ++other)
        if (overlap(*tensors[i], output, *bound.tensors[other], argument(other)))
          output.refuse("ArgumentError", "shares memory with " + argument(other).where(), {},
                        "separate memory: kernels read inputs while they write");
      bound.tensors.push_back(tensors[i]);
    }
  }

 private:
  template <typename Visit>
  void each_axis(Visit visit) const {
    for (size_t i = 0; i < inputs_.size(); ++i)
      for (size_t axis = 0; axis < inputs_[i].spec().shape.size(); ++axis) visit(i, axis, inputs_[i].spec().shape[axis]);
  }

  // An input that is written must be writable, in memory of its own.
  void check_updated(size_t mine, const Bound& bound) const {
    const Argument& updated = inputs_[mine];
    if (bound.tensors[mine]->read_only())
      updated.refuse("ArgumentError", "is updated in place and read-only", {}, {}, "Pass a tensor over non-const memory.");
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (i != mine && overlap(*bound.tensors[mine], updated, *bound.tensors[i], inputs_[i]))
        updated.refuse("ArgumentError", "is updated in place and shares memory with " + inputs_[i].where(), {},
                       "separate memory: kernels read inputs while they write");
  }

  const Argument& argument(size_t index) const {
    return index < inputs_.size() ? inputs_[index] : outputs_[index - inputs_.size()];
  }

  std::vector<const Tensor*> in_order(const Arguments& given, const std::vector<Argument>& wanted, const std::string& role) const {
    std::string names, offered;
    for (const Argument& argument : wanted) names += (names.empty() ? "" : ", ") + argument.spec().name;
    for (const Named& named : given) offered += (offered.empty() ? "" : ", ") + named.name;
    std::vector<const Tensor*> found(wanted.size());
    for (const Named& named : given) {
      size_t i = 0;
      while (i < wanted.size() && wanted[i].spec().name != named.name) ++i;
      if (i == wanted.size()) throw Error("UnknownNameError", name_ + ": unknown " + role, "'" + named.name + "'", "one of " + names);
      if (found[i]) throw Error("ArgumentError", wanted[i].where() + " is given twice", offered, names);
      found[i] = &named.tensor;
    }
    for (size_t i = 0; i < wanted.size(); ++i)
      if (!found[i]) throw Error("ArgumentError", wanted[i].where() + " is missing", offered.empty() ? "nothing" : offered, names);
    return found;
  }

  void check_bounds(const Sizes& sizes, const std::map<std::string, std::string>& origin) const {
    for (const auto& [name, dim] : *dims_) {
      const auto found = sizes.find(name);
      if (found == sizes.end()) continue;
      const int64_t value = found->second;
      const std::string where = name_ + ": " + name + ", from " + origin.at(name);
      if (value < dim.lo || value > dim.hi || value % dim.step)
        throw Error("BoundsError", where + ", is outside the bundle's bounds", std::to_string(value),
                    std::to_string(dim.lo) + " to " + std::to_string(dim.hi) + (dim.step > 1 ? ", a multiple of " + std::to_string(dim.step) : ""),
                    "Change the input, or compile again with `--dim " + name + "=LO..HI`.");
      bool allowed = dim.one_of.empty();
      std::string choices;
      for (const SizeExpr& choice : dim.one_of) {
        const int64_t size = choice.evaluate(sizes);
        allowed = allowed || size == value;
        choices += (choices.empty() ? "one of " : ", ") + choice.text() + (choice.names().empty() ? "" : " = " + std::to_string(size));
      }
      if (!allowed) throw Error("BoundsError", where + ", is none of the sizes allowed", std::to_string(value), choices);
    }
  }

  static bool overlap(const Tensor& a, const Argument& of_a, const Tensor& b, const Argument& of_b) {
    int64_t bytes_a = 0, bytes_b = 0;
    byte_size(a.shape(), of_a.spec().dtype->bytes(), &bytes_a);
    byte_size(b.shape(), of_b.spec().dtype->bytes(), &bytes_b);
    const auto at_a = reinterpret_cast<uintptr_t>(a.address()), at_b = reinterpret_cast<uintptr_t>(b.address());
    return bytes_a && bytes_b && at_a < at_b + static_cast<uintptr_t>(bytes_b) && at_b < at_a + static_cast<uintptr_t>(bytes_a);
  }

  std::string name_;
  const std::map<std::string, Dim>* dims_;
  std::vector<std::string> updates_;
  std::vector<Argument> inputs_, outputs_;
};

}  // namespace treadle
