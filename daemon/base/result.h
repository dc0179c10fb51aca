// Failures as values: carried up with their context, logged once at the top.
//
// Expected outcomes (no rule matches, a row is missing) are enums and optionals, not errors.
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace egress {

struct Error {
    std::string text; ///< one line: what is wrong, where, what to do; safe to print
    int code = 0;     ///< errno if a system call failed, else 0
};

template <typename T = void>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(std::string text, int code = 0) {
    return std::unexpected(Error{std::move(text), code});
}

/// A failed system call: "WHAT: strerror(errno)".
inline std::unexpected<Error> fail_errno(std::string what, int code = errno) {
    what += ": ";
    what += std::strerror(code);
    return std::unexpected(Error{std::move(what), code});
}

} // namespace egress
