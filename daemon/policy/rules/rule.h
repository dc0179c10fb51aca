// Rules as values: what a line of the rules file means, free of text and of indexes.
//
// parser.h makes them from text, print.h writes them back, match.h finds the one that decides.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/clock.h"
#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/rules/field.h"

namespace egress::policy {

inline constexpr std::size_t max_name = 63;   ///< bytes of a name
inline constexpr std::size_t max_suffix = 31; ///< bytes of "-x"; leaves 32 for the -R name

/// First column of [local], [remote] and [trusted].
struct Location {
    std::optional<Prefix> prefix;      ///< nothing: any address
    std::string interface;             ///< not empty: only reports that came in on it ([local])
    std::optional<std::uint16_t> port; ///< host byte order; nothing: any
    friend bool operator==(const Location&, const Location&) = default;
};

/// "/len" of the name column: count the remote address at this length. One length up to 32 is for
/// IPv4, or for IPv6 on a line that is for IPv6 alone; over 32 it is for IPv6; "/24/64" gives both.
struct Aggregate {
    std::optional<std::uint8_t> v4; ///< 1..32; nothing: not given
    std::optional<std::uint8_t> v6; ///< 1..128
    bool inherit = false;           ///< "/=": what [local] said ([remote] only)
    friend bool operator==(const Aggregate&, const Aggregate&) = default;
};

/// Fifth column. The rule's name is the name of the nftables set that its blocks go to.
/// In [remote], what "=" does not replace stays as [local] said, family by family; another name
/// without a length counts whole addresses.
struct Name {
    enum class Kind : std::uint8_t {
        standard, ///< "*", or in [local] nothing before "/len": the daemon's -R name
        append,   ///< "-x": the -R name with "-x" after it; `text` holds "-x"
        literal,  ///< `text`
        inherit,  ///< "=", or nothing before "/len": what [local] said ([remote] only)
    };
    Kind kind = Kind::standard;
    std::string text;
    Aggregate aggregate;
    friend bool operator==(const Name&, const Name&) = default;
};

/// Eighth column, "key=value" and flags with commas between. Absent fields were not given.
struct Options {
    struct Grow {
        std::uint8_t length = 0; ///< up to 32: for IPv4 addresses; over 32: for IPv6
        std::uint32_t count = 0;
        friend bool operator==(const Grow&, const Grow&) = default;
    };
    std::optional<std::uint32_t> escalate_percent; ///< escalate=1.5 is 150; each repeat multiplies
    std::optional<Seconds> max;                    ///< ceiling for escalated times
    std::optional<Seconds> window;                 ///< failures older than this no longer count
    std::vector<Grow> grow;                        ///< at most one per family
    std::optional<bool> kill;      ///< cut the live connections of a blocked address
    std::optional<bool> reject;    ///< true "reject", false "drop" (the default)
    std::optional<bool> spoofable; ///< count unverified UDP sources
    friend bool operator==(const Options&, const Options&) = default;
};

/// A line of [local] or [remote].
struct Rule {
    Place place;
    Location location;
    std::optional<int> type; ///< SOCK_STREAM, SOCK_DGRAM, a number; nothing: any
    Protocol protocol;
    std::optional<std::uint32_t> owner; ///< uid; nothing: any
    Name name;
    Setting<std::uint32_t> nfail; ///< unlimited: never blocks
    Setting<Seconds> disable;     ///< unlimited: for ever
    Options options;
};

/// A line of [trusted]: this owner may report for this service without a descriptor.
struct Trusted {
    Place place;
    Location location;
    std::optional<int> type;
    Protocol protocol;
    std::optional<std::uint32_t> owner;
};

/// A line of [settings]: what the daemon's options do not cover.
struct Settings {
    std::optional<std::uint64_t> rows; ///< bound of the table; nothing: a million
    friend bool operator==(const Settings&, const Settings&) = default;
};

/// Equal in everything but the place.
bool same_meaning(const Rule& a, const Rule& b);
bool same_meaning(const Trusted& a, const Trusted& b);

/// Family of the addresses that a line can match: AF_INET, AF_INET6, or AF_UNSPEC for both.
int family_of(const Location& location, const Protocol& protocol);

/// Everything that the rules files said, in the order of the text.
struct Policy {
    std::vector<Rule> local;
    std::vector<Rule> remote;
    std::vector<Trusted> trusted;
    std::vector<EgressRule> egress;
    std::vector<std::shared_ptr<const AddressList>> lists; ///< each that [egress] names, once
    Settings settings;
};

bool same_meaning(const Policy& a, const Policy& b);

} // namespace egress::policy
