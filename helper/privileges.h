// Reduces the rights of the process to those that the helper needs.
#pragma once

namespace egress::helper {

/// Drops every capability except CAP_NET_ADMIN for good. A failure is ignored, and the kernel
/// reports missing rights later.
void keep_only_net_admin();

} // namespace egress::helper
