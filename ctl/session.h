// The log-in from which a command is given, and rules that would let it be blocked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/policy/parser.h"

namespace egress::ctl {

/// A connection of ssh, from the server's side.
struct Session {
    Endpoint remote;
    Endpoint local;
};

/// Of this process, or of one that it descends from (sudo drops the variable that tells).
std::optional<Session> own_session();
/// "REMOTE PORT LOCAL PORT", as sshd puts it into SSH_CONNECTION.
std::optional<Session> parse_session(const std::string& text);

/// A warning where failures never blocked the session's address and now do.
std::vector<policy::Diagnostic>
exemptions_lost(const Session& session, const policy::Policy& before, const policy::Policy& after);

} // namespace egress::ctl
