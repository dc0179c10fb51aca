// The program of the child that asks resolvers for the names of lines, so that the hooks grant what
// they answer before any program asks.
//
// It reads lines from standard input, "resolver ADDRESS PORT", "name NAME" and at the end "go",
// asks each name's A and AAAA records, and writes one line for each name: "answered NAME", "silent
// NAME" or "refused NAME" (the rules do not let its questions out). What the answers say is not its
// business: the hooks read them at its sockets. It asks the approved resolvers itself, as those
// that libc would ask may be others, or caches whose answers no hook sees.
#pragma once

#include <chrono>
#include <cstddef>

namespace egress {

inline constexpr const char* look_up_option = "--look-up"; ///< of egressd, for itself alone

struct LookUpLimits {
    static constexpr std::size_t at_once = 64; ///< questions, each with a socket of its own
    static constexpr std::size_t tries = 6;    ///< of one question, over all resolvers in turn
    static constexpr std::chrono::seconds datagram{2}; ///< for one try
    static constexpr std::chrono::seconds stream{5};
    static constexpr std::chrono::seconds all{60}; ///< then the rest is silent
};

/// Runs it with standard input and output; returns the exit status.
int look_up();

} // namespace egress
