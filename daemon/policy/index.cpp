#include "daemon/policy/index.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace egress::policy {

namespace {

constexpr std::uint8_t v6_code = 64;         // IPv4 lengths are 0..32, IPv6 ones 64..192
constexpr std::uint8_t interface_code = 255; // an interface's name instead of an address

// Bits of a shape, the most telling first.
enum Shape : std::uint8_t { port = 16, protocol = 8, family = 4, type = 2, owner = 1 };

std::uint64_t load(const std::uint8_t* bytes) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes, sizeof value);
    return std::endian::native == std::endian::little ? __builtin_bswap64(value) : value;
}

/// A mask of the first `bits` of 64 (at most 64 are used, fewer than 0 are none).
std::uint64_t mask(int bits) {
    return bits <= 0 ? 0 : bits >= 64 ? ~std::uint64_t{0} : ~(~std::uint64_t{0} >> bits);
}

std::size_t mix(std::uint64_t a, std::uint64_t b) {
    // The finalizer of splitmix64 over both halves; attackers choose no keys that are stored.
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

std::size_t SectionIndex::Where::hash() const {
    return mix(high ^ length, low);
}

std::size_t SectionIndex::Rest::hash() const {
    const auto wide = [](auto value) { return static_cast<std::uint64_t>(value); };
    return mix(wide(node) << 32 | owner, wide(port) << 48 | wide(protocol & 0xffff) << 32 |
                                             wide(type & 0xffff) << 16 | wide(family) << 8 | shape);
}

SectionIndex::Where SectionIndex::where_of(std::string_view interface) {
    std::array<std::uint8_t, 16> name{};
    std::memcpy(name.data(), interface.data(), std::min(interface.size(), name.size()));
    return {load(name.data()), load(name.data() + 8), interface_code};
}

SectionIndex::Where SectionIndex::where_of(const Location& location) {
    if (!location.interface.empty()) {
        return where_of(location.interface);
    }
    const auto& prefix = *location.prefix;
    const auto* bytes = prefix.base.raw().data(); // its host bits are zero
    const int code = prefix.length + (prefix.base.is_v4() ? 0 : v6_code);
    return {load(bytes), load(bytes + 8), static_cast<std::uint8_t>(code)};
}

std::uint32_t SectionIndex::add_node(const Location& location) {
    if (location.interface.empty() && !location.prefix) {
        return any_node;
    }
    const auto fresh = static_cast<std::uint32_t>(shapes_.size());
    const auto node = nodes_.insert(where_of(location), fresh);
    if (node == fresh) {
        shapes_.push_back(0);
    }
    if (!location.interface.empty()) {
        interfaces_ = true;
        return node;
    }
    auto& lengths = location.prefix->base.is_v4() ? lengths_v4_ : lengths_v6_;
    const auto length = location.prefix->length;
    const auto at = std::ranges::lower_bound(lengths, length, std::ranges::greater{});
    if (at == lengths.end() || *at != length) {
        lengths.insert(at, length);
    }
    return node;
}

SectionIndex::SectionIndex(std::span<const Rule> rules)
    : nodes_(rules.size()), rules_(rules.size()), shapes_{0} {
    for (std::size_t i = 0; i < rules.size(); ++i) {
        const Rule& rule = rules[i];
        Rest rest;
        rest.node = add_node(rule.location);
        rest.shape = shape_of(rule);
        rest.port = rule.location.port.value_or(0);
        rest.protocol = rule.protocol.number.value_or(0);
        rest.family = static_cast<std::uint8_t>(rule.protocol.family);
        rest.type = static_cast<std::int16_t>(rule.type.value_or(0));
        rest.owner = rule.owner.value_or(0);
        rules_.insert(rest, static_cast<std::uint32_t>(i)); // an equal one before it stays
        shapes_[rest.node] |= 1U << rest.shape;
    }
}

/// The rule of the highest shape at this node, or FlatTable::absent.
std::uint32_t SectionIndex::find_at(std::uint32_t node, const Probe& probe) const {
    for (std::uint32_t left = shapes_[node]; left != 0;) {
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

std::optional<std::size_t> SectionIndex::find(const Probe& probe) const {
    std::uint32_t rule = FlatTable<Rest>::absent;
    const auto look = [&](const Where& where) {
        const auto node = nodes_.find(where);
        rule = node == FlatTable<Where>::absent ? rule : find_at(node, probe);
        return rule != FlatTable<Rest>::absent;
    };
    if (interfaces_ && !probe.interface.empty() && look(where_of(probe.interface))) {
        return rule;
    }
    const bool v4 = probe.address->is_v4();
    const auto high = load(probe.address->raw().data());
    const auto low = load(probe.address->raw().data() + 8);
    for (const int length : v4 ? lengths_v4_ : lengths_v6_) {
        const int bits = v4 ? length + 96 : length;
        const auto code = static_cast<std::uint8_t>(v4 ? length : length + v6_code);
        if (look({high & mask(bits), low & mask(bits - 64), code})) {
            return rule;
        }
    }
    rule = find_at(any_node, probe);
    return rule == FlatTable<Rest>::absent ? std::nullopt : std::optional<std::size_t>(rule);
}

} // namespace egress::policy
