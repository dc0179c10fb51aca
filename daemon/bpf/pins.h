// The pins that keep the kernel side alive without a daemon. The daemon that uses them holds them;
// `egressctl detach` removes them. They are plain files: no libbpf here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress::bpf {

/// Marks the directory as used by a daemon, as long as the descriptor is open.
Fd hold_pins(const std::string& directory);
/// Whether a daemon holds it.
bool pins_held(const std::string& directory);

/// Whether anything is pinned there, by any version.
bool has_pins(const std::string& directory);

/// Unpins everything in the directory, including the pins set aside: unless a daemon holds them,
/// the kernel frees programs and tables. Returns the number of pins; 0 if the directory does not
/// exist. The directory itself stays: the daemon may lack the right to create it again.
Result<std::size_t> remove_pins(const std::string& directory);

/// The same without the pins set aside.
Result<std::size_t> remove_own_pins(const std::string& directory);

/// Moves the pins of another version into a directory below, to make room for this version's. What
/// they pin stays in force.
Result<> set_pins_aside(const std::string& directory, std::uint32_t abi);
Result<std::size_t> remove_pins_set_aside(const std::string& directory);

} // namespace egress::bpf
