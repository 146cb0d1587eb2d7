// What every call shares: the log, faults that tests ordered, facts about the device, errors.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <utility>

#include "control.h"
#include "standin.h"

namespace standin {

std::recursive_mutex mutex;
std::string log_text;
int logging = -1;
std::map<std::string, Fault> faults;
std::map<std::string, int> facts;
thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

namespace {
cudaError_t broken_by = cudaSuccess;
std::map<cudaError_t, const char*> explanations;
std::deque<std::string> said;  // for ever: callers keep pointers
cudaError_t just_explained = cudaSuccess;

constexpr struct {
  const char* name;
  int value;
} kDefaults[] = {{"devices", 1}, {"capability", 90}, {"driver", 13000}, {"init", 0}, {"run", 1}, {"memory", 8}, {"log", 0}};

void explain(cudaError_t error, std::string text) {
  said.push_back(std::move(text));
  explanations[error] = said.back().c_str();
  just_explained = error;
}
}  // namespace

bool noting() { return logging < 0 ? fact("log") : logging; }

void note(const char* format, ...) {
  if (!noting()) return;
  char line[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(line, sizeof line, format, args);
  va_end(args);
  log_text += line;
  log_text += '\n';
}

int injected(const char* function) {
  if (faults.empty()) return 0;
  const auto fault = faults.find(function);
  if (fault == faults.end() || --fault->second.after > 0) return 0;
  const int code = fault->second.code;
  faults.erase(fault);
  return code;
}

// TREADLE_PTX_DEVICE holds words such as `capability=80 devices=2`.
int fact(const char* name) {
  const auto set = facts.find(name);
  if (set != facts.end()) return set->second;
  const size_t length = std::strlen(name);
  const char* text = std::getenv("TREADLE_PTX_DEVICE");
  for (const char* word = text; word && *word; word += std::strcspn(word, " "), word += std::strspn(word, " ")) {
    if (!std::strncmp(word, name, length) && word[length] == '=') return std::atoi(word + length + 1);
  }
  for (const auto& known : kDefaults) {
    if (!std::strcmp(known.name, name)) return known.value;
  }
  return 0;
}

cudaError_t given(cudaError_t error) {
  if (error == cudaSuccess) return error;
  // The same code for another reason has CUDA's own string again.
  if (error != std::exchange(just_explained, cudaSuccess) && error != broken_by) explanations.erase(error);
  return last_error = error;
}

cudaError_t explained(cudaError_t error, std::string text) {
  explain(error, std::move(text));
  return error;
}

cudaError_t broken() { return broken_by; }

cudaError_t breaks(cudaError_t error, std::string text) {
  explain(error, text + " The device is broken from here on, until it is reset: use a new process.");
  return broken_by = error;
}

const char* explanation(cudaError_t error) {
  const auto found = explanations.find(error);
  return found == explanations.end() ? nullptr : found->second;
}

void mend() {
  broken_by = cudaSuccess;
  last_error = cudaSuccess;
  explanations.clear();
}

}  // namespace standin
