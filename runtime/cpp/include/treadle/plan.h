// plan.json, as far as loading needs it: the library is the plan compiled, so where manifest and plan differ, it would read or
// write past a tensor's end. The rules are those of runtime/plan.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.h"
#include "dtype.h"
#include "error.h"
#include "file.h"
#include "json.h"
#include "manifest.h"
#include "sizes.h"

namespace treadle {
namespace plan {

using json::Node;

inline constexpr const char* kFile = "plan.json";
inline constexpr int kSchema = 1;

inline SizeExpr size(const Node& node, const std::map<std::string, Dim>& dims) {
  try {
    SizeExpr read(node.string());
    for (const std::string& name : read.names())
      if (!dims.count(name)) node.refuse("uses an unknown dim", name);
    return read;
  } catch (const Error& wrong) {
    if (wrong.type() == "BundleError") throw;
    node.refuse("is not a size expression", wrong.given(), wrong.expected());
  }
}

// Elements at these sizes.
inline int64_t elements(const std::vector<SizeExpr>& shape, const Sizes& sizes, const Node& node) {
  int64_t count = 1;
  for (const SizeExpr& size : shape)
    if (__builtin_mul_overflow(count, size.evaluate(sizes), &count)) node.refuse("overflows");
  return count;
}

// One entry point's plan against the manifest.
class Check {
 public:
  Check(const Entry& entry, const Manifest& manifest) : manifest_(manifest) {
    for (const TensorSpec& t : entry.inputs) ports_["input"][t.name] = &t;
    for (const TensorSpec& t : entry.outputs) ports_["output"][t.name] = &t;
    for (const TensorSpec& t : manifest.weights) ports_["weight"][t.name] = &t;
    // Of each dim another size, so that two expressions which are equal here are hardly equal by chance.
    int64_t next = 1009;
    for (const auto& [name, dim] : manifest.dims)
      if (__builtin_mul_overflow(dim.step, next++, &sizes_[name])) sizes_[name] = INT64_MAX;
  }

  void run(const Node& node) {
    const auto f = node.fields({"arena", "values", "steps"});
    for (const Node& region : f[0].items()) {
      const auto r = region.fields({"name", "bytes"});
      ports_["arena"][r[0].string()] = nullptr;
      size(r[1], manifest_.dims);
    }
    std::set<std::string> values, written;
    for (const auto& [name, value] : f[1].entries()) {
      values.insert(name);
      this->value(value, &written);
    }
    for (const auto& [name, port] : ports_["output"])
      if (!written.count(name)) f[1].refuse("lacks outputs of the manifest", name, "a value for each");
    for (const Node& step : f[2].items()) {
      const auto s = step.fields({"node", "kernel", "args"});
      s[0].string(), s[1].string();
      for (const std::string& arg : s[2].strings())
        if (!values.count(arg)) s[2].refuse("uses a value that is not defined", "'" + arg + "'");
    }
  }

 private:
  void value(const Node& node, std::set<std::string>* written) {
    const auto f = node.fields({"shape", "dtype", "place", "of"});
    std::vector<SizeExpr> shape;
    for (const Node& item : f[0].items()) shape.push_back(size(item, manifest_.dims));
    const std::string &dtype = f[1].string(), &place = f[2].string(), &of = f[3].string();
    if (!find_dtype(dtype)) f[1].refuse("is not a dtype", dtype, dtype_names());
    if (place != "input" && place != "output" && place != "weight" && place != "arena")
      f[2].refuse("is not a place", place, "input, output, weight, arena");
    const auto found = ports_[place].find(of);
    if (found == ports_[place].end()) f[3].refuse("is no " + place + " of this entry", of);
    if (place == "output") written->insert(of);
    const TensorSpec* port = found->second;
    if (!port) return;
    // A value over the caller's memory has the manifest's dtype and as many elements; its shape may be a view's.
    if (dtype != port->dtype->name) f[1].refuse("is not the manifest's", dtype, std::string(port->dtype->name));
    const int64_t given = elements(shape, sizes_, f[0]), expected = elements(port->shape, sizes_, f[0]);
    if (given != expected) f[0].refuse("has not the manifest's elements", std::to_string(given), std::to_string(expected));
  }

  const Manifest& manifest_;
  std::map<std::string, std::map<std::string, const TensorSpec*>> ports_;  // place -> what is there
  Sizes sizes_;
};

}  // namespace plan

// Refuses a plan that is not one for the manifest.
inline void check_plan(const json::Value& value, const Manifest& manifest) {
  for (const Entry& entry : manifest.entries) {
    const auto f = json::Node(value, "", plan::kFile).fields({"schema", "entries", "reuse"});
    f[0].integer(plan::kSchema, plan::kSchema);
    plan::Check(entry, manifest).run(f[1].field(entry.name));
  }
}

inline void check_plan(const Bundle& bundle) {
  if (!bundle.sums().count(plan::kFile))
    throw Error("BundleError", "bundle " + bundle.path().string() + ": plan.json is missing", {}, {},
                "Rebuild it with `treadle compile ... -o " + bundle.path().string() + "`.");
  check_plan(json::parse(read_file(bundle.path() / plan::kFile), plan::kFile), bundle.manifest());
}

}  // namespace treadle
