// The elements of a JSON array, one at a time: a long list is read in pieces, each within its
// bound.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "daemon/base/result.h"

namespace egress {

class JsonArray {
  public:
    /// True if the text begins as an array does.
    static bool begins(std::string_view text);

    explicit JsonArray(std::string text) : text_(std::move(text)) {}
    /// The next element; nullopt: the array has ended, and so has the text. A failure says what is
    /// wrong, and ends the list.
    Result<std::optional<nlohmann::json>> next();
    /// Number of the element that next() returned or refused, from 1 on.
    std::size_t number() const { return number_; }

  private:
    void skip_blanks();
    bool take(char c);
    std::string_view element();

    std::string text_;
    std::size_t at_ = 0;
    std::size_t number_ = 0;
    bool opened_ = false;
};

} // namespace egress
