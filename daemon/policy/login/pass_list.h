// Who is never blocked: the [remote] lines without a limit, as a firewall can match them.
//
// A block may be wider than the address that caused it: an aggregate, a grown prefix, a block by
// hand. So the firewall asks these first. Of the lines that match a packet the most specific one
// decides, as it does for a report, so narrower lines that do block are listed, too.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/policy/rules/rule.h"

namespace egress::policy {

struct PassEntry {
    Prefix source;
    std::uint8_t protocol = 0; ///< IPPROTO_*, 0: any
    std::uint16_t port = 0;    ///< of this host, host byte order; 0: any
    bool passes = true;        ///< false: blocks apply, though a wider line exempts it

    friend auto operator<=>(const PassEntry&, const PassEntry&) = default;
};

/// The exemptions of the [remote] lines, sorted, one per (source, protocol, port). A line that
/// names an owner exempts only from what that owner reports, which no packet shows: it is left out.
/// "*" as location gives one of each family, "self" one for each prefix of `own`, this host's.
std::vector<PassEntry> pass_list(std::span<const Rule> remote, std::span<const Prefix> own);

} // namespace egress::policy
