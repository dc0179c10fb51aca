// One request and its answer over a connected stream socket.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

#include "ctl/answer.h"

namespace egress::ctl {

enum class Transfer {
    ended,   ///< answer.state() says how
    timeout, ///< the time was over before
};

/// Sends the request and feeds `answer` until it ends. `fd` must not block. Reads also while it
/// sends: a refusal may come before the whole request is out. nullopt: no time limit.
Transfer transfer(int fd, std::string_view request, Answer& answer,
                  std::optional<std::chrono::milliseconds> limit);

} // namespace egress::ctl
