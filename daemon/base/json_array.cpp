#include "daemon/base/json_array.h"

namespace egress {

namespace {

constexpr std::string_view blanks = " \t\r\n";

} // namespace

bool JsonArray::begins(std::string_view text) {
    const auto first = text.find_first_not_of(blanks);
    return first != std::string_view::npos && text[first] == '[';
}

void JsonArray::skip_blanks() {
    at_ = std::min(text_.find_first_not_of(blanks, at_), text_.size());
}

bool JsonArray::take(char c) {
    skip_blanks();
    const bool there = at_ < text_.size() && text_[at_] == c;
    at_ += there ? 1 : 0;
    return there;
}

/// The text up to the comma or bracket that ends the element. Brackets are only counted here:
/// whether they match is for the parser to say.
std::string_view JsonArray::element() {
    const auto start = at_;
    std::size_t depth = 0;
    for (bool quoted = false; at_ < text_.size(); ++at_) {
        const char c = text_[at_];
        if (quoted) {
            at_ += c == '\\' ? 1 : 0;
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            ++depth;
        } else if (depth == 0 && (c == ',' || c == ']')) {
            break;
        } else if (c == ']' || c == '}') {
            depth -= depth > 0 ? 1 : 0;
        }
    }
    at_ = std::min(at_, text_.size()); // a backslash may stand at the end
    return std::string_view(text_).substr(start, at_ - start);
}

Result<std::optional<nlohmann::json>> JsonArray::next() {
    const bool first = !opened_;
    if (first) {
        opened_ = true;
        if (!take('[')) {
            return fail("the body is not a JSON array");
        }
    }
    if (const bool ends = take(']'); ends) {
        skip_blanks();
        if (at_ != text_.size()) {
            return fail("text follows the array");
        }
        return std::nullopt;
    }
    ++number_;
    if (!first && !take(',')) {
        return fail("a comma or the array's end is missing before it");
    }
    skip_blanks();
    auto value = nlohmann::json::parse(element(), nullptr, false);
    if (value.is_discarded()) {
        return fail("it is not JSON");
    }
    return std::optional(std::move(value));
}

} // namespace egress
