// What a text of rules refers to outside of itself.
#pragma once

#include <string>

namespace egress::policy {

/// Where a text takes from what does not stand in it.
struct Sources {
    std::string lists; ///< directory of the files that "@name" stands for; empty: none, an error
    std::string root;  ///< of the system that names and programs are looked up in; empty: this one
};

} // namespace egress::policy
