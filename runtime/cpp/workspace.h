// Scratch memory of CPU kernels: each thread keeps the blocks it has freed and reuses
// them, so a steady state allocates nothing.  Included by pool.cc only.
//
// Blocks are never shared between threads while in use, but one may be freed by another
// thread than took it; it then simply changes its owner.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <cstdlib>

namespace treadle {
namespace {

constexpr uint64_t kAlign = 64;
constexpr uint64_t kGranule = 4096;  // rounding up lets nearly equal requests share a block

struct alignas(kAlign) Block {  // the header; the caller's bytes follow it
  Block* next;
  uint64_t bytes;
};
static_assert(sizeof(Block) == kAlign, "the bytes after the header must stay aligned");

struct Cache {  // one per thread
  Block* free_blocks;
  Cache* next;
};

// A thread that ends frees its cache through the key's destructor.  A library that is
// unloaded first frees everybody's: a C++ thread_local destructor would instead pin the
// library in memory for as long as the thread lives.
pthread_key_t cache_key;
pthread_mutex_t caches_mutex = PTHREAD_MUTEX_INITIALIZER;
Cache* caches = nullptr;
thread_local Cache* my_cache = nullptr;

void FreeBlocks(Cache* cache) {
  while (Block* block = cache->free_blocks) {
    cache->free_blocks = block->next;
    free(block);
  }
}

void ThreadEnds(void* value) {
  Cache* cache = static_cast<Cache*>(value);
  pthread_mutex_lock(&caches_mutex);
  Cache** link = &caches;
  while (*link != cache) link = &(*link)->next;
  *link = cache->next;
  pthread_mutex_unlock(&caches_mutex);
  FreeBlocks(cache);
  free(cache);
  my_cache = nullptr;
}

Cache* MyCache() {
  if (my_cache != nullptr) return my_cache;
  Cache* cache = static_cast<Cache*>(calloc(1, sizeof(Cache)));
  if (cache == nullptr) return nullptr;
  pthread_mutex_lock(&caches_mutex);
  cache->next = caches;
  caches = cache;
  pthread_mutex_unlock(&caches_mutex);
  pthread_setspecific(cache_key, cache);
  return my_cache = cache;
}

void* AllocWorkspace(int, int, uint64_t bytes, int, int) {
  Cache* cache = MyCache();
  if (cache == nullptr || bytes > INT64_MAX - 2 * kGranule) return nullptr;
  for (Block** link = &cache->free_blocks; *link != nullptr; link = &(*link)->next) {
    if ((*link)->bytes >= bytes) {
      Block* block = *link;
      *link = block->next;
      return block + 1;
    }
  }
  // None fits: give one up, so that there are never more blocks than were ever live at once.
  if (Block* small = cache->free_blocks) {
    cache->free_blocks = small->next;
    free(small);
  }
  uint64_t total = (bytes + sizeof(Block) + kGranule - 1) / kGranule * kGranule;
  Block* block = static_cast<Block*>(aligned_alloc(kAlign, total));
  if (block == nullptr) return nullptr;
  block->bytes = total - sizeof(Block);
  return block + 1;
}

int FreeWorkspace(int, int, void* pointer) {
  if (pointer == nullptr) return 0;
  Block* block = static_cast<Block*>(pointer) - 1;
  Cache* cache = MyCache();
  if (cache == nullptr) {
    free(block);
    return 0;
  }
  block->next = cache->free_blocks;
  cache->free_blocks = block;
  return 0;
}

// The lock may have been held by a thread that the child does not have.  The list itself
// is whole at every instant; caches of lost threads stay on it until the library closes.
void WorkspaceAfterFork() { caches_mutex = PTHREAD_MUTEX_INITIALIZER; }

__attribute__((constructor)) void OpenWorkspace() {
  pthread_key_create(&cache_key, ThreadEnds);
  pthread_atfork(nullptr, nullptr, WorkspaceAfterFork);
}

// Priority 101 runs after the pool's destructor: its workers free their caches first.
__attribute__((destructor(101))) void CloseWorkspace() {
  pthread_key_delete(cache_key);
  while (Cache* cache = caches) {
    caches = cache->next;
    FreeBlocks(cache);
    free(cache);
  }
  my_cache = nullptr;
}

}  // namespace
}  // namespace treadle
