/*
 * What the plugin for BIND needs of us, in C, because BIND's headers are C.
 *
 * A plugin is told an address, not a descriptor, and the descriptor is the proof: so the reporter
 * finds the socket among those of its process. Any number of threads may report at once.
 */
#ifndef EGRESS_NAMED_REPORTER_H
#define EGRESS_NAMED_REPORTER_H

#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

struct named_reporter;

/* How a query came. */
enum named_way {
    NAMED_DATAGRAM, /* UDP: whoever sent it may have forged its source */
    NAMED_VERIFIED, /* UDP, with a cookie that proves its source */
    NAMED_STREAM    /* TCP, with TLS or without */
};

/* A connection to egressd at that path, or at the usual one (NULL). NULL with errno ENOMEM or
 * ENAMETOOLONG; that no egressd runs is no error. */
struct named_reporter* named_reporter_open(const char* path);

/* Reports that a query was refused. `local` and `remote` are the addresses of both ends. Never
 * waits, allocates nothing, leaves errno alone. 0, or an errno value where nobody will see it. */
int named_reporter_refused(struct named_reporter* reporter, enum named_way way,
                           const struct sockaddr* remote, const struct sockaddr* local,
                           const char* message);

/* NULL does nothing. */
void named_reporter_close(struct named_reporter* reporter);

#ifdef __cplusplus
}
#endif

#endif /* EGRESS_NAMED_REPORTER_H */
