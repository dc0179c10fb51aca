// What the rules of a policy name, as this system has it now.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/bpf/tables/compile.h"
#include "daemon/bpf/tables/places.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/rules/rule.h"

namespace egress::bpf {

/// What the system said to the questions of a policy.
struct Inventory {
    std::map<PathQuery, Named> paths;
    /// Files that were replaced and still run, by the path they had.
    std::map<std::string, std::vector<egress_file>> running;
    std::map<std::uint32_t, std::vector<IdRange>> subuids; ///< by the user they are lent to
    std::map<std::uint32_t, std::vector<IdRange>> subgids;
    friend bool operator==(const Inventory& a, const Inventory& b);

    /// The files that a program's path stands for.
    std::vector<egress_file> files(const std::string& path) const;
};

/// Asks the system; without `name` as find_places() does.
Result<Inventory> take_inventory(const policy::Policy& policy, const NameFiles& name);
/// For compile(); refers to the inventory.
World world_of(const Inventory& inventory, const Clock& clock);
/// Both, with a world that owns its inventory.
std::optional<World> world_of(const policy::Policy& policy, const NameFiles& name,
                              const Clock& clock);

/// Warnings of lines whose cgroup or unit does not exist now, and of users with subordinate ids.
std::vector<policy::Diagnostic> check_system(const policy::Policy& policy);

/// Lines "user:first:count" of subuid(5), the user by name or number: what is lent to `id`.
std::vector<IdRange> read_subordinate(const std::string& file, const std::string& passwd,
                                      std::uint32_t id);

} // namespace egress::bpf
