// Size expressions: the arithmetic that a bundle may do on the sizes of its inputs, e.g. `N*(H//14)*4`. The grammar and its
// range are those of runtime/sizes.py: every intermediate value is an int64 that is not negative, parentheses nest 64 deep,
// there are 600 steps at most, and no name is a keyword of Python's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"

namespace treadle {

using Sizes = std::map<std::string, int64_t, std::less<>>;

// One parsed expression, kept in postfix order.
class SizeExpr {
 public:
  explicit SizeExpr(std::string text) : text_(std::move(text)) {
    if (text_.size() > 2000 || text_.find_first_not_of(' ') == std::string::npos) refuse();
    sum(0);
    space();
    if (at_ != text_.size() || steps_.size() > 600) refuse();
    if (steps_.size() == 1 && steps_[0].op == 'n') binds_ = {steps_[0].name, 1};
    if (steps_.size() == 3 && steps_[0].op == 'n' && steps_[1].op == 'i' && steps_[2].op == '*' && steps_[1].value)
      binds_ = {steps_[0].name, steps_[1].value};
    if (names().empty()) evaluate({});
  }

  const std::string& text() const { return text_; }

  // (name, factor) of `NAME` or `NAME * INT`: an input's axis of that size tells the dim. An empty name otherwise.
  const std::pair<std::string, int64_t>& binds() const { return binds_; }
  bool is_name() const { return steps_.size() == 1 && steps_[0].op == 'n'; }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const Step& step : steps_)
      if (step.op == 'n') found.push_back(step.name);
    return found;
  }

  int64_t evaluate(const Sizes& dims) const {
    std::vector<int64_t> stack;
    for (const Step& step : steps_) {
      if (step.op == 'i') {
        stack.push_back(step.value);
      } else if (step.op == 'n') {
        const auto found = dims.find(step.name);
        if (found == dims.end()) throw Error("UnknownNameError", "size expression '" + text_ + "': unknown dim", "'" + step.name + "'");
        stack.push_back(found->second);
      } else {
        const int64_t right = stack.back();
        stack.pop_back();
        stack.back() = apply(step.op, stack.back(), right);
      }
    }
    return stack.back();
  }

 private:
  struct Step {
    char op;  // i an integer, n a name, m min, M max, or the operator with / for //
    int64_t value = 0;
    std::string name{};
  };

  int64_t apply(char op, int64_t a, int64_t b) const {
    int64_t result = 0;
    bool wrong = false;
    switch (op) {
      case '+': wrong = __builtin_add_overflow(a, b, &result); break;
      case '-': wrong = __builtin_sub_overflow(a, b, &result); break;
      case '*': wrong = __builtin_mul_overflow(a, b, &result); break;
      case 'm': result = a < b ? a : b; break;
      case 'M': result = a < b ? b : a; break;
      default: wrong = b == 0; result = wrong ? 0 : op == '/' ? a / b : a % b;
    }
    if (wrong || result < 0)
      throw Error("BoundsError", "size expression '" + text_ + "' cannot be evaluated", std::to_string(a) + " " + op + " " + std::to_string(b),
                  "every step between 0 and 2**63 - 1", "Use smaller sizes.");
    return result;
  }

  void space() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }

  bool take(std::string_view token) {
    space();
    if (text_.compare(at_, token.size(), token) != 0) return false;
    at_ += token.size();
    return true;
  }

  void sum(int depth) {
    product(depth);
    for (;;) {
      const char op = take("+") ? '+' : take("-") ? '-' : 0;
      if (!op) return;
      product(depth);
      steps_.push_back({op});
    }
  }

  void product(int depth) {
    factor(depth);
    for (;;) {
      const char op = take("*") ? '*' : take("//") ? '/' : take("%") ? '%' : 0;
      if (!op) return;
      factor(depth);
      steps_.push_back({op});
    }
  }

  void factor(int depth) {
    if (depth > 64) refuse();
    if (take("(")) {
      sum(depth + 1);
      if (!take(")")) refuse();
      return;
    }
    const size_t start = at_;  // take() skipped the spaces
    const auto letter = [this] { const char c = at_ < text_.size() ? text_[at_] : 0; return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto digit = [this] { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; };
    if (digit()) {
      int64_t value = 0;
      for (; digit(); ++at_)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, text_[at_] - '0', &value)) refuse();
      if (letter() || (text_[start] == '0' && value)) refuse();
      return steps_.push_back({'i', value});
    }
    if (!letter()) refuse();
    while (letter() || digit()) ++at_;
    std::string name = text_.substr(start, at_ - start);
    for (const char* keyword : {"False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif",
                                "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or",
                                "pass", "raise", "return", "try", "while", "with", "yield"})
      if (name == keyword) refuse();
    if (name != "min" && name != "max") return steps_.push_back({'n', 0, std::move(name)});
    if (!take("(")) refuse();
    sum(depth + 1);
    if (!take(",")) refuse();
    sum(depth + 1);
    if (!take(")")) refuse();
    steps_.push_back({name == "min" ? 'm' : 'M'});
  }

  [[noreturn]] void refuse() const {
    throw Error("ArgumentError", "not a size expression", "'" + text_.substr(0, 77) + "'",
                "non-negative integers, dim names, + - * // %, parentheses, min(a, b), max(a, b)");
  }

  std::string text_;
  size_t at_ = 0;
  std::vector<Step> steps_;
  std::pair<std::string, int64_t> binds_;
};

}  // namespace treadle
