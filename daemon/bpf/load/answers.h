// Answers of the DNS, the daemon's side: which resolvers count, and what was granted.
#pragma once

#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"

namespace egress::bpf {

/// Tells the hooks, by the map `namings`, what names add to a check if no line has any.
Result<> fill_namings(int map);

/// Makes the map `resolvers` hold these and no others. The new ones come first, so that one that
/// stays counts all the time.
Result<> set_resolvers(int map, const std::vector<Endpoint>& wanted);

/// The map `grants`, for reading; the hooks write it meanwhile.
class GrantSets {
  public:
    static Result<GrantSets> open(int map);
    GrantSets() = default;
    GrantSets(GrantSets&& other) noexcept;
    GrantSets& operator=(GrantSets&& other) noexcept;
    ~GrantSets();

    const egress_grants* all() const { return sets_; } ///< EGRESS_GRANTS_SETS; null: none
    std::size_t in_force(std::uint64_t now) const;     ///< grants that have not ended

  private:
    const egress_grants* sets_ = nullptr;
};

} // namespace egress::bpf
