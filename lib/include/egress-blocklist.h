/*
 * egress-blocklist.h - the programming interface of NetBSD's and FreeBSD's blocklist(3),
 * and of its older name blacklist(3), on top of egress.h.
 *
 * A server patched for either builds unchanged with this header in place of
 * <blocklist.h> or <blacklist.h>, and -legress in place of -lblocklist or -lblacklist;
 * "pkg-config --variable=compatdir libegress" names a folder with headers of those names.
 * Actions have the same values on both sides; what egress.h promises holds here too.
 *
 * The logger that *_open2 takes is never called: this library does not log.
 */
#ifndef EGRESS_BLOCKLIST_H
#define EGRESS_BLOCKLIST_H

#include <stdarg.h>

#include "egress.h"

#ifdef __cplusplus
extern "C" {
#endif

struct blocklist;
struct blacklist;
struct syslog_data;

#define BLOCKLIST_API_ENUM 1
enum {
    BLOCKLIST_AUTH_OK = EGRESS_AUTH_OK,
    BLOCKLIST_AUTH_FAIL = EGRESS_AUTH_FAIL,
    BLOCKLIST_ABUSIVE_BEHAVIOR = EGRESS_ABUSIVE,
    BLOCKLIST_BAD_USER = EGRESS_BAD_USER
};

#define BLACKLIST_API_ENUM 1
enum {
    BLACKLIST_AUTH_OK = EGRESS_AUTH_OK,
    BLACKLIST_AUTH_FAIL = EGRESS_AUTH_FAIL,
    BLACKLIST_ABUSIVE_BEHAVIOR = EGRESS_ABUSIVE,
    BLACKLIST_BAD_USER = EGRESS_BAD_USER
};

/* "inline" that C89 compilers accept, without a warning for an unused function. */
#if defined(__GNUC__)
#define EGRESS_COMPAT static __inline__ __attribute__((__unused__))
#else
#define EGRESS_COMPAT static
#endif

EGRESS_COMPAT int blocklist(int action, int fd, const char* msg) {
    return egress_report(action, fd, msg);
}

EGRESS_COMPAT int blocklist_sa(int action, int fd, const struct sockaddr* sa, socklen_t salen,
                               const char* msg) {
    return egress_report_sa(action, fd, sa, salen, msg);
}

EGRESS_COMPAT struct blocklist* blocklist_open(void) {
    return (struct blocklist*)(void*)egress_open();
}

EGRESS_COMPAT struct blocklist* blocklist_open2(void (*logger)(int, struct syslog_data*,
                                                               const char*, va_list)) {
    (void)logger;
    return blocklist_open();
}

EGRESS_COMPAT void blocklist_close(struct blocklist* handle) {
    egress_close((struct egress*)(void*)handle);
}

EGRESS_COMPAT int blocklist_r(struct blocklist* handle, int action, int fd, const char* msg) {
    return egress_report_r((struct egress*)(void*)handle, action, fd, msg);
}

EGRESS_COMPAT int blocklist_sa_r(struct blocklist* handle, int action, int fd,
                                 const struct sockaddr* sa, socklen_t salen, const char* msg) {
    return egress_report_sa_r((struct egress*)(void*)handle, action, fd, sa, salen, msg);
}

EGRESS_COMPAT int blacklist(int action, int fd, const char* msg) {
    return egress_report(action, fd, msg);
}

EGRESS_COMPAT int blacklist_sa(int action, int fd, const struct sockaddr* sa, socklen_t salen,
                               const char* msg) {
    return egress_report_sa(action, fd, sa, salen, msg);
}

EGRESS_COMPAT struct blacklist* blacklist_open(void) {
    return (struct blacklist*)(void*)egress_open();
}

EGRESS_COMPAT struct blacklist* blacklist_open2(void (*logger)(int, struct syslog_data*,
                                                               const char*, va_list)) {
    (void)logger;
    return blacklist_open();
}

EGRESS_COMPAT void blacklist_close(struct blacklist* handle) {
    egress_close((struct egress*)(void*)handle);
}

EGRESS_COMPAT int blacklist_r(struct blacklist* handle, int action, int fd, const char* msg) {
    return egress_report_r((struct egress*)(void*)handle, action, fd, msg);
}

EGRESS_COMPAT int blacklist_sa_r(struct blacklist* handle, int action, int fd,
                                 const struct sockaddr* sa, socklen_t salen, const char* msg) {
    return egress_report_sa_r((struct egress*)(void*)handle, action, fd, sa, salen, msg);
}

#undef EGRESS_COMPAT

#ifdef __cplusplus
}
#endif

#endif /* EGRESS_BLOCKLIST_H */
