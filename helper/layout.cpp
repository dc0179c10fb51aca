#include "helper/layout.h"

#include <array>
#include <charconv>

#include <fmt/format.h>

namespace egress::helper {

namespace {

constexpr std::string_view second_suffix = ".2";
constexpr std::array<std::string_view, 4> shape_suffixes = {"", ".proto", ".port", ".all"};

/// Removes the last ".word" from `text` and returns the word.
std::string_view take_last(std::string_view& text) {
    const auto dot = text.rfind('.');
    if (dot == std::string_view::npos) {
        return {};
    }
    const auto word = text.substr(dot + 1);
    text = text.substr(0, dot);
    return word;
}

} // namespace

Shape shape_of(const Target& target) {
    if (target.protocol != 0) {
        return target.port != 0 ? Shape::exact : Shape::protocol;
    }
    return target.port != 0 ? Shape::port : Shape::all;
}

SetId set_of(std::string name, const Target& target, Action action) {
    return SetId{std::move(name), !target.source.base.is_v4(), target.source.length, action,
                 shape_of(target)};
}

SetId other_turn(SetId set) {
    set.second = !set.second;
    return set;
}

SetId Layout::placed(SetId set) const {
    if (seconds == 0) {
        return set;
    }
    const SetId other = other_turn(set);
    const auto ours = sets.find(set_name(set));
    const auto theirs = sets.find(set_name(other));
    const bool unused = ours == sets.end() || ours->second.rules.empty();
    const bool better =
        theirs != sets.end() && (ours == sets.end() || (unused && !theirs->second.rules.empty()));
    return better ? other : set;
}

std::string set_name(const SetId& set) {
    // nft cannot read a name that begins with a digit; none of ours begins with '_' otherwise.
    const bool digit = set.name[0] >= '0' && set.name[0] <= '9';
    return fmt::format("{}{}.v{}.{}.{}{}{}", digit ? "_" : "", set.name, set.v6 ? 6 : 4, set.length,
                       action_name(set.action), shape_suffixes[static_cast<std::size_t>(set.shape)],
                       set.second ? second_suffix : "");
}

std::optional<SetId> parse_set_name(std::string_view text) {
    SetId set;
    set.action = Action::reject;
    auto rest = text;
    set.second = rest.ends_with(second_suffix);
    if (set.second) {
        rest.remove_suffix(second_suffix.size());
    }
    for (const auto shape : {Shape::protocol, Shape::port, Shape::all}) {
        const auto suffix = shape_suffixes[static_cast<std::size_t>(shape)];
        if (rest.ends_with(suffix)) {
            set.shape = shape;
            rest.remove_suffix(suffix.size());
            break;
        }
    }
    const auto action = take_last(rest);
    for (const auto known : {Action::drop, Action::pass, Action::hold}) {
        set.action = action == action_name(known) ? known : set.action;
    }
    const auto length = take_last(rest);
    std::from_chars(length.data(), length.data() + length.size(), set.length);
    set.v6 = take_last(rest) == "v6";
    set.name = rest.starts_with('_') ? rest.substr(1) : rest;
    // A misread name does not print as the same text.
    const bool ours =
        is_name(set.name) && set.length <= (set.v6 ? 128 : 32) && set_name(set) == text;
    return ours ? std::optional(std::move(set)) : std::nullopt;
}

std::uint32_t key_size(const SetId& set) {
    const std::uint32_t address = set.v6 ? 16 : 4;
    switch (set.shape) {
    case Shape::exact:
        return address + 8;
    case Shape::protocol:
    case Shape::port:
        return address + 4;
    case Shape::all:
        break;
    }
    return address;
}

} // namespace egress::helper
