#include "ctl/session.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/interfaces.h"
#include "daemon/policy/login/match.h"

namespace egress::ctl {

namespace {

constexpr std::string_view variable = "SSH_CONNECTION=";

std::optional<std::string> variable_of(const std::string& pid) {
    std::ifstream file("/proc/" + pid + "/environ");
    for (std::string entry; std::getline(file, entry, '\0');) {
        if (entry.starts_with(variable)) {
            return entry.substr(variable.size());
        }
    }
    return std::nullopt;
}

std::string parent_of(const std::string& pid) {
    std::ifstream file("/proc/" + pid + "/status");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("PPid:")) {
            return line.substr(line.find_first_of("0123456789"));
        }
    }
    return "0";
}

/// The rule for a failed log-in from there; nullopt: no line matches.
std::optional<policy::EffectiveRule> decision(const Session& session,
                                              const policy::Matcher& matcher) {
    policy::Subject subject;
    subject.local = session.local;
    subject.remote = session.remote;
    subject.remote_own = Interfaces().is_own(session.remote.address);
    subject.type = SOCK_STREAM;
    subject.protocol = IPPROTO_TCP;
    policy::EffectiveRule out;
    return matcher.match(subject, out) ? std::optional(out) : std::nullopt;
}

policy::Matcher matcher_of(const policy::Policy& policy) {
    return {policy, "egress", [](std::string_view) { return policy::NameId{0}; }};
}

} // namespace

std::optional<Session> parse_session(const std::string& text) {
    std::istringstream words(text);
    std::string remote;
    std::string local;
    std::uint16_t remote_port = 0;
    std::uint16_t local_port = 0;
    words >> remote >> remote_port >> local >> local_port;
    const auto from = Address::parse(remote.substr(0, remote.find('%')));
    const auto to = Address::parse(local.substr(0, local.find('%')));
    if (words.fail() || !from || !to) {
        return std::nullopt;
    }
    return Session{{*from, remote_port}, {*to, local_port}};
}

std::optional<Session> own_session() {
    if (const char* const text = std::getenv("SSH_CONNECTION"); text != nullptr) {
        return parse_session(text);
    }
    constexpr int most = 32;
    auto pid = parent_of("self");
    for (int i = 0; i < most && pid != "0"; ++i, pid = parent_of(pid)) {
        if (const auto text = variable_of(pid)) {
            return parse_session(*text);
        }
    }
    return std::nullopt;
}

std::vector<policy::Diagnostic>
exemptions_lost(const Session& session, const policy::Policy& before, const policy::Policy& after) {
    const auto old_matcher = matcher_of(before);
    const auto new_matcher = matcher_of(after);
    const auto was = decision(session, old_matcher);
    const auto is = decision(session, new_matcher);
    if ((was && was->limited) || !is || !is->limited) {
        return {};
    }
    const auto* const line = is->remote != nullptr ? is->remote : is->local;
    const auto address = session.remote.address.text();
    return {{policy::Diagnostic::Severity::warning, line->place,
             fmt::format("lockout: failures from {}, where this session comes from, block it now "
                         "and did not before",
                         address),
             fmt::format("\"{} * * * = * *\" in [remote] exempts it",
                         session.remote.address.is_v4() ? address : "[" + address + "]")}};
}

} // namespace egress::ctl
