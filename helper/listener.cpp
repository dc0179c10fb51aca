#include "helper/listener.h"

#include <cerrno>
#include <cstring>
#include <string_view>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "helper/attributes.h"
#include "helper/nft.h"

namespace egress::helper {

namespace {

constexpr int most_datagrams = 4096; ///< taken in at a time

/// True if the message is about our table. In the messages about tables, chains, rules, sets and
/// elements, the attribute of this number names the table.
bool is_ours(const nlmsghdr* message) {
    constexpr std::uint16_t names_table = NFTA_TABLE_NAME;
    static_assert(names_table == NFTA_CHAIN_TABLE && names_table == NFTA_RULE_TABLE &&
                  names_table == NFTA_SET_TABLE && names_table == NFTA_SET_ELEM_LIST_TABLE);
    const auto type = message->nlmsg_type & 0xffU;
    if (message->nlmsg_type >> 8U != NFNL_SUBSYS_NFTABLES || type == NFT_MSG_NEWGEN ||
        mnl_nlmsg_get_payload_len(message) < sizeof(nfgenmsg)) {
        return false;
    }
    nfgenmsg head{};
    std::memcpy(&head, mnl_nlmsg_get_payload(message), sizeof head);
    if (head.nfgen_family != NFPROTO_INET) {
        return false;
    }
    for (const nlattr* attribute : Attributes(message, sizeof(nfgenmsg))) {
        if (mnl_attr_get_type(attribute) == names_table &&
            mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) == 0) {
            return std::string_view(mnl_attr_get_str(attribute)) == table_name;
        }
    }
    return false;
}

} // namespace

Result<Listener> Listener::open() {
    auto netlink = Netlink::open(NETLINK_NETFILTER);
    if (!netlink) {
        return std::unexpected(netlink.error());
    }
    if (auto joined = netlink->join(NFNLGRP_NFTABLES); !joined) {
        return std::unexpected(joined.error());
    }
    return Listener(std::move(*netlink));
}

void Listener::pause() {
    netlink_.leave(NFNLGRP_NFTABLES);
}

Result<> Listener::resume() {
    return netlink_.join(NFNLGRP_NFTABLES);
}

bool Listener::changed(std::uint32_t own) {
    bool changed = false;
    for (int i = 0; i < most_datagrams; ++i) {
        const auto datagram = netlink_.receive(MSG_DONTWAIT);
        if (!datagram) {
            // ENOBUFS: the buffer ran over. Anything may have happened.
            changed = changed || datagram.error().code == ENOBUFS;
            if (datagram.error().code != ENOBUFS) {
                break;
            }
            continue;
        }
        for_each_message(*datagram, [&](const nlmsghdr* message) {
            changed = changed || (message->nlmsg_pid != own && is_ours(message));
        });
    }
    return changed;
}

} // namespace egress::helper
