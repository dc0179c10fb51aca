// The tables behind Matcher: rules of one section by location, then by their other fields.
//
// A location becomes a node: an interface, "self", a prefix, or "any". Prefixes nest, so each node
// knows the next wider one, and a sorted list of the ranges between all their ends gives the
// longest prefix of an address by binary search. The rest of a rule (port, protocol, family, type,
// owner) becomes a key; the set of fields that a rule gives is its shape, five bits ordered by
// specificity. A look-up goes from the longest prefix outwards, and in each node from the highest
// shape that occurs there to the lowest, one hash each: the first hit is the most specific rule.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/policy/login/match.h"

namespace egress::policy {

/// Open addressing over keys with == and hash(); filled first, then only read.
template <typename Key>
class FlatTable {
  public:
    static constexpr std::uint32_t absent = 0xffffffff;

    explicit FlatTable(std::size_t entries = 0) {
        std::size_t size = 2;
        while (size < entries * 2) {
            size *= 2;
        }
        slots_.resize(size);
    }

    std::uint32_t find(const Key& key) const {
        for (std::size_t i = key.hash();; ++i) {
            const Slot& slot = slots_[i & (slots_.size() - 1)];
            if (slot.value == absent || slot.key == key) {
                return slot.value;
            }
        }
    }

    /// Returns the value of the key afterwards: the existing one, else `value`.
    std::uint32_t insert(const Key& key, std::uint32_t value) {
        for (std::size_t i = key.hash();; ++i) {
            Slot& slot = slots_[i & (slots_.size() - 1)];
            if (slot.value == absent) {
                slot = Slot{key, value};
            }
            if (slot.key == key) {
                return slot.value;
            }
        }
    }

  private:
    struct Slot {
        Key key{};
        std::uint32_t value = absent;
    };
    std::vector<Slot> slots_; // a power of two, at most half full
};

/// The rules of one section.
class SectionIndex {
  public:
    SectionIndex() : SectionIndex(std::span<const Rule>{}) {}
    explicit SectionIndex(std::span<const Rule> rules);

    /// The fields of a report that a look-up uses.
    struct Probe {
        const Address* address = nullptr;
        bool own = false; ///< `address` belongs to this host
        std::string_view interface;
        std::uint16_t port = 0;
        int protocol = 0;
        int type = 0;
        int family = AF_UNSPEC;
        std::uint32_t uid = 0;
    };
    /// Index of the most specific rule that matches; nullopt: none.
    std::optional<std::size_t> find(const Probe& probe) const;

  private:
    using Bits = unsigned __int128; // an address as a number, IPv4 mapped

    struct Node {
        std::uint32_t shapes = 0; // bit N: the node has a rule of shape N
        std::uint32_t parent = 0; // the next wider prefix, or any_node
    };
    struct Range {
        Bits first;         // it ends before the next range's
        std::uint32_t node; // of the longest prefix that covers the range
    };
    struct Rest {
        std::uint32_t node = 0;
        std::uint32_t owner = 0;
        std::int32_t protocol = 0;
        std::int16_t type = 0;
        std::uint16_t port = 0;
        std::uint8_t family = 0;
        std::uint8_t shape = 0;
        std::size_t hash() const;
        friend bool operator==(const Rest&, const Rest&) = default;
    };
    static constexpr std::uint32_t any_node = 0;

    static Bits bits_of(const Address& address);
    std::uint32_t add_node(const Location& location, std::map<Prefix, std::uint32_t>& prefixes);
    std::vector<Range> nest(const std::map<Prefix, std::uint32_t>& prefixes, bool v4);
    std::uint32_t longest(const Address& address) const;
    std::uint32_t find_at(std::uint32_t node, const Probe& probe) const;

    FlatTable<Rest> rules_;
    std::vector<Node> nodes_;
    std::uint32_t self_ = any_node; ///< any_node: no rule is for "self"
    std::map<std::string, std::uint32_t, std::less<>> interfaces_;
    std::vector<Range> ranges_v4_; // separate: "[::]/0" does not cover IPv4
    std::vector<Range> ranges_v6_;
};

} // namespace egress::policy
