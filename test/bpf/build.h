// Small policies by hand.
#pragma once

#include <initializer_list>
#include <string>

#include <doctest/doctest.h>

#include "daemon/policy/parser.h"
#include "test/bpf/scene.h"

namespace egress::bpf {

/// Of lines of [egress].
inline policy::Policy policy_of(const std::string& lines) {
    auto parsed = policy::parse_text("[egress]\n" + lines, "test");
    for (const auto& diagnostic : parsed.diagnostics) {
        REQUIRE_MESSAGE(diagnostic.severity == policy::Diagnostic::Severity::warning,
                        diagnostic.message());
    }
    return std::move(parsed.policy);
}

inline Tables tables_of(const policy::Policy& policy, const World& world = fake_world()) {
    auto tables = compile(policy, world, 1);
    REQUIRE_MESSAGE(tables.has_value(), tables.error().text);
    return std::move(*tables);
}

/// A line for each prefix.
inline Tables tables_of(std::initializer_list<const char*> prefixes) {
    policy::Policy policy;
    for (const char* text : prefixes) {
        auto& rule = policy.egress.emplace_back();
        rule.destination.kind = policy::Destination::Kind::prefix;
        rule.destination.prefix = Prefix::parse(text).value();
    }
    return tables_of(policy);
}

/// "0 2": numbers of the lines in a set.
inline std::string lines_in(const egress_vector& vector) {
    std::string out;
    for (std::uint32_t i = 0; i < EGRESS_MAX_RULES; ++i) {
        if (vector.words[i / 64] >> i % 64 & 1) {
            out += (out.empty() ? "" : " ") + std::to_string(i);
            CHECK((vector.any >> i / 64 & 1) == 1);
        }
    }
    return out;
}

/// The lines that a destination leaves.
inline std::string lines_for(const Tables& tables, const char* address) {
    Scene scene;
    scene.destination = Address::parse(address).value();
    return lines_in(decide_compiled(tables, scene).destination);
}

} // namespace egress::bpf
