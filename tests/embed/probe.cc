// probe INPUT GOOD BUNDLE...: what a user of each bundle meets, in a child of its own: a line that begins with
//   right      y is GOOD, byte for byte, for the input x of shape (2, 5, 32)
//   wrong      other results, or something that is no treadle::Error
//   refused    then the error's type, what it says, and whether the library had been mapped by then
//   died       then the signal
#include <sys/resource.h>
#include <sys/wait.h>
#include <treadle/treadle.h>

#include <cstdio>
#include <cstring>
#include <string>

static void use(const char* bundle, const std::string& input, const std::string& good) try {
  treadle::Session session{treadle::Bundle(bundle)};
  const treadle::Outputs outputs = session.run({{"x", treadle::Tensor(input.data(), "float32", {2, 5, 32})}});
  const treadle::Array& y = outputs.at("y");
  const bool same = static_cast<size_t>(y.bytes()) == good.size() && std::memcmp(y.data(), good.data(), good.size()) == 0;
  std::puts(same ? "right" : "wrong\tother results");
} catch (const treadle::Error& error) {
  const bool loaded = treadle::read_file("/proc/self/maps").find("/cpu.so") != std::string::npos;
  std::printf("refused\t%s\t%s\t%s\n", error.type().c_str(), error.what(), loaded ? "loaded" : "not loaded");
} catch (const std::exception& other) {
  std::printf("wrong\tuntyped: %s\n", other.what());
}

int main(int count, char** argv) {
  const rlimit core{0, 0};
  setrlimit(RLIMIT_CORE, &core);
#ifndef __SANITIZE_ADDRESS__  // which asks for terabytes of addresses itself
  const rlimit memory{rlim_t{8} << 30, rlim_t{8} << 30};
  setrlimit(RLIMIT_AS, &memory);  // what asks for absurd memory is refused here, on any machine
#endif
  const std::string input = treadle::read_file(argv[1]), good = treadle::read_file(argv[2]);
  for (int i = 3; i < count; ++i) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      use(argv[i], input, good);
      std::fflush(stdout);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) std::printf("died\t%s\n", strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status)) std::printf("died\texit code %d\n", WEXITSTATUS(status));
  }
}
