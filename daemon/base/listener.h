// Listening unix sockets: made by us, or handed in by socket activation.
#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress {

/// Makes a non-blocking listening socket of `type` at `path`, with `mode` and, where given,
/// `group`. It never has wider rights, not even for a moment. A stale socket is replaced; a socket
/// that somebody listens on, or anything that is no socket, is an error that says so.
Result<Fd> make_listener(const std::string& path, int type, mode_t mode,
                         std::optional<gid_t> group);

/// Sets what a handed-in descriptor may lack: O_NONBLOCK and close-on-exec.
Result<Fd> take_listener(Fd listener);

} // namespace egress
