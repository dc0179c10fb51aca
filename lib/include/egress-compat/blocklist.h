/* The name under which NetBSD and FreeBSD install this interface. */
#include <egress-blocklist.h>
