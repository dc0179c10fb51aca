// What resolv.conf(5) says of the host's resolvers.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/address.h"

namespace egress {

struct ResolvConf {
    std::vector<Address> nameservers; ///< each once, in the order of the file, without "%scope"
    /// Domains of the host, in lower case without the final dot: of the last "search" or "domain".
    std::vector<std::string> search;
    friend bool operator==(const ResolvConf&, const ResolvConf&) = default;
};

/// A file that cannot be read, or is none, has nothing; what it has beyond a bound is left out.
ResolvConf read_resolv_conf(const std::string& path);

} // namespace egress
