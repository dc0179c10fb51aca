// What the ledger and the firewall say to each other of one block.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/base/address.h"
#include "daemon/base/clock.h"

namespace egress {

/// An element of the firewall, wanted or found.
struct Element {
    std::string name;
    Prefix address;
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;
    Seconds seconds = forever; ///< that remain
    bool reject = false;
    std::string id; ///< helper's handle, if it gave one
};

} // namespace egress
