// The PTX machine: `python -m treadle.codegen.ptxsim.standin.serve` as a child process, started by the first launch.
//
// It inherits the memory's file as descriptor 3 and a socket as 4, and ends when the socket closes. Both sides send frames: four
// bytes of length and text, a word and its value a line. An answer is `CODE STICKY` and, after a line's end, text.
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <utility>

#include "standin.h"

extern char** environ;

namespace standin {
namespace {

constexpr int kMemory = 3, kSocket = 4;

struct Machine {
  pid_t process = 0, owner = 0;
  int socket = -1;
} machine;

bool all(ssize_t (*step)(int, char*, size_t), char* at, size_t bytes) {
  while (bytes) {
    const ssize_t done = step(machine.socket, at, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    at += done, bytes -= static_cast<size_t>(done);
  }
  return true;
}
ssize_t sent(int socket, char* at, size_t bytes) { return ::send(socket, at, bytes, MSG_NOSIGNAL); }
ssize_t received(int socket, char* at, size_t bytes) { return ::recv(socket, at, bytes, 0); }

bool send(std::string text) {
  uint32_t length = static_cast<uint32_t>(text.size());
  return all(sent, reinterpret_cast<char*>(&length), sizeof length) && all(sent, text.data(), text.size());
}
bool receive(std::string& text) {
  uint32_t length = 0;
  if (!all(received, reinterpret_cast<char*>(&length), sizeof length)) return false;
  text.resize(length);
  return all(received, text.data(), length);
}

void end() {
  if (machine.socket >= 0) close(machine.socket);
  if (machine.process) waitpid(machine.process, nullptr, 0);
  machine = {};
}

// The machine went away by itself.
cudaError_t lost(const std::string& when) {
  int status = 0;
  close(std::exchange(machine.socket, -1));
  waitpid(std::exchange(machine.process, 0), &status, 0);
  const std::string how = WIFSIGNALED(status) ? "was ended by signal " + std::to_string(WTERMSIG(status))
                                              : "ended with status " + std::to_string(WEXITSTATUS(status));
  return breaks(cudaErrorDevicesUnavailable, "the PTX machine's process " + how + " " + when + ".");
}

struct Answer {
  cudaError_t code;
  std::string text;
};

// What the machine says to a request; the error that a broken device gives from then on where it says nothing.
Answer ask(const std::string& request, const std::string& when) {
  std::string text;
  if (!send(request) || !receive(text)) return {lost(when), {}};
  int code = 0, sticky = 0, read = 0;
  if (std::sscanf(text.c_str(), "%d %d%n", &code, &sticky, &read) != 2) return {breaks(cudaErrorUnknown, "the PTX machine babbles."), {}};
  text.erase(0, std::min(text.size(), static_cast<size_t>(read) + 1));
  const auto error = static_cast<cudaError_t>(code);
  if (code && sticky) breaks(error, text);
  if (code && !sticky) explained(error, text);
  return {error, text};
}

cudaError_t start() {
  if (machine.socket >= 0) {
    if (machine.owner == getpid()) return cudaSuccess;
    return explained(cudaErrorInitializationError, "this process was forked from one that uses the device; CUDA cannot be used in both");
  }
  const Mapping& memory = mapping();
  int pair[2];
  if (memory.file < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
    return breaks(cudaErrorDevicesUnavailable, std::string("no shared memory for the PTX machine: ") + std::strerror(errno) + ".");
  }
  const char* asked = std::getenv("TREADLE_PTX_PYTHON");
  const std::string python = asked && *asked ? asked : TREADLE_PYTHON, base = std::to_string(memory.base);
  const std::string words[] = {python, "-P", "-m", "treadle.codegen.ptxsim.standin.serve", base, std::to_string(memory.bytes)};
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  // The child needs neither this library nor what else was put in front of others.
  std::vector<char*> environment;
  for (char** variable = environ; *variable; ++variable) {
    if (std::strncmp(*variable, "LD_", 3)) environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // By way of high numbers: either may be the other's goal.
  const int high_memory = fcntl(memory.file, F_DUPFD_CLOEXEC, 10), high_socket = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
  posix_spawn_file_actions_adddup2(&actions, high_memory, kMemory);
  posix_spawn_file_actions_adddup2(&actions, high_socket, kSocket);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);  // what a program prints stays its own
  const int failed = posix_spawnp(&machine.process, python.c_str(), &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  close(high_memory), close(high_socket), close(pair[1]);
  if (failed) {
    close(pair[0]);
    machine = {};
    return breaks(cudaErrorDevicesUnavailable, "the PTX machine cannot be started: " + python + ": " + std::strerror(failed) +
                                                   ". TREADLE_PTX_PYTHON names a Python that has treadle.");
  }
  machine.socket = pair[0];
  machine.owner = getpid();
  return ask("hello\n", "before it was ready; TREADLE_PTX_PYTHON names a Python that has treadle, here " + python).code;
}

std::string line(const char* word, const unsigned* values) {
  std::ostringstream text;
  text << word << ' ' << values[0] << ' ' << values[1] << ' ' << values[2] << '\n';
  return text.str();
}

std::string hex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) text += {kDigits[byte >> 4], kDigits[byte & 15]};
  return text;
}

std::string whose(const Kernel& kernel) { return "ptx " + kernel.ptx + "\nentry " + kernel.name + "\n"; }

}  // namespace

cudaError_t parameters(Kernel& kernel) {
  if (kernel.asked) return cudaSuccess;
  if (kernel.ptx.empty()) return explained(cudaErrorFileNotFound, "kernel " + kernel.name + ": " + kernel.trouble);
  if (const cudaError_t error = start()) return error;
  const Answer answer = ask("parameters\n" + whose(kernel), "while it read " + kernel.ptx);
  if (answer.code) return answer.code;
  std::istringstream sizes(answer.text);
  for (size_t size; sizes >> size;) kernel.params.push_back(size);
  kernel.asked = true;
  return cudaSuccess;
}

cudaError_t run(const Kernel& kernel, const Shape& shape, const std::vector<std::string>& params) {
  if (broken()) return broken();
  if (const cudaError_t error = start()) return error;
  std::string request = "launch\n" + whose(kernel) + line("grid", shape.grid) + line("block", shape.block);
  if (shape.cluster[0]) request += line("cluster", shape.cluster);
  request += "shared " + std::to_string(shape.shared) + "\n" + changes();
  for (const std::string& bytes : params) request += "param " + hex(bytes) + "\n";
  return ask(request, "while it ran kernel " + kernel.name).code;
}

void reset_machine() {
  if (machine.socket < 0 || machine.owner != getpid()) return;
  std::string answer;
  if (!send("reset\n") || !receive(answer)) end();
}

}  // namespace standin
