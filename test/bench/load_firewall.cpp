#include "load_firewall.h"

#include <array>
#include <cstring>

#include <arpa/inet.h>
#include <err.h>
#include <libnftnl/common.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <poll.h>
#include <sys/socket.h>

#include "helper/attributes.h"

namespace egress::bench {

namespace {

using helper::Attributes;

Netlink open_netlink() {
    Netlink socket(mnl_socket_open(NETLINK_NETFILTER));
    if (!socket || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
        err(1, "cannot open netlink");
    }
    return socket;
}

const nlattr* find(Attributes attributes, std::uint16_t type) {
    for (const nlattr* attribute : attributes) {
        if (mnl_attr_get_type(attribute) == type) {
            return attribute;
        }
    }
    return nullptr;
}

void visit_elements(const nlmsghdr* message, const std::function<void(std::uint32_t)>& visit) {
    const nlattr* const list =
        find(Attributes(message, sizeof(nfgenmsg)), NFTA_SET_ELEM_LIST_ELEMENTS);
    if (list == nullptr) {
        return;
    }
    for (const nlattr* element : Attributes(list)) {
        const nlattr* const key = find(Attributes(element), NFTA_SET_ELEM_KEY);
        const nlattr* const value =
            key == nullptr ? nullptr : find(Attributes(key), NFTA_DATA_VALUE);
        if (value != nullptr && mnl_attr_get_payload_len(value) >= 4) {
            std::uint32_t address = 0;
            std::memcpy(&address, mnl_attr_get_payload(value), sizeof address);
            visit(address);
        }
    }
}

} // namespace

Listener::Listener() : socket_(open_netlink()) {
    const int group = NFNLGRP_NFTABLES;
    const int room = 256 << 20; // a hundred thousand elements at once
    if (mnl_socket_setsockopt(socket_.get(), NETLINK_ADD_MEMBERSHIP, const_cast<int*>(&group),
                              sizeof group) != 0) {
        err(1, "cannot listen to nftables");
    }
    setsockopt(mnl_socket_get_fd(socket_.get()), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
}

bool Listener::receive(std::chrono::milliseconds timeout,
                       const std::function<void(std::uint32_t)>& visit) {
    pollfd waiting{mnl_socket_get_fd(socket_.get()), POLLIN, 0};
    if (poll(&waiting, 1, static_cast<int>(timeout.count())) <= 0) {
        return false;
    }
    alignas(nlmsghdr) std::array<char, 65536> buffer;
    const auto got = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
    if (got < 0) {
        err(1, "news of nftables were lost");
    }
    int rest = static_cast<int>(got);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data());
         mnl_nlmsg_ok(message, rest); message = mnl_nlmsg_next(message, &rest)) {
        if (message->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM)) {
            visit_elements(message, visit);
        }
    }
    return true;
}

RawAdder::RawAdder() : socket_(open_netlink()) {}

void RawAdder::add(std::uint32_t address) {
    struct FreeSet {
        void operator()(nftnl_set* set) const { nftnl_set_free(set); }
    };
    const std::unique_ptr<nftnl_set, FreeSet> set(nftnl_set_alloc());
    nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, "floor");
    nftnl_set_set_str(set.get(), NFTNL_SET_NAME, "s");
    nftnl_set_elem* const element = nftnl_set_elem_alloc();
    std::array<std::uint8_t, 12> key{};
    std::memcpy(key.data(), &address, sizeof address);
    key[4] = IPPROTO_UDP;
    key[9] = 53;
    nftnl_set_elem_set(element, NFTNL_SET_ELEM_KEY, key.data(), key.size());
    nftnl_set_elem_set_u64(element, NFTNL_SET_ELEM_TIMEOUT, 3'600'000);
    nftnl_set_elem_add(set.get(), element);

    alignas(nlmsghdr) std::array<char, 8192> buffer;
    mnl_nlmsg_batch* const batch = mnl_nlmsg_batch_start(buffer.data(), buffer.size());
    const auto next = [&] { return static_cast<char*>(mnl_nlmsg_batch_current(batch)); };
    nftnl_batch_begin(next(), sequence_++);
    mnl_nlmsg_batch_next(batch);
    nlmsghdr* const message = nftnl_nlmsg_build_hdr(next(), NFT_MSG_NEWSETELEM, NFPROTO_INET,
                                                    NLM_F_CREATE | NLM_F_ACK, sequence_++);
    nftnl_set_elems_nlmsg_build_payload(message, set.get());
    mnl_nlmsg_batch_next(batch);
    nftnl_batch_end(next(), sequence_++);
    mnl_nlmsg_batch_next(batch);
    if (mnl_socket_sendto(socket_.get(), mnl_nlmsg_batch_head(batch), mnl_nlmsg_batch_size(batch)) <
        0) {
        err(1, "cannot add an element");
    }
    mnl_nlmsg_batch_stop(batch);
    const auto got = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
    const auto* const answer = reinterpret_cast<const nlmsghdr*>(buffer.data());
    if (got < 0 || answer->nlmsg_type != NLMSG_ERROR ||
        static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(answer))->error != 0) {
        errx(1, "the kernel refused an element");
    }
}

} // namespace egress::bench
