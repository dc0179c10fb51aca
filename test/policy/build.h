// Short ways to rules, matchers and reports in tests.
#pragma once

#include <map>
#include <string>

#include <doctest/doctest.h>
#include <netinet/in.h>

#include "daemon/policy/check.h"
#include "daemon/policy/login/match.h"
#include "daemon/policy/parser.h"

namespace egress::policy {

inline Policy good(std::string_view text) {
    auto parsed = parse_text(text, "t");
    for (const auto& diagnostic : parsed.diagnostics) {
        INFO(diagnostic.message());
        CHECK(diagnostic.severity == Diagnostic::Severity::warning);
    }
    return std::move(parsed.policy);
}

/// Every diagnostic of parse_text and check, a line each.
inline std::string said(std::string_view text) {
    const auto parsed = parse_text(text, "t");
    std::string out;
    for (const auto& diagnostic : parsed.diagnostics) {
        out += diagnostic.message() + "\n";
    }
    for (const auto& warning : check(parsed.policy)) {
        out += warning.message() + "\n";
    }
    return out;
}

/// Set names by number.
struct Names {
    std::map<std::string, NameId, std::less<>> ids{{"egress", 0}};
    NameId operator()(std::string_view name) {
        return ids.try_emplace(std::string(name), static_cast<NameId>(ids.size())).first->second;
    }
    std::string text(NameId id) const {
        for (const auto& [name, known] : ids) {
            if (known == id) {
                return name;
            }
        }
        return "?";
    }
};

/// A matcher together with the names that it gave.
struct Bench {
    Names names;
    Matcher matcher;
    explicit Bench(std::string_view text)
        : matcher(good(text), "egress", [this](std::string_view name) { return names(name); }) {}

    /// What decides, or a decision without a rule.
    EffectiveRule decide(const Subject& subject) const {
        EffectiveRule out;
        if (!matcher.match(subject, out)) {
            out.local = nullptr;
        }
        return out;
    }
    /// The lines that decide: "3", "3+7" with a [remote] one, "-" for none.
    std::string lines(const Subject& subject) const {
        const auto decision = decide(subject);
        if (decision.local == nullptr) {
            return "-";
        }
        auto out = std::to_string(decision.local->place.line);
        return decision.remote == nullptr ? out
                                          : out + "+" + std::to_string(decision.remote->place.line);
    }
};

/// A TCP report from `remote` to `local`:`port`.
inline Subject tcp(std::string_view remote, std::uint16_t port = 22,
                   std::string_view local = "192.0.2.10") {
    return {{*Address::parse(local), port},
            "eth0",
            {*Address::parse(remote), 40000},
            SOCK_STREAM,
            IPPROTO_TCP,
            0};
}

inline Subject tcp6(std::string_view remote, std::uint16_t port = 22) {
    return tcp(remote, port, "2001:db8::10");
}

inline Subject udp(std::string_view remote, std::uint16_t port,
                   std::string_view local = "192.0.2.10") {
    auto subject = tcp(remote, port, local);
    subject.type = SOCK_DGRAM;
    subject.protocol = IPPROTO_UDP;
    return subject;
}

} // namespace egress::policy
