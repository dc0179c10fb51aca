// What the running kernel sets as a limit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace egress::bpf {

/// The kernel's coarse clocks advance once per tick. 0: unknown, and no verdict is reused.
std::uint64_t ticks_of_a_second();

/// The system's limit of processes: with as many entries, each process has one.
std::uint32_t processes_possible();

/// Entries of the map pinned there; nullopt: there is no pin. It cannot be adopted with another
/// size.
std::optional<std::uint32_t> pinned_entries(const std::string& pin);

} // namespace egress::bpf
