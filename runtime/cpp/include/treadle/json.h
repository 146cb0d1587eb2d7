// Reading JSON that a machine wrote: every surprise is an Error that names its place. The rules are those of
// runtime/strict_json.py: exact keys, no duplicates, no number where a string belongs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"

namespace treadle::json {

enum class Kind { null, boolean, number, string, array, object };

struct Value {
  Kind kind = Kind::null;
  std::string text;  // of a string, or a number as it is written
  std::vector<Value> items;
  std::vector<std::pair<std::string, Value>> members;
};

inline const char* name(Kind kind) {
  constexpr const char* names[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
  return names[static_cast<int>(kind)];
}

// A value together with where it stands, e.g. `manifest.json: entries[0].name`.
class Node {
 public:
  Node(const Value& value, std::string path, std::string source)
      : value_(&value), path_(std::move(path)), source_(std::move(source)) {}

  // The values of an object that has exactly these keys, in this order; `maybe`, where it is there, comes last.
  std::vector<Node> fields(std::initializer_list<const char*> names, std::string_view maybe = {}) const {
    std::vector<Node> found;
    for (const char* name : names) found.push_back(field(name));
    for (const auto& [key, value] : value_->members)
      if (!maybe.empty() && key == maybe)
        found.emplace_back(value, path_ + "." + key, source_);
      else if (std::none_of(names.begin(), names.end(), [&key = key](const char* n) { return key == n; }))
        refuse("has an unknown key '" + key + "'");
    return found;
  }

  // One value of an object, whatever else the object holds.
  Node field(const std::string& name) const {
    require(Kind::object);
    for (const auto& [key, value] : value_->members)
      if (key == name) return Node(value, path_ + "." + key, source_);
    refuse("lacks the key '" + name + "'");
  }

  // The (key, value) pairs of an object with free keys.
  std::vector<std::pair<std::string, Node>> entries() const {
    require(Kind::object);
    std::vector<std::pair<std::string, Node>> found;
    for (const auto& [key, value] : value_->members) found.emplace_back(key, Node(value, path_ + "." + key, source_));
    return found;
  }

  std::vector<Node> items() const {
    require(Kind::array);
    std::vector<Node> found;
    for (const Value& item : value_->items)
      found.emplace_back(item, path_ + "[" + std::to_string(found.size()) + "]", source_);
    return found;
  }

  const std::string& string() const {
    require(Kind::string);
    return value_->text;
  }

  std::vector<std::string> strings() const {
    std::vector<std::string> found;
    for (const Node& item : items()) found.push_back(item.string());
    return found;
  }

  int64_t integer(int64_t lo = 0, int64_t hi = INT64_MAX) const {
    require(Kind::number);
    const std::string& text = value_->text;
    if (text.find_first_of(".eE") != std::string::npos) refuse("has the wrong type", text.substr(0, 60), "an integer");
    const bool negative = text[0] == '-';
    int64_t number = 0;
    bool fits = true;
    for (size_t i = negative; fits && i < text.size(); ++i)
      fits = !__builtin_mul_overflow(number, 10, &number) && !__builtin_add_overflow(number, text[i] - '0', &number);
    if (negative) number = -number;
    if (!fits || number < lo || number > hi)
      refuse("is out of range", text.substr(0, 60), std::to_string(lo) + " to " + std::to_string(hi));
    return number;
  }

  [[noreturn]] void refuse(const std::string& why, std::string given = {}, std::string expected = {}) const {
    const std::string place = path_.empty() ? "the top level" : path_.substr(1);
    throw Error("BundleError", source_ + ": " + place + " " + why, std::move(given), std::move(expected),
                "Write the bundle again with `treadle compile ... -o`.");
  }

 private:
  void require(Kind kind) const {
    if (value_->kind != kind) refuse("has the wrong type", name(value_->kind), name(kind));
  }

  const Value* value_;
  std::string path_, source_;
};

class Parser {
 public:
  Parser(std::string_view data, std::string source) : data_(data), source_(std::move(source)) {}

  Value document() {
    Value value = element(0);
    space();
    if (at_ != data_.size()) refuse("text after its end");
    return value;
  }

 private:
  static constexpr int kDepth = 64;
  static constexpr size_t kNumberChars = 1000;

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error("BundleError", source_ + ": the top level is not readable JSON (" + why + " at byte " + std::to_string(at_) + ")", {},
                {}, "Write the bundle again with `treadle compile ... -o`.");
  }

  char peek() const { return at_ < data_.size() ? data_[at_] : '\0'; }

  void space() {
    while (at_ < data_.size() && (data_[at_] == ' ' || data_[at_] == '\n' || data_[at_] == '\r' || data_[at_] == '\t')) ++at_;
  }

  bool take(char c) {
    space();
    if (at_ >= data_.size() || data_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!take(c)) refuse(std::string("no '") + c + "'");
  }

  Value element(int depth) {
    if (depth > kDepth) refuse("nested too deeply");
    Value value;
    space();
    switch (peek()) {
      case '{': value.kind = Kind::object; object(value, depth); break;
      case '[': value.kind = Kind::array; array(value, depth); break;
      case '"': value.kind = Kind::string; value.text = string(); break;
      case 't': word("true"); value.kind = Kind::boolean; break;
      case 'f': word("false"); value.kind = Kind::boolean; break;
      case 'n': word("null"); break;
      default: value.kind = Kind::number; value.text = number();
    }
    return value;
  }

  void word(std::string_view text) {
    if (data_.substr(at_, text.size()) != text) refuse("an unknown word");
    at_ += text.size();
  }

  void array(Value& value, int depth) {
    expect('[');
    if (take(']')) return;
    do value.items.push_back(element(depth + 1));
    while (take(','));
    expect(']');
  }

  void object(Value& value, int depth) {
    expect('{');
    if (take('}')) return;
    do {
      space();
      std::string key = string();
      expect(':');
      value.members.emplace_back(std::move(key), element(depth + 1));
    } while (take(','));
    expect('}');
    std::vector<std::string_view> keys;
    for (const auto& member : value.members) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    if (const auto twice = std::adjacent_find(keys.begin(), keys.end()); twice != keys.end())
      refuse("an object with the key '" + std::string(*twice) + "' twice");
  }

  std::string number() {
    const size_t start = at_;
    const auto digits = [this] {
      const size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) refuse("no value");
    };
    if (peek() == '-') ++at_;
    if (peek() == '0') ++at_;
    else digits();
    if (peek() == '.') ++at_, digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    if (at_ - start > kNumberChars) refuse("a number too long");
    return std::string(data_.substr(start, at_ - start));
  }

