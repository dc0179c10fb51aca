// What `table inet egress` looks like: names, sets, rules, and what of it is there.
//
//   table inet egress {
//     set egress.v4.24.drop { type ipv4_addr . inet_proto . inet_service; flags timeout; counter; }
//     chain refuse { meta l4proto tcp reject with tcp reset; reject; }
//     chain prerouting { type filter hook prerouting priority raw; policy accept;
//       ip saddr & 255.255.255.0 . meta l4proto . th dport @egress.v4.24.drop drop
//     }
//   }
//
// Each set belongs to one (name, family, mask length, action, shape) and to one rule, which masks
// the source address before it looks it up. So a prefix costs as much as a host, in a hash set:
// adding to an interval set of 100,000 takes a second. Shapes are why "any port" needs no element
// per port. After a set and its rule are made, only elements change.
//
// The chain hooks prerouting at raw priority, -300: before connection tracking (-200), so that a
// flow which is established is cut like a new one, and before destination NAT (-100), so that the
// port is the one the remote host asked for, published container ports included.
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
inline constexpr const char* refuse_chain = "refuse"; ///< "reject" is a word of nft's language
inline constexpr std::int32_t hook_priority = -300;

/// Which parts of a target are given.
enum class Shape : std::uint8_t { exact, protocol, port, all };
Shape shape_of(const Target& target);

struct SetId {
    std::string name; ///< the rule's NAME
    bool v6 = false;
    std::uint8_t length = 0; ///< of the prefix, bits of the family
    Action action = Action::drop;
    Shape shape = Shape::exact;

    friend auto operator<=>(const SetId&, const SetId&) = default;
};

/// The set that holds this target under this name.
SetId set_of(std::string name, const Target& target, Action action);

/// "egress.v4.24.drop", "egress.v6.64.reject.port": at most 80 bytes, words that nft can read back.
std::string set_name(const SetId& set);
std::optional<SetId> parse_set_name(std::string_view text);

/// Bytes of an element's key: address, then protocol and port as the shape has them, padded to 4.
std::uint32_t key_size(const SetId& set);

/// What of ours the kernel holds.
struct Layout {
    static constexpr std::uint64_t planned = ~std::uint64_t{0}; ///< handle of a rule not yet made

    struct Set {
        SetId id;
        bool fits = false; ///< its key and flags are as we make them
        /// Handles of the rules that look it up: one, or more where two helpers made it at the same
        /// time. Where there is none, nothing in the set is in force.
        std::vector<std::uint64_t> rules{};
    };

    std::uint32_t generation = 0; ///< that this was read at; 0: never
    bool table = false;           ///< and awake
    bool hooked = false;          ///< the hook chain is there
    bool refuses = false;         ///< the refuse chain is there with its rules
    bool changed = false;         ///< says what a batch would make, no longer what is there
    std::map<std::string, Set, std::less<>> sets; ///< by set_name
};

Result<Layout> read_layout(Netlink& netlink);

// What follows writes messages, and notes in the layout what they make.

/// Table and hook chain, as far as they are missing.
void put_base(Batch& batch, Layout& layout);
/// The set and its rule, the refuse chain too where the set needs it, as far as they are missing;
/// a rule that someone deleted is put back. Blame goes to `owner`.
void put_set(Batch& batch, Layout& layout, const SetId& set, int owner);
/// Removes a set with all that is in it, and its rule.
void drop_set(Batch& batch, Layout& layout, const std::string& name);

} // namespace egress::helper
