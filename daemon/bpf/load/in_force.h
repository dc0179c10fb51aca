// What is in force, read from the kernel itself: the pins, the settings that the hooks read, the
// links. Works without a loaded kernel side.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace egress::bpf {

/// What decides in the kernel, whichever daemon put it there.
struct InForce {
    std::uint64_t generation = 0; ///< of this version's policy; 0: none
    bool monitor = false;         ///< it judges and reports, and refuses nothing
    bool other_version = false;   ///< another version's hooks judge, alone or as well
    bool jobs = false;            ///< runs of egressctl go on
    bool something() const { return generation != 0 || other_version; }
};

/// Reads what is pinned in that directory.
InForce pinned_in_force(const std::string& pins);

/// Whether another version's pins are below that directory.
bool others_set_aside(const std::string& pins);

/// EGRESS_ABI of the pins there; nullopt: there are none.
std::optional<std::uint32_t> pinned_abi(const std::string& pins);

/// Why the hook pinned there is no longer attached; nullopt: it is attached.
std::optional<std::string> why_detached(const std::string& pin);

} // namespace egress::bpf
