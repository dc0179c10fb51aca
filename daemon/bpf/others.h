/* [dns] "others": which connections lead to a resolver that may not be approved. */
#ifndef EGRESS_BPF_OTHERS_H
#define EGRESS_BPF_OTHERS_H

#include "abi.h"
#include "steps.h"

/* [dns] "others": what becomes of a connection to port 53 or 853 at an address where no resolver is
 * approved, if the line that allows it names no ports. */
enum egress_others {
    EGRESS_OTHERS_ALLOWED = 0,
    EGRESS_OTHERS_ALARM = 1,
    EGRESS_OTHERS_REFUSED = 2
};

#define EGRESS_DNS_PORT 53
#define EGRESS_DOT_PORT 853 /* DNS over TLS or QUIC */

/* Whether "others" may overrule the rule that has decided, whose flags these are. */
EGRESS_INLINE int egress_may_be_others(const struct egress_flow* flow, __u32 rule_flags) {
    return (flow->port == EGRESS_DNS_PORT || flow->port == EGRESS_DOT_PORT) &&
           !(rule_flags & EGRESS_RULE_PORTS);
}

#endif
