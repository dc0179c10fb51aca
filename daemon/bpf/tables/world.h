// The files, places and ids that a policy names, as they are on this system now.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/base/resolv_conf.h"
#include "daemon/bpf/tables/compile.h"
#include "daemon/bpf/tables/places.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/rules/rule.h"

namespace egress::bpf {

/// What the system has of the names in a policy.
struct Inventory {
    std::map<PathQuery, Named> paths;
    /// Replaced files that processes still run, by their former path.
    std::map<std::string, std::vector<egress_file>> running;
    std::vector<std::string> loaders;                      ///< also in `paths`
    std::map<std::uint32_t, std::vector<IdRange>> subuids; ///< by the user who has them
    std::map<std::uint32_t, std::vector<IdRange>> subgids;
    ResolvConf resolv; ///< empty unless the policy needs answers
    Lenders lenders;   ///< as in struct World
    friend bool operator==(const Inventory& a, const Inventory& b);

    /// The files that a program's path leads to.
    std::vector<egress_file> files(const std::string& path) const;
};

/// Asks the system; `name` as for find_places().
Result<Inventory> take_inventory(const policy::Policy& policy, const NameFiles& name);
/// Whether lines go by what resolvers answer.
bool needs_answers(const policy::Policy& policy);
bool needs_answers(const policy::Policy& policy, const policy::EgressRule& rule);
/// What the system says of its resolvers now.
ResolvConf current_resolv_conf();
/// The resolvers whose answers count: those of [dns], else those of the system.
std::vector<Endpoint> resolvers_of(const policy::Policy& policy, const Inventory& inventory);

/// For compile(); refers to the inventory.
World world_of(const Inventory& inventory, const Clock& clock);
/// Does both; the world owns its inventory.
std::optional<World> world_of(const policy::Policy& policy, const NameFiles& name,
                              const Clock& clock);

/// Warns of what hides answers of resolvers, of lines whose cgroup or unit does not exist now, of
/// those whose program is one of many in a file, and of users with subordinate ids.
std::vector<policy::Diagnostic> check_system(const policy::Policy& policy);

/// All ranges of a subuid(5) file with the users that they count as. Root's count as their first
/// id, as they are for containers; those of users without a number are left out.
Lenders read_lenders(const std::string& file, const std::string& passwd);
/// The ranges of `id` in a subuid(5) file: lines "user:first:count", the user by name or number.
std::vector<IdRange> read_subordinate(const std::string& file, const std::string& passwd,
                                      std::uint32_t id);

} // namespace egress::bpf
