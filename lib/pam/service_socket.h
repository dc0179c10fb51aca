// Which descriptor of this process is the connection of the client that logs in?
//
// A PAM module is not told. It looks at the sockets that its process holds, and is careful rather
// than eager: a connection that the service itself made (to LDAP, to a database) must never be
// taken for the client's, or the directory server would be blocked.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

namespace egress {

/// Numeric text ("192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1") into a socket
/// address with port 0; IPv4-mapped becomes IPv4. Names are never looked up. Returns the length
/// of the address, 0 where the text is none.
socklen_t parse_numeric(const char* text, sockaddr_storage& out);

/// The connected TCP socket whose remote address is `remote`; among several, one whose local port
/// is no ephemeral one, then the lowest number. A socket on an ephemeral port counts only where it
/// has SO_REUSEADDR, which accepted sockets inherit and client sockets do not set.
/// -1: none. The descriptor stays the service's.
int find_socket_of(const sockaddr_storage& remote);

/// For a client that hung up before anybody could ask: a TCP socket that has neither a peer nor
/// listens and is still bound to a port outside the ephemeral range, which says what service it
/// was. Only of a family that `remote` can arrive on, and only if all such sockets have the same
/// port. -1: none, or ambiguous.
int find_reset_socket(const sockaddr_storage& remote);

/// The client's socket where its address is unknown: a connected TCP socket on a local port outside
/// the ephemeral range, from a remote port that is no service's (1024 and up), and only if all such
/// sockets have the same remote address. -1: none, or ambiguous.
int find_only_socket();

/// The remote address of a connected socket into `out`; its length, or 0 with `out` untouched.
socklen_t peer_of(int fd, sockaddr_storage& out);

} // namespace egress
