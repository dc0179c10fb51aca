/* What arrives: peers that may be answered, and answers of resolvers. Nothing is refused here for
 * good: a segment of a resolver that could not be read yet is dropped, and comes again. */
#ifndef EGRESS_BPF_RECEIVE_H
#define EGRESS_BPF_RECEIVE_H

#include "answer.h"
#include "stream.h"

SEC("cgroup_skb/ingress")
int egress_receive(struct __sk_buff* skb) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!settings || !settings->generation || (!settings->reads_names && is_no_datagram(skb))) {
        return 1;
    }
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (sk && may_have_dns(sk, settings) && !egress_read_dns(skb, 0, settings->generation, 0)) {
        return EGRESS_REFUSE;
    }
    if (!is_no_datagram(skb)) {
        note_received(skb);
    }
    return 1;
}

#endif
