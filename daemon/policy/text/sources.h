// The files outside a rules text that it refers to.
#pragma once

#include <string>

namespace egress::policy {

/// Directories for what a rules text refers to.
struct Sources {
    std::string lists; ///< directory of the lists "@name"; empty: a list is an error
    std::string root;  ///< root of the system that has the names and programs; empty: this one
};

} // namespace egress::policy
