#include "daemon/egress/explained.h"

#include <set>

#include <fmt/format.h>

#include "daemon/base/words.h"
#include "daemon/bpf/tables/granted.h"
#include "daemon/bpf/tables/hidden.h"
#include "daemon/policy/print/print.h"

namespace egress::explained {

namespace {

using nlohmann::json;

constexpr std::size_t most_addresses = 64;  // that are answered for
constexpr std::size_t most_granted = 4'096; // that are looked at
constexpr std::size_t most_lines = 20;

/// The addresses that were granted for the name. A pattern's grants are for several names; the
/// record of what was asked tells them apart, and without one the grant may be for this name.
std::set<Address> addresses_of(const Scene& scene) {
    const auto& [question, loader, policy, tables, answers] = scene.asked;
    const std::array<std::uint64_t, 2> key = {tables.base->names_key[0], tables.base->names_key[1]};
    std::set<Address> out;
    for (const auto& each : bpf::granted_by(policy, key, loader.grants().all(), question.name,
                                            scene.now, most_granted)) {
        const auto asked = answers.asked.find(each.address, each.key);
        if (each.name == question.name || !asked || *asked == question.name) {
            out.insert(each.address);
        }
    }
    for (const auto& each : answers.asked.of_name(question.name)) {
        if (scene.now < each.until) {
            out.insert(each.address);
        }
    }
    return out;
}

/// Why nothing is granted for the name, and what to do.
std::string advice(const Scene& scene, bool has_lines) {
    const auto& [question, loader, policy, tables, answers] = scene.asked;
    if (!has_lines && tables.base->has_resolved == 0) {
        return fmt::format("no line has the name, so that answers for it grant nothing: write a "
                           "line with the destination {}",
                           question.name);
    }
    if (answers.resolvers.empty()) {
        return "no resolver is approved, so that no answer counts: write \"resolver ADDRESS\" "
               "under [dns]";
    }
    return fmt::format("no answer for it is in force: the program has to ask for it, over UDP or "
                       "TCP, at {}; \"egressctl status\" counts what became of the answers",
                       bpf::text_of(answers.resolvers));
}

} // namespace

json name(const Scene& scene) {
    const auto& [question, loader, policy, tables, answers] = scene.asked;
    const auto lines = bpf::lines_with(policy, question.name);
    json out = {{"name", question.name}, {"lines", json::array()}, {"addresses", json::array()}};
    for (std::size_t i = 0; i < std::min(lines.size(), most_lines); ++i) {
        const auto& rule = policy.egress[lines[i]];
        out["lines"].push_back({{"rule", rule.place.text()}, {"text", policy::print(rule)}});
    }
    const auto addresses = addresses_of(scene);
    for (const auto& address : addresses) {
        if (out["addresses"].size() == most_addresses) {
            break;
        }
        auto one = verdict(scene, address);
        if (one.is_null()) {
            return one;
        }
        one["addr"] = address.text();
        out["addresses"].push_back(std::move(one));
    }
    out["lines_left_off"] = lines.size() - out["lines"].size();
    out["addresses_left_off"] = addresses.size() - out["addresses"].size();
    if (addresses.empty()) {
        out["advice"] = advice(scene, !lines.empty());
    }
    return out;
}

} // namespace egress::explained
