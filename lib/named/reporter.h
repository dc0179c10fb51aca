/*
 * The reporting interface for the BIND plugin; in C, because BIND's headers are C.
 *
 * BIND gives a plugin an address and no descriptor, but the descriptor is the proof: so the
 * reporter searches the descriptors of its process. Any number of threads may report at once.
 */
#ifndef EGRESS_NAMED_REPORTER_H
#define EGRESS_NAMED_REPORTER_H

#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

struct named_reporter;

/* The transport of a query. */
enum named_way {
    NAMED_DATAGRAM, /* UDP: its source may be forged */
    NAMED_VERIFIED, /* UDP, with a cookie that proves its source */
    NAMED_STREAM    /* TCP, with TLS or without */
};

/* Opens a connection to egressd at `path` (NULL: the default path). On failure returns NULL with
 * errno ENOMEM or ENAMETOOLONG. It is no error if egressd is not running. */
struct named_reporter* named_reporter_open(const char* path);

/* Reports that a query was refused. `local` and `remote` are the addresses of both ends. Never
 * waits, allocates no memory, preserves errno. Returns 0, or an errno value if egressd will not get
 * the report. */
int named_reporter_refused(struct named_reporter* reporter, enum named_way way,
                           const struct sockaddr* remote, const struct sockaddr* local,
                           const char* message);

/* Closes the connection and frees the reporter. NULL: does nothing. */
void named_reporter_close(struct named_reporter* reporter);

#ifdef __cplusplus
}
#endif

#endif /* EGRESS_NAMED_REPORTER_H */
