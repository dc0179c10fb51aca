// Rules as values: the meaning of the lines of the rules files, without text or indexes.
//
// parser.h makes them from text, print.h prints them, match.h finds the one that decides.
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

/// The owner of a line whose user does not exist; no process has this uid.
inline constexpr std::uint32_t no_user = 0xffffffff;
inline constexpr std::size_t max_name = 63;   ///< bytes of a name
inline constexpr std::size_t max_suffix = 31; ///< bytes of "-x"; leaves 32 for the -R name

/// First column of [local], [remote] and [trusted].
struct Location {
    std::optional<Prefix> prefix;      ///< nullopt: any address
    std::string interface;             ///< only reports that arrived on it ([local]); empty: any
    bool self = false;                 ///< only addresses of this host ([remote])
    std::optional<std::uint16_t> port; ///< host byte order; nullopt: any
    friend bool operator==(const Location&, const Location&) = default;
};

/// "/len" of the name column: count the remote address at this length. A single length up to 32
/// is for IPv4, or for IPv6 on a line for IPv6 only; above 32 it is for IPv6; "/24/64" gives both.
struct Aggregate {
    std::optional<std::uint8_t> v4; ///< 1..32; nullopt: not given
    std::optional<std::uint8_t> v6; ///< 1..128
    bool inherit = false;           ///< "/=": the value of [local] ([remote] only)
    friend bool operator==(const Aggregate&, const Aggregate&) = default;
};

/// Fifth column. The rule's name is the name of the nftables set that its blocks go to.
/// In [remote], the parts that the line does not replace stay as in [local], family by family;
/// another name without a length counts whole addresses.
struct Name {
    enum class Kind : std::uint8_t {
        standard, ///< "*", or in [local] only "/len": the daemon's -R name
        append,   ///< "-x": the -R name followed by "-x"; `text` is "-x"
        literal,  ///< `text`
        inherit,  ///< "=", or only "/len": the name of [local] ([remote] only)
    };
    Kind kind = Kind::standard;
    std::string text;
    Aggregate aggregate;
    friend bool operator==(const Name&, const Name&) = default;
};

/// Eighth column: "key=value" and flags, separated by commas. nullopt: not given.
struct LoginOptions {
    struct Grow {
        std::uint8_t length = 0; ///< up to 32: for IPv4 addresses; above 32: for IPv6
        std::uint32_t count = 0;
        friend bool operator==(const Grow&, const Grow&) = default;
    };
    std::optional<std::uint32_t>
        escalate_percent;          ///< escalate=1.5 is 150; each repetition multiplies
    std::optional<Seconds> max;    ///< ceiling for escalated times
    std::optional<Seconds> window; ///< failures older than this no longer count
    std::vector<Grow> grow;        ///< at most one per family
    std::optional<bool> kill;      ///< close the connections of a blocked address
    std::optional<bool> reject;    ///< true "reject", false "drop" (the default)
    std::optional<bool> spoofable; ///< count unverified UDP sources
    std::optional<bool> by_name;   ///< true "count=name": one count for all services of the name
    std::optional<bool> all_ports; ///< true "ports=all": a block closes every port and protocol
    std::optional<bool> keep;      ///< true "success=keep": a success changes nothing
    friend bool operator==(const LoginOptions&, const LoginOptions&) = default;
};

/// A line of [local] or [remote].
struct Rule {
    Place place;
    Location location;
    std::optional<int> type; ///< SOCK_STREAM, SOCK_DGRAM, a number; nullopt: any
    Protocol protocol;
    std::optional<std::uint32_t> owner; ///< uid; nullopt: any
    std::string absent_owner;           ///< a name that no user has: `owner` is no_user
    Name name;
    Setting<std::uint32_t> nfail; ///< unlimited: never blocks
    Setting<Seconds> disable;     ///< unlimited: for ever
    LoginOptions options;
};

/// A line of [trusted]: this owner may report for this service without a descriptor, and with one
/// of another network namespace.
struct Trusted {
    Place place;
    Location location;
    std::optional<int> type;
    Protocol protocol;
    std::optional<std::uint32_t> owner;
    std::string absent_owner; ///< as in Rule
    std::string cgroup;       ///< only from processes in it or below; empty: from all
};

/// True if the line is for reports of this service.
bool is_for(const Trusted& line, const Endpoint& local, int type, int protocol);

/// The lines of [settings]: settings without an option of the daemon.
struct Settings {
    std::optional<std::uint64_t> rows; ///< bound of the table; nullopt: a million
    friend bool operator==(const Settings&, const Settings&) = default;
};

/// Equal in everything but the place.
bool same_meaning(const Rule& a, const Rule& b);
bool same_meaning(const Trusted& a, const Trusted& b);

/// Family of the addresses that a line can match: AF_INET, AF_INET6; AF_UNSPEC: both.
int family_of(const Location& location, const Protocol& protocol);

/// The content of all rules files, in the order of the text.
struct Policy {
    std::vector<Rule> local;
    std::vector<Rule> remote;
    std::vector<Trusted> trusted;
    std::vector<EgressRule> egress;
    std::vector<std::shared_ptr<const AddressList>> lists; ///< each list that [egress] names, once
    Settings settings;
    Dns dns;
};

bool same_meaning(const Policy& a, const Policy& b);

} // namespace egress::policy
