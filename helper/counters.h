// For which names each element counts the packets that it stops.
#pragma once

#include <string_view>

namespace egress::helper {

/// As the environment variable EGRESS_COUNTERS says: names with commas between, or "*"; without it
/// none. An element's counter takes the kernel as long to make as the rest of the element, and
/// longer the more there are.
bool counts_packets(std::string_view name);

/// The same for a value of the variable; null: not set.
bool counts_packets(std::string_view name, const char* names);

} // namespace egress::helper
