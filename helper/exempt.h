// Who passes whatever is blocked: the list of `exempt`, and the order in which it decides. Pure.
#pragma once

#include <compare>
#include <cstddef>
#include <vector>

#include "helper/layout.h"
#include "helper/proto.h"

namespace egress::helper {

struct Exemption {
    Target target;
    bool passes = true; ///< false: blocks apply, though a wider entry passes

    friend auto operator<=>(const Exemption&, const Exemption&) = default;
};

/// The most specific entry that matches decides: the longer prefix, then one with a port, then one
/// with a protocol.
class Exemptions {
  public:
    /// The entries that one set of the firewall holds, in order of target.
    struct Group {
        SetId set;
        std::vector<Target> targets;
        friend bool operator==(const Group&, const Group&) = default;
    };

    Exemptions() = default;
    /// Of a target that is listed twice, the last entry counts.
    explicit Exemptions(std::vector<Exemption> list);

    /// The groups in the order in which the firewall must ask them.
    const std::vector<Group>& groups() const { return groups_; }
    bool empty() const { return groups_.empty(); }
    std::size_t size() const { return size_; }

    /// True if a packet from here passes.
    bool pass(const Address& source, std::uint8_t protocol, std::uint16_t port) const;

    friend bool operator==(const Exemptions&, const Exemptions&) = default;

  private:
    std::vector<Group> groups_;
    std::size_t size_ = 0;
};

} // namespace egress::helper
