// Tensors: a view of memory that the caller owns, and an Array that owns its memory; in the host's memory or a device's.
#pragma once

#include <dlpack/dlpack.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "dtype.h"
#include "error.h"

namespace treadle {

using Shape = std::vector<int64_t>;

inline std::string text(const Shape& shape) {
  std::string sizes;
  for (int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return "(" + sizes + ")";
}

inline std::string text(DLDevice device) {
  const std::string kind = device.device_type == kDLCPU    ? "cpu"
                           : device.device_type == kDLCUDA ? "cuda"
                                                           : "DLPack device " + std::to_string(device.device_type);
  return device.device_type == kDLCPU ? kind : kind + ":" + std::to_string(device.device_id);
}

inline bool same(DLDevice a, DLDevice b) {
  return a.device_type == b.device_type && (a.device_type == kDLCPU || a.device_id == b.device_id);
}

// Bytes of a compact tensor; false where a size is negative, or where those that are not zero have a product past int64: numpy
// makes no such array either.
inline bool byte_size(const Shape& shape, int64_t item, int64_t* bytes) {
  bool empty = false;
  for (int64_t size : shape) {
    if (size < 0) return false;
    empty = empty || size == 0;
  }
  *bytes = item;
  for (int64_t size : shape)
    if (size && __builtin_mul_overflow(*bytes, size, bytes)) return false;
  if (empty) *bytes = 0;
  return true;
}

// A view, compact unless strides are given. It owns its shape, never its elements. The device is believed: whose memory an
// address is, is not asked.
class Tensor {
 public:
  template <typename T>
  Tensor(T* data, Shape shape, DLDevice device = {kDLCPU, 0}) : Tensor(data, dtype_of<T>(), std::move(shape), device) {}
  Tensor(const void* data, std::string_view dtype_name, Shape shape, DLDevice device = {kDLCPU, 0})
      : Tensor(data, dtype(dtype_name), std::move(shape), device) {
    read_only_ = true;
  }
  Tensor(void* data, std::string_view dtype_name, Shape shape, DLDevice device = {kDLCPU, 0})
      : Tensor(data, dtype(dtype_name), std::move(shape), device) {}

  // Someone else's tensor, of any device. Its shape is copied, its memory stays theirs.
  explicit Tensor(const DLTensor& t)
      : data_(t.data), offset_(t.byte_offset), device_(t.device), dtype_(t.dtype) {
    if (t.ndim < 0 || (t.ndim > 0 && !t.shape))
      throw Error("ArgumentError", "a DLTensor has no shape", "ndim " + std::to_string(t.ndim), "ndim >= 0 and a shape");
    shape_.assign(t.shape, t.shape + t.ndim);
    if (t.strides) strides_.assign(t.strides, t.strides + t.ndim);
  }

  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // in elements; empty for compact
  DLDataType dtype_code() const { return dtype_; }
  DLDevice device() const { return device_; }
  bool read_only() const { return read_only_; }
  void* address() const { return data_ ? static_cast<char*>(data_) + offset_ : nullptr; }

  // Valid for as long as this Tensor stays where it is.
  DLTensor dl() const {
    return {data_, device_, static_cast<int32_t>(shape_.size()), dtype_, const_cast<int64_t*>(shape_.data()),
            strides_.empty() ? nullptr : const_cast<int64_t*>(strides_.data()), offset_};
  }

 private:
  template <typename T>
  Tensor(T* data, const DType& dtype, Shape shape, DLDevice device)
      : data_(const_cast<std::remove_const_t<T>*>(data)),
        device_(device),
        dtype_{dtype.code, dtype.bits, 1},
        shape_(std::move(shape)),
        read_only_(std::is_const_v<T>) {}

  void* data_;
  uint64_t offset_ = 0;
  DLDevice device_;
  DLDataType dtype_;
  Shape shape_, strides_;
  bool read_only_ = false;
};

// Memory with a shape, for outputs.
class Array {
 public:
  static constexpr int64_t kAlign = 64;

  using Memory = std::unique_ptr<void, std::function<void(void*)>>;

  // In the host's memory.
  Array(const DType& dtype, Shape shape) : Array(dtype, std::move(shape), {kDLCPU, 0}, host) {}

  // In a device's, which allocate(bytes) gives.
  Array(const DType& dtype, Shape shape, DLDevice device, const std::function<Memory(int64_t)>& allocate)
      : dtype_(&dtype), shape_(std::move(shape)), device_(device) {
    if (!byte_size(shape_, dtype.bytes(), &bytes_) || bytes_ > INT64_MAX - kAlign)
      throw Error("BoundsError", "an array of this shape does not fit into memory", text(shape_), "fewer than 2**63 bytes");
    memory_ = allocate(bytes_);
  }

  DLDevice device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int64_t size() const { return bytes_ / dtype_->bytes(); }
  int64_t bytes() const { return bytes_; }
  void* data() { return memory_.get(); }
  const void* data() const { return memory_.get(); }
  Tensor tensor() { return Tensor(data(), dtype_->name, shape_, device_); }
  Tensor tensor() const { return Tensor(data(), dtype_->name, shape_, device_); }

  // The elements, where T is their type and they are in the host's memory.
  template <typename T>
  const T* as() const {
    if (dtype_ != &dtype_of<T>())
      throw Error("ArgumentError", "the array has another element type", std::string(dtype_of<T>().name), std::string(dtype_->name));
    if (device_.device_type != kDLCPU)
      throw Error("DeviceError", "the array's elements are not in the host's memory", text(device_), "cpu", "Copy it with Session::download.");
    return static_cast<const T*>(data());
  }

 private:
  static Memory host(int64_t bytes) {
    Memory memory(std::aligned_alloc(kAlign, static_cast<size_t>(bytes / kAlign + 1) * kAlign), [](void* p) { std::free(p); });
    if (!memory) throw Error("DeviceError", "no memory for an output", std::to_string(bytes) + " B");
    return memory;
  }

  const DType* dtype_;
  Shape shape_;
  DLDevice device_;
  int64_t bytes_ = 0;
  Memory memory_;
};

}  // namespace treadle
