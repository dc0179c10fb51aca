// What the kernel goes by, read from the kernel itself: the pins, the settings that the hooks read,
// the links. Nothing here needs a loaded kernel half.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace egress::bpf {

/// What decides in the kernel, whichever start of whichever version put it there.
struct InForce {
    std::uint64_t generation = 0; ///< of this version's policy; 0: none
    bool monitor = false;         ///< it judges and records, and refuses nothing
    bool other_version = false;   ///< another version's hooks judge, too or alone
    bool something() const { return generation != 0 || other_version; }
};

/// By what is pinned in that directory.
InForce pinned_in_force(const std::string& pins);

/// Whether another version's hooks are kept below that directory.
bool others_set_aside(const std::string& pins);

/// EGRESS_ABI of what is pinned there; nullopt: nothing is.
std::optional<std::uint32_t> pinned_abi(const std::string& pins);

/// Why the hook that is pinned there is not attached any more; nullopt: it is.
std::optional<std::string> why_detached(const std::string& pin);

} // namespace egress::bpf
