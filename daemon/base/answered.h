// What became of a question or a request that concerns a process.
#pragma once

#include <cstdint>
#include <string>

namespace egress {

enum class Answered : std::uint8_t {
    yes,
    no_process,   ///< it has ended, or is not known
    not_in_force, ///< this daemon has put no rules of [egress] in force
    busy,         ///< too many questions wait, or another process tests the hooks
    failed,
};

struct Reply {
    Answered answered = Answered::yes;
    std::string text; ///< the answer, else why there is none
    explicit operator bool() const { return answered == Answered::yes; }
};

} // namespace egress
