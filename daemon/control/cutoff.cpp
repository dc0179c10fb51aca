#include "daemon/control/cutoff.h"

#include <fmt/format.h>
#include <netinet/in.h>

#include "daemon/policy/print/print.h"

namespace egress {

namespace {

/// The addresses of this host in the block: the first, and how many more.
std::string own_in(const ManualBlock& block, const std::vector<Prefix>& own) {
    std::string first;
    std::size_t more = 0;
    for (const auto& prefix : own) {
        if (block.address.contains(prefix.base) || prefix.contains(block.address.base)) {
            more += !first.empty();
            first = first.empty() ? prefix.text() : first;
        }
    }
    if (first.empty()) {
        return {};
    }
    return fmt::format("{} of this host{}", first,
                       more == 0   ? ""
                       : more == 1 ? " and one more of its addresses"
                                   : fmt::format(" and {} more of its addresses", more));
}

bool reaches(const ManualBlock& block, const Endpoint& session) {
    return block.address.contains(session.address) &&
           (block.port == 0 || session.port == 0 || block.port == session.port) &&
           (block.protocol == 0 || block.protocol == IPPROTO_TCP);
}

} // namespace

std::vector<std::string> cut_off(const Ledger& ledger, const ManualBlock& block,
                                 const std::optional<Endpoint>& session) {
    std::vector<std::string> out;
    if (block.address.length == 0) {
        out.push_back(
            fmt::format("every {} address", block.address.base.is_v4() ? "IPv4" : "IPv6"));
    }
    if (session && reaches(block, *session)) {
        out.push_back(fmt::format("{}, where your session comes from", session->address.text()));
    }
    const auto& own = ledger.interfaces().own();
    if (auto text = own_in(block, own); !text.empty()) {
        out.push_back(std::move(text));
    }
    const policy::Exemptions::Target target{block.address, block.protocol, block.port};
    if (const auto* const line = ledger.exemptions().touching(target, own)) {
        out.push_back(
            fmt::format("what {} exempts ({})", line->place.text(), policy::print(*line)));
    }
    return out;
}

} // namespace egress
