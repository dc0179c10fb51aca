// The pins that keep the kernel half alive without a daemon: held by the daemon that uses them, and
// taken away by whoever wants none of it any more. Plain files: no libbpf here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress::bpf {

/// Tells others, as long as the descriptor is open, that a daemon uses what is pinned there.
Fd hold_pins(const std::string& directory);
/// Whether some daemon does.
bool pins_held(const std::string& directory);

/// Whether anything is pinned there, by whatever version.
bool has_pins(const std::string& directory);

/// Unpins everything in the directory, also what was set aside: without a daemon that holds them,
/// programs and tables go. How many pins there were; a directory that is not there has none. The
/// directory itself stays: the daemon may not have the right to make it again.
Result<std::size_t> remove_pins(const std::string& directory);

/// The same without what was set aside.
Result<std::size_t> remove_own_pins(const std::string& directory);

/// Makes room for the pins of this version where another one's are, which go on working: moves them
/// into a directory of their own below.
Result<> set_pins_aside(const std::string& directory, std::uint32_t abi);
Result<std::size_t> remove_pins_set_aside(const std::string& directory);

} // namespace egress::bpf
