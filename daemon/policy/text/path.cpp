#include "daemon/policy/text/path.h"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace egress::policy {

namespace {

/// The path without the parts that check_path() refuses.
std::string tidy_path(std::string_view path) {
    std::vector<std::string_view> parts;
    for (std::size_t at = 0; at < path.size();) {
        const auto end = std::min(path.find('/', at), path.size());
        const auto part = path.substr(at, end - at);
        at = end + 1;
        if (part == ".." && !parts.empty()) {
            parts.pop_back();
        } else if (!part.empty() && part != "." && part != "..") {
            parts.push_back(part);
        }
    }
    return fmt::format("/{}", fmt::join(parts, "/"));
}

} // namespace

bool check_path(const Cell& cell, const Context& context, std::string_view what, std::size_t most) {
    const auto text = cell.text;
    if (!text.starts_with('/')) {
        context.error(cell, fmt::format("{} {} is not an absolute path", what, quote(text)));
        return false;
    }
    if (text.find('*') != std::string_view::npos) {
        context.error(
            cell, fmt::format("'*' in the path {}", quote(text)),
            "a program may be '/dir/**', all below a directory; there is no other pattern");
        return false;
    }
    if (const auto right = tidy_path(text); right != text) {
        context.error(cell, fmt::format("{} {} is not in its shortest form", what, quote(text)),
                      fmt::format("did you mean {}?", quote(right)));
        return false;
    }
    if (text.size() > most) {
        context.error(cell, fmt::format("{} of {} bytes", what, text.size()),
                      fmt::format("{} are the most", most));
        return false;
    }
    return true;
}

} // namespace egress::policy
