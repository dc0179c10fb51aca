#include "daemon/egress/job.h"

#include <algorithm>

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/policy/parser.h"
#include "daemon/policy/text/diagnostics.h"

namespace egress {

namespace {

using policy::EgressRule;

constexpr const char* rules_header = "[egress]\n";
constexpr const char* rules_name = "rules of the run";

/// What a line of a job cannot have; "": it is well.
std::string objection(const EgressRule& rule, bool is_root) {
    const auto& options = rule.options;
    if (rule.program.kind != policy::Program::Kind::any || !options.parent.empty() ||
        !options.under.empty()) {
        return "a line of a run names no program: it is for all that the run starts";
    }
    if (!options.cgroup.empty() || !options.unit.empty() || options.container) {
        return "a line of a run names no cgroup, unit or container: the run may be in any";
    }
    if (rule.destination.kind == policy::Destination::Kind::list) {
        return "a line of a run names no list; the host's own rules do";
    }
    if (rule.destination.kind == policy::Destination::Kind::socket) {
        return "a line of a run names no socket of AF_UNIX; --allow unix:PATH does";
    }
    if (options.rebind && !is_root) {
        return "rebind=allow in a run is for root: what it lets in counts for the host's lines, "
               "too";
    }
    return {};
}

bool is_only_egress(const policy::Policy& policy) {
    return policy.local.empty() && policy.remote.empty() && policy.trusted.empty() &&
           !policy.dns.place && policy.settings == policy::Settings{};
}

Result<> check(const policy::Policy& policy, bool is_root) {
    if (!is_only_egress(policy)) {
        return fail("a run has lines of [egress] only");
    }
    if (policy.egress.size() > JobRequest::most_lines) {
        return fail(
            fmt::format("{} lines; a run takes {}", policy.egress.size(), JobRequest::most_lines));
    }
    for (const auto& rule : policy.egress) {
        if (auto what = objection(rule, is_root); !what.empty()) {
            return fail(fmt::format("{}: {}", rule.place.text(), what));
        }
    }
    return {};
}

/// Every error, a line each.
std::string text_of(const std::vector<policy::Diagnostic>& diagnostics) {
    std::string out;
    for (const auto& each : diagnostics) {
        if (each.severity == policy::Diagnostic::Severity::error) {
            out += (out.empty() ? "" : "\n") + each.message();
        }
    }
    return out;
}

void add_questions(std::vector<EgressRule>& to, const std::vector<Endpoint>& resolvers) {
    for (const auto& resolver : resolvers) {
        EgressRule rule;
        rule.place.file = "questions to the resolvers";
        rule.destination.kind = policy::Destination::Kind::prefix;
        rule.destination.prefix = Prefix::host(resolver.address);
        rule.destination.ports = {{resolver.port, resolver.port}};
        for (const auto& [type, protocol] :
             {std::pair{SOCK_DGRAM, IPPROTO_UDP}, std::pair{SOCK_STREAM, IPPROTO_TCP}}) {
            rule.type = type;
            rule.protocol.number = protocol;
            to.push_back(rule);
        }
    }
}

} // namespace

Result<policy::Policy> policy_of(const JobRequest& request,
                                 const std::vector<Endpoint>& resolvers) {
    auto parsed = policy::parse_text(rules_header + request.rules, rules_name);
    for (auto& each : parsed.diagnostics) {
        each.place.line -= 1; // the header
    }
    if (!parsed.ok()) {
        return fail(text_of(parsed.diagnostics));
    }
    policy::Policy out;
    for (auto& rule : parsed.policy.egress) {
        rule.place.line -= 1;
    }
    if (auto checked = check(parsed.policy, request.asker.uid == 0); !checked) {
        return std::unexpected(checked.error());
    }
    const bool allows = std::ranges::any_of(parsed.policy.egress, [](const EgressRule& rule) {
        return rule.verdict.kind == policy::Verdict::Kind::allow;
    });
    if (allows || (request.asker.flags & EGRESS_JOB_LEARNS) != 0) {
        add_questions(out.egress, resolvers);
    }
    std::ranges::move(parsed.policy.egress, std::back_inserter(out.egress));
    // Else the names that it asks for would be a way out.
    out.dns.queries_listed = (request.asker.flags & EGRESS_JOB_LEARNS) == 0;
    EgressRule rest;
    rest.place.file = "not listed by the run";
    rest.verdict.kind = policy::Verdict::Kind::deny;
    out.egress.push_back(std::move(rest));
    return out;
}

Answered answered(bpf::Jobs::Refused why) {
    using Refused = bpf::Jobs::Refused;
    switch (why) {
    case Refused::full:
    case Refused::user_has_share:
        return Answered::busy;
    case Refused::no_process:
        return Answered::no_process;
    case Refused::nested:
        return Answered::not_in_force;
    case Refused::failed:
        break;
    }
    return Answered::failed;
}

} // namespace egress
