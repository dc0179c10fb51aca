// What the process may do: only what the helper needs.
#pragma once

namespace egress::helper {

/// Gives up every capability but CAP_NET_ADMIN, for good. What cannot be given up is kept: the
/// kernel says soon enough where there is too little.
void keep_only_net_admin();

} // namespace egress::helper
