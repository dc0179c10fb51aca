// Arguments of a request's path: "?name=value&...", with everything escaped that is not plain.
#pragma once

#include <cctype>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace egress::ctl {

class Query {
  public:
    void add(std::string_view name, std::string_view value) {
        text_ += text_.empty() ? '?' : '&';
        text_ += fmt::format("{}=", name);
        for (const char c : value) {
            const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' ||
                               c == '-' || c == '_';
            text_ +=
                plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
        }
    }
    const std::string& text() const { return text_; }

  private:
    std::string text_;
};

} // namespace egress::ctl
