#include "daemon/policy/egress/list.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "daemon/base/log.h"
#include "daemon/policy/egress/domain.h"
#include "daemon/policy/text/number.h"
#include "lib/fd.h"

namespace egress::policy {

namespace {

constexpr std::size_t piece_size = 256U << 10;
constexpr std::size_t max_shown_path = 4096;

bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\v' || c == '\f';
}

/// A decimal number without a leading 0 at the front of [at, end), at most `most`; -1: none.
int take_number(const char*& at, const char* end, int most) {
    if (at == end || !is_digit(*at)) {
        return -1;
    }
    int value = *at++ - '0';
    if (value == 0) { // "01" is octal to some
        return at != end && is_digit(*at) ? -1 : 0;
    }
    while (at != end && is_digit(*at) && value <= most) {
        value = value * 10 + (*at++ - '0');
    }
    return value <= most ? value : -1;
}

/// "192.0.2.0/24", like nearly every line; nullopt: another form, or wrong.
std::optional<Prefix> quick_prefix(std::string_view text) {
    const char* at = text.data();
    const char* const end = at + text.size();
    std::array<std::uint8_t, 4> bytes{};
    for (std::size_t i = 0; i < 4; ++i) {
        if (i > 0 && (at == end || *at++ != '.')) {
            return std::nullopt;
        }
        const int byte = take_number(at, end, 255);
        if (byte < 0) {
            return std::nullopt;
        }
        bytes[i] = static_cast<std::uint8_t>(byte);
    }
    int length = 32;
    if (at != end) {
        length = *at++ == '/' ? take_number(at, end, 32) : -1;
    }
    const std::uint32_t bits = std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
                               std::uint32_t{bytes[2]} << 8 | bytes[3];
    const std::uint64_t host = length < 0 ? 0 : 0xffffffffULL >> length;
    if (length < 0 || at != end || (bits & host) != 0) {
        return std::nullopt;
    }
    return Prefix{*Address::from_bytes(bytes), static_cast<std::uint8_t>(length)};
}

bool looks_like_address(std::string_view text) {
    return text.find_first_of(":/") != std::string_view::npos ||
           std::ranges::all_of(text, [](char c) { return is_digit(c) || c == '.'; });
}

/// "addr", "addr/len", the address optionally in brackets, with its host bits. The length is in the
/// family's own bits.
std::optional<std::pair<Address, int>> read_prefix(std::string_view text) {
    const auto slash = text.rfind('/');
    auto host = text.substr(0, slash);
    const bool v6 = host.find(':') != std::string_view::npos;
    if (v6 && host.starts_with('[') && host.ends_with(']')) {
        host = host.substr(1, host.size() - 2);
    }
    const auto address = Address::parse(host);
    if (!address || slash == std::string_view::npos) {
        return address ? std::optional(std::pair(*address, address->width())) : std::nullopt;
    }
    const char* at = text.data() + slash + 1;
    const char* const end = text.data() + text.size();
    const int length = take_number(at, end, v6 ? 128 : 32);
    const int mapped = v6 && address->is_v4() ? 96 : 0;
    return at == end && length >= mapped ? std::optional(std::pair(*address, length - mapped))
                                         : std::nullopt;
}

} // namespace

const char* bad_list_name(std::string_view name) {
    const auto good = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '-' ||
               c == '_' || c == '.';
    };
    return name.empty()                       ? "it is empty"
           : name[0] == '.'                   ? "it begins with a '.'"
           : name.size() > max_list_name      ? "it is longer than 255 bytes"
           : !std::ranges::all_of(name, good) ? "letters, digits, '-', '_' and '.' make one"
                                              : nullptr;
}

std::string lists_beside(const std::string& rules_file) {
    const auto slash = rules_file.rfind('/');
    return rules_file.substr(0, slash == std::string_view::npos ? 0 : slash + 1) + "egress.d";
}

bool ListText::feed(std::string_view piece) {
    while (!piece.empty() && errors_ < max_list_errors) {
        const auto* found = static_cast<const char*>(std::memchr(piece.data(), '\n', piece.size()));
        const auto end = found == nullptr ? std::string_view::npos
                                          : static_cast<std::size_t>(found - piece.data());
        const auto text = piece.substr(0, end);
        piece.remove_prefix(end == std::string_view::npos ? piece.size() : end + 1);
        if (rest_.empty() && end != std::string_view::npos) {
            line(text);
            continue;
        }
        // Keep one byte more than the limit, to notice that the line is too long.
        rest_ += text.substr(0, max_list_line + 1 - std::min(rest_.size(), max_list_line + 1));
        if (end != std::string_view::npos) {
            line(rest_);
            rest_.clear();
        }
    }
    return errors_ < max_list_errors;
}

void ListText::finish() {
    if (!rest_.empty() && errors_ < max_list_errors) {
        line(rest_);
    }
    out_.prefixes.shrink_to_fit();
}

