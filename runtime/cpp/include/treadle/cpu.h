// What this CPU can do, in the words of /proc/cpuinfo, which manifests use too.
#pragma once

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

namespace treadle {

// The feature flags that all CPUs of this machine have; empty where the kernel tells none.
inline const std::set<std::string>& cpu_features() {
  static const std::set<std::string> features = [] {
    std::ifstream file("/proc/cpuinfo");
    std::set<std::string> common;
    bool first = true;
    for (std::string line; std::getline(file, line);) {
      if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
      std::istringstream words(line.substr(std::min(line.find(':'), line.size() - 1) + 1));
      const std::set<std::string> found{std::istream_iterator<std::string>(words), {}};
      std::set<std::string> both;
      std::set_intersection(common.begin(), common.end(), found.begin(), found.end(), std::inserter(both, both.end()));
      common = first ? found : both;
      first = false;
    }
    return common;
  }();
  return features;
}

}  // namespace treadle
