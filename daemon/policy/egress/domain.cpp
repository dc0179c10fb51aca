#include "daemon/policy/egress/domain.h"

#include <algorithm>

#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

// RFC 1035, section 2.3.4.
constexpr std::size_t max_domain = 253; // bytes as text, without the final dot
constexpr std::size_t max_label = 63;

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool is_label_character(char c) {
    return (c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_';
}

std::unexpected<NameProblem> problem(const char* what, const char* hint = nullptr) {
    return std::unexpected(NameProblem{what, hint});
}

/// What is wrong with a name in lower case; null: nothing.
const char* bad_label(std::string_view label) {
    if (label.empty()) {
        return "has an empty label";
    }
    if (label.size() > max_label) {
        return "has a label of more than 63 bytes";
    }
    return label.front() == '-' || label.back() == '-' ? "has a label with '-' at its end"
                                                       : nullptr;
}

} // namespace

std::expected<Destination, NameProblem> parse_domain(std::string_view text) {
    using Kind = Destination::Kind;
    Destination out;
    out.kind = text.starts_with("**.")  ? Kind::any_below
               : text.starts_with("*.") ? Kind::below
                                        : Kind::name;
    text.remove_prefix(out.kind == Kind::any_below ? 3 : out.kind == Kind::below ? 2 : 0);
    if (text.ends_with('.')) {
        text.remove_suffix(1);
    }
    if (text.size() > max_domain) {
        return problem("is longer than 253 bytes");
    }
    std::ranges::transform(text, std::back_inserter(out.text), lower);
    std::string_view rest = out.text;
    const auto bad =
        std::ranges::find_if_not(rest, [](char c) { return is_label_character(c) || c == '.'; });
    if (bad != rest.end()) {
        return static_cast<unsigned char>(*bad) >= 0x80
                   ? problem("is not ASCII", "write the name as the DNS has it, with xn--")
               : *bad == '*'
                   ? problem("has a '*' in its middle",
                             "'*.name' is one label, '**.name' any number of them")
                   : problem("is not a name", "letters, digits, '-' and '_' make a label");
    }
    std::string_view label;
    for (std::size_t dot = 0; dot != std::string_view::npos;) {
        dot = rest.find('.');
        label = rest.substr(0, dot);
        if (const char* what = bad_label(label)) {
            return problem(what);
        }
        rest.remove_prefix(dot == std::string_view::npos ? rest.size() : dot + 1);
    }
    if (std::ranges::all_of(label, is_digit)) {
        return problem("is not an address", "write 192.0.2.1, 192.0.2.0/24 or [2001:db8::1]");
    }
    return out;
}

} // namespace egress::policy
