// The only way to the terminal: makes untrusted text safe.
//
// Rows, reasons and error texts may hold bytes that an attacker chose. All output of egressctl
// passes through printable() or to_text(); neither lets a control character through.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "ctl/context.h"
#include "daemon/base/result.h"

namespace egress::ctl {

/// Keeps the order in which keys were added or read.
using Json = nlohmann::ordered_json;

/// `text` with control characters, invisible direction marks and bytes that are not UTF-8 written
/// as \xNN or \u{N}. Line breaks are escaped too.
std::string printable(std::string_view text);
/// The same, but '\n' and '\t' stay (texts of several lines).
std::string printable_lines(std::string_view text);
/// True for valid UTF-8 without anything that printable() would escape.
bool is_printable(std::string_view text);

/// JSON as ASCII text: everything else is escaped, so it cannot confuse a terminal. `indent` -1:
/// one line.
std::string to_text(const Json& value, int indent = 2);

/// nullopt: not JSON, or nested deeper than any answer of the daemon.
std::optional<Json> parse_json(std::string_view text);

// Tolerant getters: an absent or mistyped field of a reply is unknown.
std::optional<std::int64_t> number_at(const Json& object, const char* key);
std::string text_at(const Json& object, const char* key); ///< printable; "": absent
bool true_at(const Json& object, const char* key);
/// The object or array at `key`, or null.
const Json* member(const Json& object, const char* key);

/// "2026/11/22 18:03:59" in local time, as blocklistctl writes it.
std::string local_time(std::int64_t wall_seconds);

template <typename... T>
void print(std::FILE* to, fmt::format_string<T...> form, T&&... values) {
    const auto text = fmt::format(form, std::forward<T>(values)...);
    std::fwrite(text.data(), 1, text.size(), to); // the stream keeps errors; run() checks once
}

/// Why the database cannot be read, and what to do.
Failure unreadable_database(const Error& error);

/// "egressctl: TEXT" on the error stream; returns the status.
Exit complain(const Context& context, const Failure& failure);

} // namespace egress::ctl
