// The log-in session in which a command runs, and rules under which it could be blocked.
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

/// The session of this process or of an ancestor (sudo drops the variable).
std::optional<Session> own_session();
/// Parses "REMOTE PORT LOCAL PORT", the form of SSH_CONNECTION.
std::optional<Session> parse_session(const std::string& text);

/// Warns if failures now block the session's address and did not before.
std::vector<policy::Diagnostic>
exemptions_lost(const Session& session, const policy::Policy& before, const policy::Policy& after);

} // namespace egress::ctl
