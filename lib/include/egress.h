/*
 * egress.h - tell egressd how a remote peer behaved.
 *
 * A server calls one function when a log-in failed, one when it succeeded. egressd counts,
 * and has the firewall block peers that fail too often. This header is the manual; egress(3)
 * says the same with examples.
 *
 *     if (!password_ok)
 *         (void)egress_report(EGRESS_AUTH_FAIL, client_fd, "wrong password");
 *
 * RESULT. Every report returns 0 when the kernel has queued it for the daemon, or -1 with
 * errno when the daemon will not get it; nothing is dropped silently. 0 does not mean that
 * the daemon has read it: reports still unread are lost when the daemon is killed. Success
 * leaves errno alone. A server should go on in either case: it must run as well without
 * egressd.
 *
 *   ENOENT, ECONNREFUSED  no daemon is running (a server may ignore these)
 *   EAGAIN                the daemon's queue is full; a later try may succeed
 *   EBADF                 fd is neither -1 nor an open descriptor
 *   EINVAL                no such action, or an address that is not AF_INET or AF_INET6 or
 *                         whose salen is too short for its family
 *   EACCES                the socket's permissions or a security module forbid it
 *   EMFILE, ENFILE        no descriptor left for the connection
 *   ETOOMANYREFS          this user has too many descriptors in flight, unread
 *   ENOBUFS, ENOMEM       the kernel has no memory
 *   ENAMETOOLONG          EGRESS_SOCKET does not fit into a socket address
 *   EPIPE, ECONNRESET     the daemon went away twice during one report
 *
 * WHAT IT COSTS. A report never waits: each system call in it is non-blocking. It raises
 * no signal (no SIGPIPE either), writes no log, allocates no memory and keeps no
 * descriptor. Without a daemon it is one failed system call, connect(2).
 *
 * THE CONNECTION. A report carries a duplicate of fd. Until the daemon has read it, close(2)
 * alone does not end the connection: a server that hangs up calls shutdown(2) first, and
 * then gives the client's address to egress_report_sa, because a connection that is shut
 * down or was reset no longer has a peer address. The daemon takes that address from
 * root and from the owners that its rules trust.
 *
 * SIGNAL HANDLERS. The report functions may be called in signal handlers, also while the
 * interrupted code is inside a report, also on the same handle. The forms without a handle
 * read the environment: do not use them in a handler that can interrupt setenv(3) or
 * putenv(3); the forms with a handle do not. egress_open and egress_close call malloc(3)
 * and free(3) and are not for signal handlers.
 *
 * THREADS. Any number of threads may report at once, on one handle too. egress_close must
 * be the last use of its handle, as with free(3). A report is no cancellation point.
 *
 * FORK. Parent and child may both use a handle after fork(2); each report carries the
 * credentials of the process that sent it. Each of them closes its own copy. execve(2) closes
 * the connection.
 *
 * CHROOT AND PRIVILEGES. A handle opened before chroot(2), or before giving up privileges,
 * goes on working. It resolves its path again only after a restart of the daemon, and then
 * inside the new root: "egressd -P" makes further sockets at such places.
 *
 * CLOSED BEHIND OUR BACK. If a program closes all its descriptors, the handle's too, the
 * handle notices: it never writes to and never closes a descriptor that has since got that
 * number; it connects again. (It cannot protect a report from a thread that closes
 * descriptors in the middle of it.)
 *
 * ENVIRONMENT. EGRESS_SOCKET names another socket instead of /run/egress/report.sock. Each
 * report without a handle reads it, and egress_open once; both ignore it when it is empty
 * and in programs that run set-uid, set-gid or with file capabilities.
 */
#ifndef EGRESS_H
#define EGRESS_H

#include <sys/types.h>

#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the remote peer did. */
#define EGRESS_AUTH_OK 0   /* logged in: its count is cleared, its block lifted */
#define EGRESS_AUTH_FAIL 1 /* failed to log in: counts one */
#define EGRESS_ABUSIVE 2   /* did what no honest peer does: block at once */
#define EGRESS_BAD_USER 3  /* tried an account that does not exist: counts one */

/*
 * Or-ed to the action: the server vouches that the source address of an unconnected
 * datagram is not forged (a valid DNS cookie, a completed handshake). Without it, such a
 * report is recorded but does not block, unless the rules say otherwise.
 */
#define EGRESS_VERIFIED 0x100

/* A connection to the daemon. Made by egress_open, released by egress_close. */
struct egress;

/*
 * Report what the peer of fd did.
 *
 * fd is the socket on which the peer is connected (or, for a datagram, the one that received
 * it). It is the proof: the daemon reads the addresses from it. On a port that any
 * user may open (usually from 1024 on) a report counts only if it comes from root, from the
 * owner that the rules name, or is about a socket that root accepted or opened. The caller
 * keeps fd, unchanged. -1: there is none; the daemon takes that from root, and from users
 * that its rules trust, together with an address (see egress_report_sa).
 *
 * msg is text for people and logs, or NULL; at most 1,024 bytes of it are sent, cut at a UTF-8
 * character. It may contain text from the peer unchanged: the daemon escapes it.
 */
int egress_report(int action, int fd, const char* msg);

/*
 * The same with the peer's address (AF_INET or AF_INET6; salen in bytes), for unconnected
 * datagram sockets and for fd -1. On a connected socket the kernel's address counts, not sa.
 * sa NULL with salen 0 is egress_report.
 */
int egress_report_sa(int action, int fd, const struct sockaddr* sa, socklen_t salen,
                     const char* msg);

/*
 * One connection for many reports: four times as fast as a connection each, and
 * independent of a later chroot(2). Returns a handle that the caller owns, or NULL with
 * errno ENOMEM or ENAMETOOLONG. It is no error if the daemon is not running: the
 * handle then connects at the first report after the daemon starts. A handle survives a restart of
 * the daemon: the report that finds the connection broken connects again and is sent.
 */
struct egress* egress_open(void);

/* egress_report and egress_report_sa over a handle, which must not be NULL (EINVAL). */
int egress_report_r(struct egress* handle, int action, int fd, const char* msg);
int egress_report_sa_r(struct egress* handle, int action, int fd, const struct sockaddr* sa,
                       socklen_t salen, const char* msg);

/* Close the connection and free the handle; NULL: do nothing. errno is unchanged. */
void egress_close(struct egress* handle);

#ifdef __cplusplus
}
#endif

#endif /* EGRESS_H */
