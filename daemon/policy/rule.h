// Rules as values: what a line of the rules file means, free of text and of indexes.
//
// parser.h makes them from text, print.h writes them back, match.h finds the one that decides.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/address.h"
#include "daemon/clock.h"

namespace egress::policy {

/// Where a line stands, for messages. Columns count from 1.
struct Place {
    std::string file;
    int line = 0;
    int column = 0;
    std::string text() const; ///< "file:line:column" without what is 0; safe to print
};

inline constexpr std::size_t max_name = 63;         ///< bytes of a name
inline constexpr std::size_t max_suffix = 31;       ///< bytes of "-x"; leaves 32 for the -R name
inline constexpr Seconds max_duration = 2147483647; ///< longest time that is not "*"

/// First column of [local], [remote] and [trusted].
struct Location {
    std::optional<Prefix> prefix;      ///< nothing: any address
    std::string interface;             ///< not empty: only reports that came in on it ([local])
    std::optional<std::uint16_t> port; ///< host byte order; nothing: any
    friend bool operator==(const Location&, const Location&) = default;
};

/// Third column: "tcp", "tcp4", "tcp6", the same of "udp", a number, "*".
struct Protocol {
    std::optional<int> number; ///< IPPROTO_*; nothing: any
    int family = AF_UNSPEC;    ///< AF_INET, AF_INET6 for the forms that end in 4, 6
    friend bool operator==(const Protocol&, const Protocol&) = default;
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

/// A number column that may also be "*" or "=".
template <typename T>
struct Setting {
    enum class Kind : std::uint8_t { value, unlimited, inherit };
    Kind kind = Kind::value;
    T value{};
    friend bool operator==(const Setting&, const Setting&) = default;
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

/// A line of [egress], checked for its columns only: this version does not enforce it.
struct EgressLine {
    Place place;
    std::vector<std::string> columns; ///< destination type proto owner program action [options]
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
    std::vector<EgressLine> egress;
    Settings settings;
};

bool same_meaning(const Policy& a, const Policy& b);

} // namespace egress::policy
