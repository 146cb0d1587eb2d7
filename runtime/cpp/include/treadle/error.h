// The one exception of this library, with the fields of Python's errors.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace treadle {

// What went wrong and where (`message`), what was `given`, what was `expected`, and the next step (`hint`); empty where
// there is nothing to say. `type` is the name of the class that Python raises for it: ArgumentError, BundleError, ...
class Error : public std::runtime_error {
 public:
  Error(std::string type, std::string message, std::string given = {}, std::string expected = {}, std::string hint = {})
      : std::runtime_error(sentence(message, given, expected, hint)),
        type_(std::move(type)),
        message_(std::move(message)),
        given_(std::move(given)),
        expected_(std::move(expected)),
        hint_(std::move(hint)) {}

  const std::string& type() const { return type_; }
  const std::string& message() const { return message_; }
  const std::string& given() const { return given_; }
  const std::string& expected() const { return expected_; }
  const std::string& hint() const { return hint_; }

 private:
  static std::string sentence(const std::string& message, const std::string& given, const std::string& expected,
                              const std::string& hint) {
    std::string text = message;
    if (!given.empty()) text += ": given " + given;
    if (!expected.empty()) text += (given.empty() ? ": expected " : ", expected ") + expected;
    text += ".";
    if (!hint.empty()) text += " " + hint;
    return text;
  }

  std::string type_, message_, given_, expected_, hint_;
};

}  // namespace treadle
