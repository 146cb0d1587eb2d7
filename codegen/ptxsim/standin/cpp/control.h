// What control.cc sets and state.cc uses.
#pragma once

#include <map>
#include <string>

namespace standin {

struct Fault {
  int after;
  int code;
};

extern std::string log_text;
extern int logging;  // -1: as the fact `log` says
extern long launches;
extern bool spoilt, captured_by_test;
extern std::map<std::string, Fault> faults;              // by function
extern std::map<std::string, int> facts;                 // set by a call, before the environment
extern std::map<std::string, int> argument_counts;       // of kernels whose arguments the log shows
extern std::map<void*, unsigned long long> stream_numbers;

}  // namespace standin
