// Finds the descriptor of this process that is the connection of the client that logs in.
//
// PAM does not pass it, so the module searches the sockets of its process. It prefers no result to
// a wrong one: it must never take a connection that the service made (to LDAP, to a database) for
// the client's, or the directory server would be blocked.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

namespace egress {

/// Numeric text ("192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1") into a socket
/// address with port 0; IPv4-mapped becomes IPv4. Never resolves names. Returns the length of
/// the address; 0: the text is no address.
socklen_t parse_numeric(const char* text, sockaddr_storage& out);

/// The connected TCP socket whose remote address is `remote`; among several, one whose local port
/// is not ephemeral, then the lowest number. A socket on an ephemeral port counts only if it has
/// SO_REUSEADDR, which accepted sockets inherit and client sockets do not set.
/// -1: none. The service keeps the descriptor.
int find_socket_of(const sockaddr_storage& remote);

/// For a client that hung up before the module ran: a TCP socket that has no peer, does not listen
/// and is still bound to a port outside the ephemeral range, which identifies the service. Only of
/// a family that `remote` can arrive on, and only if all such sockets have the same port. -1: none,
/// or ambiguous.
int find_reset_socket(const sockaddr_storage& remote);

/// The client's socket if its address is unknown: a connected TCP socket on a local port outside
/// the ephemeral range, from a remote port of at least 1024 (so not a service's), and only if all
/// such sockets have the same remote address. -1: none, or ambiguous.
int find_only_socket();

/// Stores the remote address of a connected socket in `out`. Returns its length, or 0 with `out`
/// unchanged.
socklen_t peer_of(int fd, sockaddr_storage& out);

} // namespace egress
