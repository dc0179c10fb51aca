// Lines of [egress] as values: which process may connect and send where.
//
// The first line that matches decides. Everything here is what the text said: paths and names are
// not looked up. parser.h makes them, print.h writes them back, daemon/bpf/compile.h makes of them
// what the kernel looks up.
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

namespace egress::policy {

inline constexpr std::size_t max_egress_rules =
    1024; ///< lines; addresses by the million go in lists
inline constexpr std::size_t max_program_path = 251; ///< bytes of a program's path
inline constexpr std::size_t max_command = 15;       ///< bytes of a command name, as the kernel's
inline constexpr std::size_t max_port_ranges = 128;  ///< in one line, joined where they touch
inline constexpr std::size_t max_spans = 16; ///< of a week in one line's windows, joined likewise

/// Ports from first to last, both included, host byte order.
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
        name,      ///< `text`, a DNS name in lower case without the dot at its end
        below,     ///< "*.text": one label before it
        any_below, ///< "**.text": one label or more before it
        list,      ///< "@text": the file `text` of egress.d/
        internet,  ///< any global unicast address: neither private nor local nor multicast
        private_,  ///< RFC 1918, shared (100.64/10), link-local, unique local
        local,     ///< loopback, and the unspecified address, which the kernel takes for loopback
    };
    Kind kind = Kind::any;
    Prefix prefix;
    std::string text;
    std::vector<PortRange> ports; ///< sorted, neither overlapping nor adjoining; empty: any port
    friend bool operator==(const Destination&, const Destination&) = default;
};

/// Fourth column: "user", "user:group", ":group". Real ids of the process, as the initial user
/// namespace numbers them.
struct EgressOwner {
    std::optional<std::uint32_t> uid; ///< nothing: any
    std::optional<std::uint32_t> gid;
    friend bool operator==(const EgressOwner&, const EgressOwner&) = default;
};

/// Fifth column.
struct Program {
    enum class Kind : std::uint8_t {
        any,     ///< "*"
        path,    ///< the absolute path `text`
        tree,    ///< "text/**": every program below the directory `text` ("" for the root)
        command, ///< the command name `text`, which any process may give itself at exec
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

/// "when=Mon-Fri/08:00-18:00": minutes of the local day, `to` not included. A window whose `to` is
/// not after its `from` ends the next day.
struct Window {
    std::bitset<7> days;     ///< bit 0 is Monday; all set where no day was given
    std::uint16_t from = 0;  ///< 0..1439
    std::uint16_t to = 1440; ///< 1..1440
    friend bool operator==(const Window&, const Window&) = default;
};

/// "token=5-6", both included.
struct TokenRange {
    std::uint64_t least = 0;
    std::uint64_t most = 0;
    friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

/// Seventh column. Absent fields were not given.
struct EgressOptions {
    enum class Level : std::uint8_t { internet, network, all };

    // Who.
    std::optional<TokenRange> token;
    std::string parent; ///< path of the program that forked the process; empty: any
    std::string under;  ///< path of the program of any ancestor
    std::string cgroup; ///< path below the cgroup2 root, "/guests.slice"; also all below it
    std::string unit;   ///< name of a systemd unit, "nginx.service"
    std::optional<bool> container; ///< true "container", false "host"
    // When.
    std::vector<Window> when;          ///< any of them
    std::optional<std::int64_t> until; ///< seconds since the epoch
    // What happens.
    bool audit = false; ///< record what would be, do not enforce
    bool log = false;   ///< an event for what is allowed, too
    bool quiet = false; ///< no event
    bool alarm = false;
    bool trap = false;
    bool kill = false; ///< when the rule ends, cut what it let through
    std::optional<std::uint32_t> nfail;
    std::optional<Setting<Seconds>> disable;
    std::optional<Level> level;
    friend bool operator==(const EgressOptions&, const EgressOptions&) = default;
};

/// A line of [egress].
struct EgressRule {
    Place place;
    Destination destination;
    std::optional<int> type; ///< SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, a number; nothing: any
    Protocol protocol;
    EgressOwner owner;
    Program program;
    Verdict verdict;
    EgressOptions options;
};

/// A file of egress.d/, one prefix or name a line.
struct AddressList {
    std::string name; ///< as in "@name"
    std::string file;
    std::vector<Prefix> prefixes;
    std::vector<Destination> names; ///< of kinds name, below, any_below; no ports
};

/// "internet", "private" or "local"; empty: the destination is no class.
std::string_view class_name(Destination::Kind kind);
std::optional<Destination::Kind> class_of(std::string_view name);

/// Why this version cannot enforce the line ("the option token is not there yet"); empty: it can.
std::string not_yet(const EgressRule& rule);
/// The same of a list: whether it has names. Its prefixes work.
std::string not_yet(const AddressList& list);

/// Spans of the week that the windows come to, those that touch as one; what crosses Sunday's
/// midnight is two. At most max_spans in a rule that was parsed.
std::size_t count_spans(const std::vector<Window>& windows);

bool same_meaning(const EgressRule& a, const EgressRule& b);
bool same_meaning(const AddressList& a, const AddressList& b);

} // namespace egress::policy
