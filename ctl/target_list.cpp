#include "ctl/target_list.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "ctl/file.h"
#include "ctl/out.h"

namespace egress::ctl {

namespace {

constexpr std::size_t longest_line = 4096;
constexpr std::size_t most_shown = 20; ///< wrong lines; the rest is only counted
constexpr std::string_view blanks = " \t\r\n\f\v";

std::string_view trimmed(std::string_view line) {
    line = line.substr(0, line.find('#'));
    const auto first = line.find_first_not_of(blanks);
    return first == std::string_view::npos
               ? std::string_view()
               : line.substr(first, line.find_last_not_of(blanks) - first + 1);
}

Outcome<Target> target_of(std::string_view word) {
    if (word.size() > longest_line) {
        return fail(Exit::usage, "the line is too long for an address");
    }
    if (word.find_first_of(blanks) != std::string_view::npos) {
        return fail(Exit::usage, "write one address per line, and comments after '#'");
    }
    return parse_target(word);
}

/// The next line, of which it keeps at most longest_line + 1 bytes; nullopt: none follows.
std::optional<std::string> next_line(std::FILE* file) {
    int c = std::getc(file);
    if (c == EOF) {
        return std::nullopt;
    }
    std::string line;
    for (; c != EOF && c != '\n'; c = std::getc(file)) {
        if (line.size() <= longest_line) {
            line += static_cast<char>(c);
        }
    }
    return line;
}

Failure unreadable(const std::string& path) {
    return {Exit::unreachable,
            fmt::format("cannot read {}: {}", printable(path), std::strerror(errno))};
}

} // namespace

Outcome<std::vector<Target>> read_targets(const Context& context, const std::string& path) {
    const bool standard = path == "-";
    const File opened(standard ? nullptr : std::fopen(path.c_str(), "re"));
    std::FILE* const file = standard ? context.in : opened.get();
    if (file == nullptr) {
        return std::unexpected(unreadable(path));
    }
    const auto name = standard ? std::string("stdin") : printable(path);
    std::vector<Target> targets;
    std::size_t wrong = 0;
    errno = 0;
    for (std::size_t number = 1;; ++number) {
        const auto line = next_line(file);
        if (!line) {
            break;
        }
        const auto word = trimmed(*line);
        if (word.empty()) {
            continue;
        }
        auto target = target_of(word);
        if (target) {
            targets.push_back(*target);
        } else if (++wrong <= most_shown) {
            print(context.err, "{}:{}: {}\n", name, number, target.error().text);
        }
    }
    if (std::ferror(file) != 0) {
        return std::unexpected(unreadable(path));
    }
    if (wrong > 0) {
        return fail(Exit::no, fmt::format("{} of the lines of {} {} wrong; nothing has changed",
                                          wrong, name, wrong == 1 ? "is" : "are"));
    }
    if (targets.empty()) {
        return fail(Exit::no, fmt::format("{} has no address in it; nothing has changed", name));
    }
    return targets;
}

} // namespace egress::ctl
