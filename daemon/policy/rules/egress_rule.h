// Lines of [egress] as values: which process may connect and send where.
//
// The first line that matches decides. The values repeat the text: paths and names are unresolved.
// parser.h makes them, print.h prints them, daemon/bpf/compile.h compiles them into the kernel's
// tables.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/clock.h"
#include "daemon/policy/rules/field.h"
#include "daemon/policy/rules/name_patterns.h"

namespace egress::policy {

/// Lines; millions of addresses belong in lists.
inline constexpr std::size_t max_egress_rules = 1024;
inline constexpr std::size_t max_program_path = 251; ///< bytes of a program's path
inline constexpr std::size_t max_command = 15;       ///< bytes of a command name, as the kernel's
inline constexpr std::size_t max_port_ranges = 128;  ///< in one line; adjoining ones are joined
inline constexpr std::size_t max_spans = 16; ///< of the week in one line; adjoining ones are joined

/// Ports from first to last, both included, in host byte order.
struct PortRange {
    std::uint16_t first = 0;
    std::uint16_t last = 0;
    friend auto operator<=>(const PortRange&, const PortRange&) = default;
};

/// First column.
struct Destination {
    enum class Kind : std::uint8_t {
        any,       ///< "*"
        prefix,    ///< `prefix`; no host bits set
        name,      ///< `text`, a DNS name in lower case without the final dot
        below,     ///< "*.text": one label before it
        any_below, ///< "**.text": one label or more before it
        list,      ///< "@text": the file `text` of egress.d/
        internet,  ///< any global unicast address: neither private nor local nor multicast
        private_,  ///< RFC 1918, shared (100.64/10), link-local, unique local
        local,     ///< loopback, and the unspecified address, which the kernel treats as loopback
        multicast, ///< 224/4 and ff00::/8
        broadcast, ///< 255.255.255.255, on every network
        socket,    ///< "unix:text": a socket of AF_UNIX, a path, "@name" or "*"
    };
    Kind kind = Kind::any;
    Prefix prefix;
    std::string text;
    std::vector<PortRange> ports; ///< sorted, neither overlapping nor adjoining; empty: any port
    friend bool operator==(const Destination&, const Destination&) = default;
};

/// Fourth column: "user", "user:group", ":group". Real ids of the process in the initial
/// user namespace.
struct EgressOwner {
    std::optional<std::uint32_t> uid; ///< nullopt: any
    std::optional<std::uint32_t> gid;
    friend bool operator==(const EgressOwner&, const EgressOwner&) = default;
};

/// Fifth column.
struct Program {
    enum class Kind : std::uint8_t {
        any,     ///< "*"
        path,    ///< the absolute path `text`
        tree,    ///< "text/**": every program below the directory `text` ("": the root)
        command, ///< the command name `text`, which any process may choose at exec
    };
    Kind kind = Kind::any;
    std::string text;
    friend bool operator==(const Program&, const Program&) = default;
};

/// Sixth column.
struct Verdict {
    enum class Kind : std::uint8_t {
        allow,
        deny,     ///< EPERM
        reject,   ///< ECONNREFUSED
        redirect, ///< to `target`
        ask,      ///< deny now, ask the operator
    };
    Kind kind = Kind::allow;
    Endpoint target;
    friend bool operator==(const Verdict&, const Verdict&) = default;
};

/// "allow", "deny", "reject", "redirect", "ask": by Verdict::Kind.
std::string_view verdict_name(Verdict::Kind kind);
std::span<const std::string_view> verdict_names();
std::optional<Verdict::Kind> verdict_of(std::string_view name);

/// "when=Mon-Fri/08:00-18:00": minutes of the local day, `to` excluded. A window whose `to` is not
/// after `from` ends the next day.
struct Window {
    std::bitset<7> days;     ///< bit 0 is Monday; all set if no day was given
    std::uint16_t from = 0;  ///< 0..1439
    std::uint16_t to = 1440; ///< 1..1440
    friend bool operator==(const Window&, const Window&) = default;
};

/// "token=5-6", both ends included.
struct TokenRange {
    std::uint64_t least = 0;
    std::uint64_t most = 0;
    friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

/// Seventh column. nullopt: not given.
struct EgressOptions {
    enum class Level : std::uint8_t { internet, network, all };

    // Who.
    std::optional<TokenRange> token;
    std::string parent; ///< path of the program that forked the process; empty: any
    std::string under;  ///< path of an ancestor's program; empty: any
    std::string cgroup; ///< path below the cgroup2 root, "/guests.slice"; covers its children
    std::string unit;   ///< name of a systemd unit, "nginx.service"; empty: any
    std::optional<bool> container; ///< true "container", false "host"
    // Where.
    bool resolved = false; ///< only addresses that an approved resolver gave as an answer
    bool rebind = false;   ///< "rebind=allow": private addresses for names of others, too
    // When.
    std::vector<Window> when;          ///< one of them must hold; empty: always
    std::optional<std::int64_t> until; ///< seconds since the epoch
    // What happens.
    bool audit = false; ///< record the verdict, do not enforce it
    bool log = false;   ///< also report allowed attempts as events
    bool quiet = false; ///< no event
    bool alarm = false;
    bool trap = false;
    bool kill = false; ///< when the rule ends, close the connections that it allowed
    std::optional<std::uint32_t> nfail;
    std::optional<Setting<Seconds>> disable;
    std::optional<Level> level;
    friend bool operator==(const EgressOptions&, const EgressOptions&) = default;
};

/// A line of [egress].
struct EgressRule {
    Place place;
    Destination destination;
    std::optional<int> type; ///< SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, a number; nullopt: any
    Protocol protocol;
    EgressOwner owner;
    Program program;
    Verdict verdict;
    EgressOptions options;
};

/// [dns]: which answers name a destination.
struct Dns {
    std::vector<Endpoint> resolvers; ///< approved; none: those of /etc/resolv.conf
    std::optional<Seconds> grace;    ///< how long after its TTL an answer still holds
    std::optional<bool> refresh;     ///< look the names of lines up again before their grants end
    /// "queries listed": programs may ask resolvers only for names that their lines name; false:
    /// "queries any".
    std::optional<bool> queries_listed;
    /// What becomes of a connection to port 53 or 853 where no resolver is approved, if the line
    /// that allows it names no ports.
    enum class Others : std::uint8_t { allow, alarm, refuse };
    std::optional<Others> others;
    bool judges_others() const { return others.value_or(Others::allow) != Others::allow; }
    static constexpr Seconds usual_grace = 60;
    std::optional<Place> place; ///< of the first line; nullopt: the section has none
};

/// Whether the destination is a name or a pattern of names.
bool is_name(const Destination& destination);
/// Of such a destination; valid as long as the destination.
NamePatterns::Pattern pattern_of(const Destination& destination);

/// A file of egress.d/ with one prefix or name per line.
struct AddressList {
    std::string name; ///< as in "@name"
    std::string file;
    std::vector<Prefix> prefixes;
    NamePatterns names;
};

/// "internet" and so on; empty: the destination is no class.
std::string_view class_name(Destination::Kind kind);
std::optional<Destination::Kind> class_of(std::string_view name);

/// Number of spans of the week in the windows. Adjoining spans count as one; a span across Sunday's
/// midnight counts as two. At most max_spans in a parsed rule.
std::size_t count_spans(const std::vector<Window>& windows);

bool same_meaning(const EgressRule& a, const EgressRule& b);
bool same_meaning(const Dns& a, const Dns& b);
bool same_meaning(const AddressList& a, const AddressList& b);

} // namespace egress::policy