void ListText::line(std::string_view text) {
    if (++number_ == 1 && text.starts_with("\xef\xbb\xbf")) {
        text.remove_prefix(3);
    }
    if (text.size() > max_list_line) {
        return error(1, fmt::format("the line has more than {} bytes", max_list_line));
    }
    if (text.ends_with('\r')) {
        text.remove_suffix(1);
    }
    if (const auto quick = quick_prefix(text)) {
        return add(*quick, 1);
    }
    const auto first = std::ranges::find_if_not(text, is_blank);
    const auto stop =
        std::find_if(first, text.end(), [](char c) { return is_blank(c) || c == '#'; });
    const std::string_view word(first, stop);
    const auto next = std::find_if_not(stop, text.end(), is_blank);
    const auto column = static_cast<int>(first - text.begin()) + 1;
    if (next != text.end() && *next != '#') {
        return error(static_cast<int>(next - text.begin()) + 1, "more than one word in a line",
                     "one prefix or name each");
    }
    if (!word.empty()) {
        entry(word, column);
    }
}

void ListText::entry(std::string_view text, int column) {
    if (looks_like_address(text)) {
        prefix(text, column);
    } else {
        name(text, column);
    }
}

void ListText::prefix(std::string_view text, int column) {
    const auto read = read_prefix(text);
    if (!read) {
        return error(
            column, fmt::format("{} is not a prefix", quote(text)),
            "write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32; ports stand in the rules file");
    }
    const auto right = Prefix::around(read->first, read->second);
    if (right.base != read->first) {
        return error(column, fmt::format("{} has bits set past its length", quote(text)),
                     fmt::format("did you mean {}?", right.text()));
    }
    add(right, column);
}

void ListText::name(std::string_view text, int column) {
    const auto made = parse_domain(text);
    if (!made) {
        const char* hint = made.error().hint;
        return error(column, fmt::format("{} {}", quote(text), made.error().what),
                     hint == nullptr ? "" : hint);
    }
    if (out_.names.size() == max_list_names) {
        errors_ = max_list_errors - 1;
        return error(column, "too many names", fmt::format("{} are the most", max_list_names));
    }
    out_.names.add(pattern_of(*made));
}

void ListText::add(const Prefix& prefix, int column) {
    if (out_.prefixes.size() == max_list_prefixes) {
        errors_ = max_list_errors - 1;
        return error(column, "too many prefixes",
                     fmt::format("{} are the most", max_list_prefixes));
    }
    out_.prefixes.push_back(prefix);
}

void ListText::error(int column, std::string what, std::string hint) {
    diagnostics_.error({out_.file, number_, column}, std::move(what), std::move(hint));
    if (++errors_ == max_list_errors) {
        diagnostics_.error({out_.file, number_, 0}, "the rest of the list is not checked");
    }
}

void Lists::use(const Cell& cell, const std::string& name) {
    if (std::ranges::find(names_, name) != names_.end()) {
        return;
    }
    names_.push_back(name);
    if (directory_.empty()) {
        out_.error(cell.place(), fmt::format("list {} cannot be read", quote(name)),
                   "lists are files of egress.d beside a rules file, and there is none here");
        return;
    }
    AddressList list{name, fmt::format("{}/{}", directory_, name), {}, {}};
    files_.push_back(list.file);
    if (safe_directory(cell) && read(cell, list)) {
        lists_.push_back(std::make_shared<const AddressList>(std::move(list)));
    }
}

/// Any user who may write there decides where programs connect to.
bool Lists::safe_directory(const Cell& cell) {
    struct stat st {};
    if (stat(directory_.c_str(), &st) == 0 && (st.st_mode & S_IWOTH) != 0) {
        out_.error(cell.place(),
                   fmt::format("every user may write to the directory {}",
                               escape(directory_, max_shown_path)),
                   "take the right away with chmod o-w");
        return false;
    }
    return true;
}

/// False: the file cannot be read, which is reported. Reports wrong lines, too.
bool Lists::read(const Cell& cell, AddressList& list) {
    const auto refuse = [&](std::string_view what, std::string hint = {}) {
        out_.error(cell.place(), fmt::format("list {} {}", escape(list.file, max_shown_path), what),
                   std::move(hint));
        return false;
    };
    // O_NONBLOCK: opening a FIFO without a writer must not wait.
    const Fd fd(open(list.file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    struct stat st {};
    if (fd.get() < 0 || fstat(fd.get(), &st) != 0) {
        return refuse(fmt::format("cannot be opened: {}", std::strerror(errno)),
                      errno == ENOENT ? "make it, with one address or prefix in each line; "
                                        "an empty file is a list, too"
                                      : "");
    }
    if (!S_ISREG(st.st_mode)) {
        return refuse("is not a regular file");
    }
    if ((st.st_mode & S_IWOTH) != 0) {
        return refuse("may be written by every user", "take the right away with chmod o-w");
    }
    ListText text(list, out_);
    std::string piece(piece_size, '\0');
    for (std::size_t bytes = 0;;) {
        const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return refuse(fmt::format("cannot be read: {}", std::strerror(errno)));
        }
        bytes += static_cast<std::size_t>(got);
        if (bytes > max_list_bytes) {
            return refuse(fmt::format("has more than {} bytes", max_list_bytes));
        }
        if (got == 0 ||
            !text.feed(std::string_view(piece).substr(0, static_cast<std::size_t>(got)))) {
            break;
        }
    }
    text.finish();
    return true;
}

} // namespace egress::policy
