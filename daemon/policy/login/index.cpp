#include "daemon/policy/login/index.h"

#include <algorithm>
#include <bit>

namespace egress::policy {

namespace {

// Bits of a shape, the most specific first.
enum Shape : std::uint8_t { port = 16, protocol = 8, family = 4, type = 2, owner = 1 };

std::size_t mix(std::uint64_t a, std::uint64_t b) {
    // The finalizer of splitmix64 over both halves; attackers cannot choose stored keys.
    std::uint64_t x = a * 0x9e3779b97f4a7c15 ^ std::rotl(b, 32);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return static_cast<std::size_t>(x ^ (x >> 31));
}

std::uint8_t shape_of(const Rule& rule) {
    const auto bit = [](bool given, Shape shape) {
        return given ? static_cast<unsigned>(shape) : 0U;
    };
    return static_cast<std::uint8_t>(bit(rule.location.port.has_value(), Shape::port) |
                                     bit(rule.protocol.number.has_value(), Shape::protocol) |
                                     bit(rule.protocol.family != AF_UNSPEC, Shape::family) |
                                     bit(rule.type.has_value(), Shape::type) |
                                     bit(rule.owner.has_value(), Shape::owner));
}

} // namespace

std::size_t SectionIndex::Rest::hash() const {
    const auto wide = [](auto value) { return static_cast<std::uint64_t>(value); };
    return mix(wide(node) << 32 | owner, wide(port) << 48 | wide(protocol & 0xffff) << 32 |
                                             wide(type & 0xffff) << 16 | wide(family) << 8 | shape);
}

SectionIndex::Bits SectionIndex::bits_of(const Address& address) {
    Bits bits = 0;
    for (const auto byte : address.raw()) {
        bits = bits << 8 | byte;
    }
    return bits;
}

std::uint32_t SectionIndex::add_node(const Location& location,
                                     std::map<Prefix, std::uint32_t>& prefixes) {
    const auto fresh = static_cast<std::uint32_t>(nodes_.size());
    std::uint32_t node = any_node;
    if (!location.interface.empty()) {
        node = interfaces_.try_emplace(location.interface, fresh).first->second;
    } else if (location.self) {
        node = self_ = self_ == any_node ? fresh : self_;
    } else if (location.prefix) {
        node = prefixes.try_emplace(*location.prefix, fresh).first->second;
    }
    if (node == fresh) {
        nodes_.push_back({});
    }
    return node;
}

/// Sets the parents of one family's prefixes and returns the ranges between their ends. The map's
/// order (base, then length) puts every prefix after those that contain it.
std::vector<SectionIndex::Range> SectionIndex::nest(const std::map<Prefix, std::uint32_t>& prefixes,
                                                    bool v4) {
    struct Open {
        Bits last;
        std::uint32_t node;
    };
    std::vector<Range> ranges;
    std::vector<Open> open; // from the widest inwards
    const auto begin_range = [&](Bits first) {
        if (!ranges.empty() && ranges.back().first == first) {
            ranges.pop_back(); // it would be empty
        }
        ranges.push_back({first, open.empty() ? any_node : open.back().node});
    };
    const auto close = [&] {
        const Bits last = open.back().last;
        open.pop_back();
        if (last != ~Bits{0}) {
            begin_range(last + 1);
        }
    };
    for (const auto& [prefix, node] : prefixes) {
        if (prefix.base.is_v4() != v4) {
            continue;
        }
        const Bits first = bits_of(prefix.base);
        while (!open.empty() && open.back().last < first) {
            close();
        }
        const int host_bits = prefix.base.width() - prefix.length;
        const Bits host_mask = host_bits == 128 ? ~Bits{0} : (Bits{1} << host_bits) - 1;
        nodes_[node].parent = open.empty() ? any_node : open.back().node;
        open.push_back({first | host_mask, node});
        begin_range(first);
    }
    while (!open.empty()) {
        close();
    }
    return ranges;
}

SectionIndex::SectionIndex(std::span<const Rule> rules) : rules_(rules.size()), nodes_(1) {
    std::map<Prefix, std::uint32_t> prefixes;
    for (std::size_t i = 0; i < rules.size(); ++i) {
        const Rule& rule = rules[i];
        Rest rest;
        rest.node = add_node(rule.location, prefixes);
        rest.shape = shape_of(rule);
        rest.port = rule.location.port.value_or(0);
        rest.protocol = rule.protocol.number.value_or(0);
        rest.family = static_cast<std::uint8_t>(rule.protocol.family);
        rest.type = static_cast<std::int16_t>(rule.type.value_or(0));
        rest.owner = rule.owner.value_or(0);
        rules_.insert(rest, static_cast<std::uint32_t>(i)); // the first of equal rules stays
        nodes_[rest.node].shapes |= 1U << rest.shape;
    }
    ranges_v4_ = nest(prefixes, true);
    ranges_v6_ = nest(prefixes, false);
}

/// The rule of the highest shape at this node, or FlatTable::absent.
std::uint32_t SectionIndex::find_at(std::uint32_t node, const Probe& probe) const {
    for (std::uint32_t left = nodes_[node].shapes; left != 0;) {
        const auto shape = static_cast<std::uint8_t>(31 - std::countl_zero(left));
        left &= ~(1U << shape);
        Rest rest;
        rest.node = node;
        rest.shape = shape;
        rest.port = (shape & Shape::port) != 0 ? probe.port : std::uint16_t{0};
        rest.protocol = (shape & Shape::protocol) != 0 ? probe.protocol : 0;
        rest.family = static_cast<std::uint8_t>((shape & Shape::family) != 0 ? probe.family : 0);
        rest.type = static_cast<std::int16_t>((shape & Shape::type) != 0 ? probe.type : 0);
        rest.owner = (shape & Shape::owner) != 0 ? probe.uid : 0;
        if (const auto rule = rules_.find(rest); rule != FlatTable<Rest>::absent) {
            return rule;
        }
    }
    return FlatTable<Rest>::absent;
}

/// The node of the longest prefix that covers the address, or any_node.
std::uint32_t SectionIndex::longest(const Address& address) const {
    const auto& ranges = address.is_v4() ? ranges_v4_ : ranges_v6_;
    const auto after =
        std::ranges::upper_bound(ranges, bits_of(address), std::ranges::less{}, &Range::first);
    return after == ranges.begin() ? any_node : std::prev(after)->node;
}

std::optional<std::size_t> SectionIndex::find(const Probe& probe) const {
    if (!interfaces_.empty() && !probe.interface.empty()) {
        if (const auto at = interfaces_.find(probe.interface); at != interfaces_.end()) {
            if (const auto rule = find_at(at->second, probe); rule != FlatTable<Rest>::absent) {
                return rule;
            }
        }
    }
    if (probe.own && self_ != any_node) {
        if (const auto rule = find_at(self_, probe); rule != FlatTable<Rest>::absent) {
            return rule;
        }
    }
    for (std::uint32_t node = longest(*probe.address);; node = nodes_[node].parent) {
        if (const auto rule = find_at(node, probe); rule != FlatTable<Rest>::absent) {
            return rule;
        }
        if (node == any_node) {
            return std::nullopt;
        }
    }
}

} // namespace egress::policy
