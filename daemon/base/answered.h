// The outcome of a question or request about a process.
#pragma once

#include <cstdint>
#include <string>

namespace egress {

enum class Answered : std::uint8_t {
    yes,
    wrong,        ///< what was asked makes no sense
    no_process,   ///< it has ended or is unknown
    not_in_force, ///< this daemon has put no rules of [egress] in force
    busy,         ///< too many questions are pending, or another process tests the hooks
    failed,
};

struct Reply {
    Answered answered = Answered::yes;
    std::string text; ///< the answer, or the reason for its absence
    explicit operator bool() const { return answered == Answered::yes; }
};

} // namespace egress
