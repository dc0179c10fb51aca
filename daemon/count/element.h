// One block, as the ledger and the firewall exchange it.
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
    Seconds seconds = forever; ///< remaining
    bool reject = false;
    std::string id; ///< the helper's handle; empty: none
};

} // namespace egress
