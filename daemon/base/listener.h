// Listening unix sockets: our own, or from socket activation.
#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress {

/// Makes a non-blocking listening socket of `type` at `path`, with `mode` and `group` (nullopt:
/// unchanged). It never has wider rights, not even for a moment. Replaces a stale socket. A socket
/// with a listener and anything that is no socket are errors that say so.
Result<Fd> make_listener(const std::string& path, int type, mode_t mode,
                         std::optional<gid_t> group);

/// Sets O_NONBLOCK and close-on-exec, which an inherited descriptor may lack.
Result<Fd> take_listener(Fd listener);

} // namespace egress
