// [egress] rules -> the tables in which the kernel looks up (abi.h), built in advance.
//
// Each dimension of a check (destination, port, protocol, user, group, program, ancestry, cgroup,
// place) has a table from its value to the set of rules that the value satisfies, as a bit vector.
// A check ANDs one vector of each table, and the lowest bit is the first rule that matches: the
// cost does not depend on the number of rules or prefixes. Equal vectors are stored once.
//
// A destination's vector holds the rules of every prefix around it, so the longest prefix is
// enough. IPv4: a table of the first 16 bits and, for entries that longer prefixes divide, the runs
// of addresses with the same vector, for a binary search: a list of a million hosts takes 4.5 MiB,
// and a lookup in it two cache lines. IPv6: the first 16 bits, then a hash of hosts and a
// longest-prefix table.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"
#include "daemon/bpf/tables/places.h"
#include "daemon/policy/rules/rule.h"

namespace egress::bpf {

/// Ids first..first + count - 1.
struct IdRange {
    std::uint32_t first = 0;
    std::uint32_t count = 0;
    friend auto operator<=>(const IdRange&, const IdRange&) = default;
};

/// Id ranges with who lends them.
using Lenders = std::vector<std::pair<IdRange, std::uint32_t>>;
/// The user that a uid counts as: the first who lends it, or itself.
std::uint32_t user_of(const Lenders& lenders, std::uint32_t uid);

/// What a policy names and only the running system knows.
struct World {
    /// The files that a program's path leads to now; none if it does not exist.
    std::function<std::vector<egress_file>(const std::string& path)> files;
    /// The places of a program or a tree in its file systems, whether it exists or not; several for
    /// a tree with mounts below it.
    std::function<std::vector<Place>(const std::string& path, bool tree)> places;
    /// The ids that /etc/subuid and /etc/subgid lend to a user or a group.
    std::function<std::vector<IdRange>(std::uint32_t id, bool group)> subordinate;
    /// All ids that /etc/subuid lends, with the user that they count as; and the daemon's own uid,
    /// which counts as root.
    Lenders lenders;
    /// Paths of the loaders (ld.so): started themselves, they run any program.
    std::vector<std::string> loaders;
    std::int64_t wall_at_boot = 0; ///< seconds since the epoch when the boot clock was 0
    /// egress_config.path_key of the hooks that will look names up.
    std::array<std::uint64_t, 2> names_key{};
    /// The host's own domains: their names may have private addresses.
    std::vector<std::string> search;
};

/// Index of a vector.
using Index = std::uint32_t;

template <typename Key>
using Table = std::vector<std::pair<Key, Index>>; ///< sorted by key, each key once

using Command = std::array<char, EGRESS_COMMAND_SIZE>; ///< zero-padded
struct FileLess {
    bool operator()(const egress_file& a, const egress_file& b) const {
        return std::tie(a.inode, a.device, a.generation, a.path) <
               std::tie(b.inode, b.device, b.generation, b.path);
    }
};
struct Host6Key {
    std::array<std::uint8_t, 16> address;
    friend auto operator<=>(const Host6Key&, const Host6Key&) = default;
};
struct Prefix6Key {
    std::array<std::uint8_t, 16> address;
    std::uint8_t length; ///< 17..127
    friend auto operator<=>(const Prefix6Key&, const Prefix6Key&) = default;
};

struct IdPrefix {
    std::uint32_t id;
    std::uint32_t length; ///< bits, from the highest on
    friend auto operator<=>(const IdPrefix&, const IdPrefix&) = default;
};

/// The tables of one policy. Movable, large (about a megabyte without lists).
struct Tables {
    std::unique_ptr<egress_base> base;
    std::vector<egress_vector> vectors;
    std::vector<egress_runs> runs;
    std::vector<egress_names> names; ///< base->names_buckets; filled by egress_put_name()
    std::uint32_t has_sockets = 0;   ///< not 0: some rule is for sockets of AF_UNIX
    std::size_t names_used = 0;      ///< different patterns in it
    Table<Host6Key> hosts6;
    Table<Prefix6Key> prefixes6;
    std::size_t prefixes = 0; ///< that have an effect, of both families
    Table<std::uint32_t> uids;
    Table<std::uint32_t> gids;
    Table<IdPrefix> uid_ranges; ///< subordinate ids
    Table<IdPrefix> gid_ranges;
    std::vector<std::pair<IdPrefix, std::uint32_t>> lenders; ///< uids; sorted, each prefix once
    Table<Command> commands;
    std::vector<std::pair<egress_file, Index>> programs; ///< sorted by FileLess
    std::vector<std::pair<egress_file, Index>> parents;
    std::vector<std::pair<egress_file, Index>> unders;
    std::vector<std::pair<Place, egress_path_rules>> trees; ///< by "dir/", "program\0"; abi.h
};

/// Whether to compare a program's path as text: for a process in a container only its own name of
/// the file is known, as the path leads to another file on the host, or to none.
bool by_recorded_path(const policy::EgressOptions& options);
/// Whether the rule refuses something to a program that it names.
bool refuses_program(const policy::EgressRule& rule);

/// The tables of policy.egress. Fails if a rule exceeds a limit (too many rules, too many windows);
/// the error has the rule's place.
Result<Tables> compile(const policy::Policy& policy, const World& world, std::uint64_t generation);

} // namespace egress::bpf
