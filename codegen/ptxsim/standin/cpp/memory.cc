// Device memory: a range of addresses over a file in memory, which the machine's process maps too.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "standin.h"

namespace standin {
namespace {

// A kernel that runs over an array's end meets no other array within a page.
constexpr size_t kAlign = 256, kGap = 4096, kPage = 4096;
// Far from where heaps and libraries grow, so that addresses are the same in every run. Only a wish.
constexpr uintptr_t kWish = 0x200000000000;

std::map<uintptr_t, size_t> live;  // address -> bytes asked for
std::string told;

void tell(const char* verb, uintptr_t at, size_t bytes) {
  if (fact("run")) told += std::string(verb) + " " + std::to_string(at) + " " + std::to_string(bytes) + "\n";
}

uintptr_t address(const void* at) { return reinterpret_cast<uintptr_t>(at); }

size_t taken(size_t bytes) { return (std::max<size_t>(bytes, 1) + kGap + kAlign - 1) / kAlign * kAlign; }

// Whether all of it lies in one allocation.
bool allocated(const void* at, size_t bytes) {
  auto after = live.upper_bound(address(at));
  if (after == live.begin()) return false;
  --after;
  return address(at) + bytes <= after->first + after->second;
}

}  // namespace

const Mapping& mapping() {
  static const Mapping made = [] {
    Mapping m{memfd_create("cuda device memory", MFD_CLOEXEC), 0, static_cast<size_t>(std::max(fact("memory"), 1)) << 30};
    if (m.file < 0 || ftruncate(m.file, static_cast<off_t>(m.bytes))) return Mapping{-1, 0, 0};
    void* at = mmap(reinterpret_cast<void*>(kWish), m.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m.file, 0);
    if (at == MAP_FAILED) return Mapping{-1, 0, 0};
    m.base = address(at);
    return m;
  }();
  return made;
}

bool on_device(const void* at) { return address(at) - mapping().base < mapping().bytes; }

// The lowest place that is free: what a process uses stays together at the bottom.
cudaError_t allocate(void** data, size_t bytes) {
  const Mapping& m = mapping();
  uintptr_t place = m.base;
  for (const auto& [start, size] : live) {
    if (bytes <= m.bytes && place + taken(bytes) <= start) break;
    place = start + taken(size);
  }
  if (bytes > m.bytes || place + taken(bytes) > m.base + m.bytes) return cudaErrorMemoryAllocation;
  live[place] = bytes;
  tell("allocate", place, bytes);
  *data = reinterpret_cast<void*>(place);
  return cudaSuccess;
}

cudaError_t release(void* data) {
  const auto found = live.find(address(data));
  if (found == live.end()) return cudaErrorInvalidValue;
  tell("free", found->first, found->second);
  // Whole pages go back to the system, as sizes that would fill a GPU come and go.
  const uintptr_t first = (found->first + kPage - 1) / kPage * kPage, last = (found->first + found->second) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_REMOVE);
  live.erase(found);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (!bytes) return cudaSuccess;
  const bool to_device = on_device(to), from_device = on_device(from);
  const bool says_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool says_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (says_to != to_device || says_from != from_device)) return cudaErrorInvalidValue;
  if ((to_device && !allocated(to, bytes)) || (from_device && !allocated(from, bytes))) return cudaErrorInvalidValue;
  std::memmove(to, from, bytes);
  if (to_device) tell("written", address(to), bytes);
  return cudaSuccess;
}

cudaError_t fill(void* at, int value, size_t bytes) {
  if (!bytes) return cudaSuccess;
  if (!on_device(at) || !allocated(at, bytes)) return cudaErrorInvalidValue;
  std::memset(at, value, bytes);
  tell("written", address(at), bytes);
  return cudaSuccess;
}

size_t live_allocations() { return live.size(); }

void forget_memory() {
  live.clear();
  told.clear();
  madvise(reinterpret_cast<void*>(mapping().base), mapping().bytes, MADV_REMOVE);
}

std::string changes() { return std::exchange(told, {}); }

}  // namespace standin

using namespace standin;

API cudaError_t cudaMalloc(void** data, size_t bytes) {
  ENTER_DEVICE();
  if (const cudaError_t error = unless_capturing()) return given(error);
  if (const cudaError_t error = allocate(data, bytes)) return given(error);
  note("cudaMalloc %zu", bytes);
  return cudaSuccess;
}
API cudaError_t cudaFree(void* data) {
  ENTER();
  if (!data) return given(broken());
  if (const cudaError_t error = unless_capturing()) return given(error);
  const auto found = live.find(address(data));
  if (found != live.end()) note("cudaFree %zu", found->second);
  const cudaError_t error = release(data);
  return given(broken() ? broken() : error);
}
API cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  ENTER_DEVICE();
  if (capturing(stream)) return given(cudaErrorNotSupported);
  note("cudaMallocAsync %zu %p", bytes, static_cast<void*>(stream));
  return given(allocate(data, bytes));
}
API cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  ENTER();
  if (capturing(stream)) return given(cudaErrorNotSupported);
  note("cudaFreeAsync %p", static_cast<void*>(stream));
  const cudaError_t error = data ? release(data) : cudaSuccess;
  return given(broken() ? broken() : error);
}
API cudaError_t cudaMallocHost(void** data, size_t bytes) {
  ENTER_DEVICE();
  *data = std::aligned_alloc(kPage, (bytes + kPage) / kPage * kPage);
  return given(*data ? cudaSuccess : cudaErrorMemoryAllocation);
}
API cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return cudaMallocHost(data, bytes); }
API cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  ENTER_DEVICE();
  if (const cudaError_t error = unless_capturing()) return given(error);
  note("cudaMemcpy %zu", bytes);
  return given(copy(to, from, bytes, kind));
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  ENTER_DEVICE();
  note("cudaMemcpyAsync %zu %p", bytes, static_cast<void*>(stream));
  return given(enqueue(stream, [=] { return copy(to, from, bytes, kind); }));
}
API cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
API cudaError_t cudaMemset(void* at, int value, size_t bytes) {
  ENTER_DEVICE();
  if (const cudaError_t error = unless_capturing()) return given(error);
  note("cudaMemset %zu", bytes);
  return given(fill(at, value, bytes));
}
API cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  ENTER_DEVICE();
  note("cudaMemsetAsync %zu %p", bytes, static_cast<void*>(stream));
  return given(enqueue(stream, [=] { return fill(at, value, bytes); }));
}
API cudaError_t cudaMemGetInfo(size_t* free_, size_t* total) {
  ENTER_DEVICE();
  size_t used = 0;
  for (const auto& [start, size] : live) used += taken(size);
  *total = mapping().bytes;
  *free_ = *total - used;
  return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
  ENTER_DEVICE();
  const bool ours = on_device(at);
  *attributes = {};
  attributes->type = ours ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->device = ours ? 0 : -2;  // cudaInvalidDeviceId
  attributes->devicePointer = ours ? const_cast<void*>(at) : nullptr;
  attributes->hostPointer = ours ? nullptr : const_cast<void*>(at);
  return cudaSuccess;
}
