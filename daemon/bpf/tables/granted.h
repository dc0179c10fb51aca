// By which names an address goes now, and which addresses a name has: for people.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/bpf/abi.h"
#include "daemon/policy/rules/rule.h"

namespace egress::bpf {

/// A grant, read from the sets that the hooks write.
struct Granted {
    Address address;
    std::string name; ///< as the rules have it, "*.example.org"; "": some name, which no line has
    std::uint64_t until = 0; ///< boot clock, nanoseconds
    std::uint64_t key = 0;   ///< of the grant
};

/// What `grants` (EGRESS_GRANTS_SETS of them; null: none) has of the address. Looks every name of
/// the rules up: with a million of them it takes a second.
std::vector<Granted> granted_to(const policy::Policy& policy,
                                const std::array<std::uint64_t, 2>& names_key,
                                const egress_grants* grants, const Address& address,
                                std::uint64_t now);

/// The addresses by which lines for this name match now, at most `most`: for the name itself, and
/// for each pattern around it.
std::vector<Granted> granted_by(const policy::Policy& policy,
                                const std::array<std::uint64_t, 2>& names_key,
                                const egress_grants* grants, std::string_view name,
                                std::uint64_t now, std::size_t most);

/// Which lines have the name, by themselves or by their list: indexes into policy.egress, in order.
std::vector<std::size_t> lines_with(const policy::Policy& policy, std::string_view name);

} // namespace egress::bpf
