#include "daemon/bpf/tables/granted.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "daemon/bpf/names.h"
#include "daemon/bpf/tables/names.h"

namespace egress::bpf {

namespace {

using policy::NameKind;
using policy::NamePatterns;

/// Calls what(pattern) for each name of the rules and of their lists.
template <typename What>
void each_pattern(const policy::Policy& policy, What&& what) {
    for (const auto& rule : policy.egress) {
        if (is_name(rule.destination)) {
            what(pattern_of(rule.destination));
        }
    }
    for (const auto& list : policy.lists) {
        list->names.each(what);
    }
}

std::string text_of_pattern(const NamePatterns::Pattern& pattern) {
    std::string out = pattern.kind == NameKind::exact ? ""
                      : pattern.kind == NameKind::one ? "*."
                                                      : "**.";
    return out.append(pattern.name);
}

bool is_good(const egress_grant& grant, std::uint64_t now) {
    return grant.until != EGRESS_GRANT_WRITTEN && now < grant.until;
}

/// Whether the pattern has the name.
bool has(const NamePatterns::Pattern& pattern, std::string_view name) {
    if (pattern.kind == NameKind::exact) {
        return pattern.name == name;
    }
    if (name.size() <= pattern.name.size() + 1 || !name.ends_with(pattern.name) ||
        name[name.size() - pattern.name.size() - 1] != '.') {
        return false;
    }
    const auto head = name.substr(0, name.size() - pattern.name.size() - 1);
    return pattern.kind == NameKind::deep || head.find('.') == std::string_view::npos;
}

} // namespace

std::vector<Granted> granted_to(const policy::Policy& policy,
                                const std::array<std::uint64_t, 2>& names_key,
                                const egress_grants* grants, const Address& address,
                                std::uint64_t now) {
    std::vector<Granted> out;
    if (grants == nullptr) {
        return out;
    }
    const std::array<__u64, 2> secret = {names_key[0], names_key[1]};
    const auto hash = egress_grants_of(secret.data(), address.raw().data());
    std::map<std::uint64_t, std::uint64_t> until; // by key
    for (const auto number : {EGRESS_FIRST_SET(hash), EGRESS_SECOND_SET(hash)}) {
        for (const auto& grant : grants[number].each) {
            if (is_good(grant, now) && std::ranges::equal(grant.address, address.raw())) {
                until[grant.key] = std::max<std::uint64_t>(until[grant.key], grant.until);
            }
        }
    }
    if (const auto any = until.extract(EGRESS_ANY_NAME)) {
        out.push_back({address, "", any.mapped(), EGRESS_ANY_NAME});
    }
    if (until.empty()) {
        return out;
    }
    each_pattern(policy, [&](const NamePatterns::Pattern& pattern) {
        if (const auto found = until.extract(key_of(pattern, names_key))) {
            out.push_back({address, text_of_pattern(pattern), found.mapped(), found.key()});
        }
    });
    return out;
}

std::vector<Granted> granted_by(const policy::Policy& policy,
                                const std::array<std::uint64_t, 2>& names_key,
                                const egress_grants* grants, std::string_view name,
                                std::uint64_t now, std::size_t most) {
    std::vector<Granted> out;
    std::map<std::uint64_t, std::string> keys; // of the patterns that have the name
    each_pattern(policy, [&](const NamePatterns::Pattern& pattern) {
        if (has(pattern, name)) {
            keys.emplace(key_of(pattern, names_key), text_of_pattern(pattern));
        }
    });
    for (std::size_t i = 0; grants != nullptr && !keys.empty() && i < EGRESS_GRANTS_SETS; ++i) {
        for (const auto& grant : grants[i].each) {
            const auto found = is_good(grant, now) ? keys.find(grant.key) : keys.end();
            if (found != keys.end() && out.size() < most) {
                out.push_back(
                    {*Address::from_bytes(grant.address), found->second, grant.until, grant.key});
            }
        }
    }
    return out;
}

std::vector<std::size_t> lines_with(const policy::Policy& policy, std::string_view name) {
    std::set<std::string_view> lists; // that have it
    for (const auto& list : policy.lists) {
        list->names.each([&](const NamePatterns::Pattern& pattern) {
            if (has(pattern, name)) {
                lists.insert(list->name);
            }
        });
    }
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < policy.egress.size(); ++i) {
        const auto& destination = policy.egress[i].destination;
        const bool in_list =
            destination.kind == policy::Destination::Kind::list && lists.contains(destination.text);
        if (in_list || (is_name(destination) && has(pattern_of(destination), name))) {
            out.push_back(i);
        }
    }
    return out;
}

} // namespace egress::bpf