  std::string string() {
    if (at_ >= data_.size() || data_[at_] != '"') refuse("no string");
    ++at_;
    std::string text;
    for (;;) {
      if (at_ >= data_.size()) refuse("a string without an end");
      const unsigned char c = static_cast<unsigned char>(data_[at_]);
      if (c == '"') return ++at_, text;
      if (c < 0x20) refuse("a control character in a string");
      if (c == '\\') escape(text);
      else if (c < 0x80) text += data_[at_++];
      else utf8(text);
    }
  }

  void escape(std::string& text) {
    ++at_;
    constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (const size_t i = from.find(c); c && i != from.npos) {
      text += to[i];
      ++at_;
    } else if (c == 'u') {
      uint32_t code = hex();
      if (code >= 0xD800 && code < 0xDC00 && peek() == '\\') {
        const uint32_t low = (++at_, peek() == 'u') ? hex() : 0;
        if (low < 0xDC00 || low > 0xDFFF) refuse("half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else if (code >= 0xD800 && code < 0xE000) {
        refuse("half a surrogate pair");
      }
      append(text, code);
    } else {
      refuse("an unknown escape");
    }
  }

  // The four digits behind the u that stands here.
  uint32_t hex() {
    ++at_;
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) refuse("a malformed \\u");
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return code;
  }

  static void append(std::string& text, uint32_t code) {
    const auto put = [&text](uint32_t byte) { text += static_cast<char>(byte); };
    if (code < 0x80) return put(code);
    if (code < 0x800) return put(0xC0 | code >> 6), put(0x80 | (code & 63));
    if (code < 0x10000) return put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  }

  // One character of several bytes, checked: no overlong forms, no surrogates, nothing past U+10FFFF.
  void utf8(std::string& text) {
    const auto byte = [this](size_t i) { return at_ + i < data_.size() ? static_cast<unsigned char>(data_[at_ + i]) : 0u; };
    const uint32_t first = byte(0);
    const size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
    if (!length) refuse("invalid UTF-8");
    uint32_t code = first & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
      if ((byte(i) & 0xC0) != 0x80) refuse("invalid UTF-8");
      code = code << 6 | (byte(i) & 63);
    }
    if ((length == 3 && code < 0x800) || (length == 4 && (code < 0x10000 || code > 0x10FFFF)) || (code >= 0xD800 && code < 0xE000))
      refuse("invalid UTF-8");
    text += data_.substr(at_, length);
    at_ += length;
  }

  std::string_view data_;
  std::string source_;
  size_t at_ = 0;
};

// The document in `data`; `source` is the file's name inside the bundle.
inline Value parse(std::string_view data, const std::string& source) { return Parser(data, source).document(); }

}  // namespace treadle::json
