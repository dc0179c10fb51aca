// The layout of `table inet egress`: names, sets and rules, and which of them exist.
//
//   table inet egress {
//     set exempt.v4.32.pass.all { type ipv4_addr; }
//     set egress.v4.24.drop { type ipv4_addr . inet_proto . inet_service; flags timeout; }
//     chain refuse { meta l4proto tcp reject with tcp reset; reject; }
//     chain exempt { ip saddr @exempt.v4.32.pass.all accept; }
//     chain prerouting { type filter hook prerouting priority raw; policy accept;
//       jump exempt
//       ip saddr & 255.255.255.0 . meta l4proto . th dport @egress.v4.24.drop counter drop
//     }
//   }
//
// Each set belongs to one (name, family, mask length, action, shape), of which there are two while
// a large one is made anew. The one in force belongs to one rule, which masks
// the source address before the look-up. So a prefix costs as much as a host, in a hash set: adding
// to an interval set of 100,000 takes a second. Because of shapes "any port" needs no element per
// port. Once a set and its rule exist, only elements change.
//
// The chain `exempt` comes before all blocks: "accept" there ends this table's part, "return" goes
// on to the blocks. Its rules stand from the most specific to the least.
//
// The chain hooks prerouting at raw priority, -300: before connection tracking (-200), so that it
// also blocks established flows, and before destination NAT (-100), so that the port is the one
// that the remote host used, also for published container ports.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "helper/nft.h"
#include "helper/proto.h"

namespace egress::helper {

inline constexpr const char* hook_chain = "prerouting";
inline constexpr const char* refuse_chain = "refuse"; ///< "reject" is a keyword of nft
inline constexpr const char* exempt_chain = "exempt"; ///< also the name of its sets
inline constexpr std::int32_t hook_priority = -300;

/// Which of protocol and port a target gives.
enum class Shape : std::uint8_t { exact, protocol, port, all };
Shape shape_of(const Target& target);

struct SetId {
    std::string name; ///< the rule's NAME
    bool v6 = false;
    std::uint8_t length = 0; ///< of the prefix, bits of the family
    Action action = Action::drop;
    Shape shape = Shape::exact;
    bool second = false; ///< of two that take turns: one is in force while the other is made anew

    friend auto operator<=>(const SetId&, const SetId&) = default;
};

/// The other one of the two that take turns.
SetId other_turn(SetId set);

/// The set for this target and this name.
SetId set_of(std::string name, const Target& target, Action action);

/// "egress.v4.24.drop", "egress.v6.64.reject.port", "egress.v4.24.drop.2": at most 82 bytes, which
/// nft can read back.
std::string set_name(const SetId& set);
std::optional<SetId> parse_set_name(std::string_view text);

/// Bytes of an element's key: address, then protocol and port according to the shape, each padded
/// to 4.
std::uint32_t key_size(const SetId& set);

/// The parts of our table in the kernel.
struct Layout {
    static constexpr std::uint64_t planned =
        ~std::uint64_t{0}; ///< handle of a rule that the batch makes

    struct Set {
        SetId id;
        bool fits = false; ///< its key and flags are those that we set
        /// Handles of the rules that use the set: one, or more if two helpers made it at the same
        /// time. Empty: the set is not in force.
        std::vector<std::uint64_t> rules{};
    };

    std::uint32_t generation = 0; ///< at which this was read; 0: never
    bool table = false;           ///< the table exists and is not dormant
    bool hooked = false;          ///< the hook chain exists
    bool refuses = false;         ///< the refuse chain exists with its rules
    bool changed = false;         ///< describes the result of a batch, no longer the kernel's state
    std::map<std::string, Set, std::less<>> sets; ///< by set_name; without those of exempt_chain
    int seconds = 0;                              ///< how many of the sets are `second`

    std::vector<std::uint64_t> jumps;      ///< handles of the rules that lead to exempt_chain
    bool exempts = false;                  ///< the hook chain begins with such a rule
    std::map<std::string, SetId> passes;   ///< the sets of exempt_chain that fit, by set_name
    std::vector<std::string> exempt_order; ///< the sets that its rules ask, in order

    /// Of a set and its other turn, the one to use: that in force, else the one that exists.
    SetId placed(SetId set) const;
};

class Exemptions;

Result<Layout> read_layout(Netlink& netlink);

// The functions below write messages, and update the layout accordingly.

/// Makes the table and the hook chain if they are missing.
void put_base(Batch& batch, Layout& layout);
/// Makes the set, its rule and (if the set needs it) the refuse chain if they are missing, also a
/// deleted rule. The kernel's refusals count for `owner`.
void put_set(Batch& batch, Layout& layout, const SetId& set, int owner);
/// Makes the set without a rule if it is missing.
void put_standby(Batch& batch, Layout& layout, const SetId& set, int owner);
/// Makes the exemptions anew: the chain, its sets with their elements, and the jump to it.
void put_exemptions(Batch& batch, Layout& layout, const Exemptions& exemptions);
/// True if the chain, the jump and the sets are there; compares no elements.
bool has_exemptions(const Layout& layout, const Exemptions& exemptions);
/// Removes a set with its elements and its rule.
void drop_set(Batch& batch, Layout& layout, const std::string& name);

/// Removes the table with its chains, sets and rules.
void drop_table(Batch& batch, Layout& layout);

} // namespace egress::helper
