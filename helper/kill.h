// Closes connections that are older than their block, by SOCK_DESTROY of socket diagnostics.
#pragma once

#include <cstddef>

#include "helper/exempt.h"
#include "helper/netlink.h"
#include "helper/proto.h"

namespace egress::helper {

/// Destroys every connected TCP and UDP socket of this network namespace whose remote address is in
/// the target's prefix and whose local port and protocol are the target's; IPv4 connections on IPv6
/// sockets too; not those of exempt addresses. The peer of a TCP connection gets a reset. Leaves
/// listening sockets alone.
/// Returns the number of destroyed sockets. Errors: no CAP_NET_ADMIN, a kernel without
/// CONFIG_INET_DIAG_DESTROY, a protocol other than TCP and UDP.
Result<std::size_t> kill_sockets(const Target& target, const Exemptions& exemptions);

} // namespace egress::helper
