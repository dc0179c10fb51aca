/* The older name under which NetBSD and FreeBSD installed this interface. */
#include <egress-blocklist.h>
