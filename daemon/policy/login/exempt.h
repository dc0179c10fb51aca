// Finds the lines that let addresses in whatever is blocked: those of [remote] with nfail "*".
//
// A look-up is about a block: a prefix, a protocol and a port. As for a report the most specific
// line decides, so a line with a number inside an exempt network takes addresses out of it. Lines
// with an owner are left out: they are about who reports, not about who comes in. Immutable once
// made; the rules must outlive it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "daemon/policy/rules/rule.h"

namespace egress::policy {

class Exemptions {
  public:
    /// What a block shuts out.
    struct Target {
        Prefix address;
        std::uint8_t protocol = 0; ///< 0: every protocol
        std::uint16_t port = 0;    ///< 0: every port
    };

    Exemptions() = default;
    explicit Exemptions(std::span<const Rule> remote);

    bool empty() const { return exempt_ == 0; }
    bool has_self() const { return !self_.empty(); } ///< a line for "self", exempt or not
    /// A line that exempts the target or a part of it; null: none. `own`: this host's addresses.
    const Rule* touching(const Target& target, std::span<const Prefix> own) const;
    /// The line that exempts all of the target; null: none does.
    const Rule* covering(const Target& target, std::span<const Prefix> own) const;

  private:
    using Lines = std::vector<const Rule*>; // the most specific first

    struct Decision {
        const Rule* exempt = nullptr; // the line that exempts
        bool decided = false;         // no wider line says anything about the target
    };
    static Decision decide(const Lines& lines, const Target& target, bool whole);
    Decision decide_outwards(const Target& target, std::span<const Prefix> own, bool whole) const;
    /// The first line for a prefix inside the target that is (not) an exemption.
    const Rule* inside(const Target& target, bool exempt) const;

    std::map<Prefix, Lines> nodes_;        // a wider prefix comes before those inside it
    std::vector<std::uint8_t> lengths_v4_; // those that occur in nodes_, the longest first
    std::vector<std::uint8_t> lengths_v6_;
    Lines self_;
    Lines any_;
    std::size_t exempt_ = 0; // lines
};

} // namespace egress::policy
