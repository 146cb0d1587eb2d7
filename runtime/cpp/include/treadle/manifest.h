// manifest.json: what a bundle offers. Reading it checks meaning as well as shape, by the rules of runtime/manifest.py, so
// code that holds a Manifest can trust it without looking again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"
#include "error.h"
#include "json.h"
#include "sizes.h"
#include "sums.h"

namespace treadle {

struct Dim {
  int64_t lo, hi, step;
  std::vector<SizeExpr> one_of;  // empty for no constraint
};

struct TensorSpec {
  std::string name;
  std::vector<SizeExpr> shape;
  const DType* dtype;
  int64_t alignment;
};

struct Entry {
  std::string name;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<std::string> updates;  // the inputs that are written
};

struct LibrarySpec {
  std::string target, file;
  std::vector<std::string> cpu_features;
};

struct Manifest {
  static constexpr int kSchema = 1;
  static constexpr const char* kFile = "manifest.json";

  std::string name;
  std::map<std::string, std::string> producer;
  std::map<std::string, Dim> dims;
  std::vector<Entry> entries;
  std::vector<TensorSpec> weights;
  std::vector<LibrarySpec> libraries;

  static Manifest from_json(std::string_view data);
};

namespace manifest {

using json::Node;

inline bool identifier(const std::string& name) {
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
  return !name.empty() && letters.find(name[0]) != letters.npos &&
         name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789") == name.npos;
}

// Before anything else: a newer file may differ everywhere but in `schema` and `producer`.
inline void check_schema(const Node& top) {
  const int64_t schema = top.field("schema").integer(1);
  if (schema <= Manifest::kSchema) return;
  std::string release = "the release that wrote it";
  try {
    release = top.field("producer").field("treadle").string();
  } catch (const Error&) {
  }
  throw Error("BundleError", "manifest.json: the bundle is written in a schema newer than this runtime reads",
              "schema " + std::to_string(schema), "schema " + std::to_string(Manifest::kSchema) + " or older",
              "Install treadle " + release + " or newer, or compile the bundle again with this one.");
}

inline std::vector<SizeExpr> sizes(const Node& node) {
  std::vector<SizeExpr> found;
  for (const Node& item : node.items()) {
    try {
      found.emplace_back(item.string());
    } catch (const Error& wrong) {
      if (wrong.type() == "BundleError") throw;
      item.refuse("is not a size expression", wrong.given(), wrong.expected());
    }
  }
  return found;
}

inline Dim dim(const std::string& name, const Node& node) {
  if (!identifier(name) || name == "min" || name == "max") node.refuse("is not a dim name", "'" + name + "'", "an identifier");
  const auto f = node.fields({"lo", "hi", "step", "one_of"});
  const int64_t lo = f[0].integer();
  return {lo, f[1].integer(lo), f[2].integer(1), sizes(f[3])};
}

inline TensorSpec tensor(const Node& node) {
  const auto f = node.fields({"name", "shape", "dtype", "alignment"});
  TensorSpec spec{f[0].string(), sizes(f[1]), find_dtype(f[2].string()), f[3].integer(1)};
  if (spec.name.empty()) f[0].refuse("is empty");
  if (!spec.dtype) f[2].refuse("is not a dtype", "'" + f[2].string() + "'", dtype_names());
  if (spec.alignment & (spec.alignment - 1)) f[3].refuse("is no alignment", std::to_string(spec.alignment), "a power of two");
  return spec;
}

// The elements of an array, of which no two have the same `key`.
template <typename T>
std::vector<T> unique(const Node& node, T (*read)(const Node&), const char* key, std::string T::*member) {
  std::vector<T> found;
  std::set<std::string> seen;
  for (const Node& item : node.items()) {
    found.push_back(read(item));
    const std::string& name = found.back().*member;
    if (!seen.insert(name).second) node.refuse(std::string("has two elements with the same ") + key, "'" + name + "'");
  }
  return found;
}

inline Entry entry(const Node& node) {
  const auto f = node.fields({"name", "inputs", "outputs"}, "updates");
  Entry entry{f[0].string(), unique(f[1], tensor, "name", &TensorSpec::name), unique(f[2], tensor, "name", &TensorSpec::name), {}};
  if (f.size() > 3)
    for (const Node& item : f[3].items()) {
      const std::string& name = entry.updates.emplace_back(item.string());
      if (std::none_of(entry.inputs.begin(), entry.inputs.end(), [&name](const TensorSpec& t) { return t.name == name; }))
        item.refuse("is no input of the entry", "'" + name + "'");
    }
  if (!identifier(entry.name)) f[0].refuse("is not an entry name", "'" + entry.name + "'", "an identifier");  // of a C symbol
  for (const TensorSpec& input : entry.inputs)
    if (input.name == "entry" || input.name == "out" || input.name == "stream")
      f[1].refuse("uses a reserved name", "'" + input.name + "'", "another name");
  return entry;
}

inline LibrarySpec library(const Node& node) {
  const auto f = node.fields({"target", "file", "cpu_features"});
  const std::string& file = f[1].string();
  // SHA256SUMS lists plain paths only, and every library must be listed there; here it must lie in lib/.
  if (file.compare(0, 4, "lib/") != 0 || !sums::plain(file))
    f[1].refuse("is not a library path", "'" + file + "'", "lib/NAME.so");
  return {f[0].string(), file, f[2].strings()};
}

inline std::string joined(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Every dim that an entry reads is declared, and some input's shape states it, outright or times a number.
inline void check_dims(const Entry& entry, const std::map<std::string, Dim>& dims, const Node& node) {
  std::set<std::string> read, bound, unknown, unbound;
  const auto add = [&read](const SizeExpr& size) { for (const std::string& name : size.names()) read.insert(name); };
  for (const auto* tensors : {&entry.inputs, &entry.outputs})
    for (const TensorSpec& t : *tensors)
      for (const SizeExpr& size : t.shape) {
        add(size);
        if (tensors == &entry.inputs && !size.binds().first.empty()) bound.insert(size.binds().first);
      }
  for (const std::string& name : std::set<std::string>(read))
    if (const auto found = dims.find(name); found != dims.end())
      for (const SizeExpr& choice : found->second.one_of) add(choice);
  for (const std::string& name : read) {
    if (!dims.count(name)) unknown.insert(name);
    if (!bound.count(name)) unbound.insert(name);
  }
  if (!unknown.empty()) node.refuse("uses sizes that `dims` does not declare", joined(unknown));
  if (!unbound.empty()) node.refuse("uses sizes that no input states, as NAME or NAME * INT", joined(unbound));
}

}  // namespace manifest

inline Manifest Manifest::from_json(std::string_view data) {
  const json::Value value = json::parse(data, kFile);
  const json::Node top(value, "", kFile);
  manifest::check_schema(top);
  const auto f = top.fields({"schema", "name", "producer", "dims", "entries", "weights", "states", "libraries"});
  if (!f[6].items().empty()) f[6].refuse("must be empty in schema " + std::to_string(kSchema));
  Manifest made;
  made.name = f[1].string();
  for (const auto& [key, node] : f[2].entries()) made.producer[key] = node.string();
  for (const auto& [key, node] : f[3].entries()) made.dims.emplace(key, manifest::dim(key, node));
  made.entries = manifest::unique(f[4], manifest::entry, "name", &Entry::name);
  made.weights = manifest::unique(f[5], manifest::tensor, "name", &TensorSpec::name);
  made.libraries = manifest::unique(f[7], manifest::library, "target", &LibrarySpec::target);
  if (made.entries.empty()) f[4].refuse("is empty", {}, "at least one entry point");
  const auto entries = f[4].items(), weights = f[5].items();
  for (size_t i = 0; i < entries.size(); ++i) manifest::check_dims(made.entries[i], made.dims, entries[i]);
  for (size_t i = 0; i < weights.size(); ++i)
    for (const SizeExpr& size : made.weights[i].shape)
      if (!size.names().empty()) weights[i].refuse("has a symbolic shape", size.text(), "integers");
  return made;
}

}  // namespace treadle
