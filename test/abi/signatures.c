/* The interface as version 1 promised it. This file only ever grows. */
#include <egress.h>

#define PROMISE(name, condition) typedef char name[(condition) ? 1 : -1]

PROMISE(auth_ok_is_0, EGRESS_AUTH_OK == 0);
PROMISE(auth_fail_is_1, EGRESS_AUTH_FAIL == 1);
PROMISE(abusive_is_2, EGRESS_ABUSIVE == 2);
PROMISE(bad_user_is_3, EGRESS_BAD_USER == 3);
PROMISE(verified_is_0x100, EGRESS_VERIFIED == 0x100);

int (*const report)(int, int, const char*) = egress_report;
int (*const report_sa)(int, int, const struct sockaddr*, socklen_t, const char*) = egress_report_sa;
struct egress* (*const open_handle)(void) = egress_open;
int (*const report_r)(struct egress*, int, int, const char*) = egress_report_r;
int (*const report_sa_r)(struct egress*, int, int, const struct sockaddr*, socklen_t,
                         const char*) = egress_report_sa_r;
void (*const close_handle)(struct egress*) = egress_close;
