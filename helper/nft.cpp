#include "helper/nft.h"

#include <algorithm>
#include <cerrno>

#include <arpa/inet.h>
#include <libnftnl/common.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#include "helper/attributes.h"

namespace egress::helper {

namespace {

constexpr std::size_t first_buffer = 4096;
constexpr std::size_t header_room = 256; ///< for headers and the batch's own begin and end
constexpr std::uint16_t new_generation = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN;

std::uint32_t generation_in(const nlmsghdr* message) {
    for (const nlattr* attribute : Attributes(message, sizeof(nfgenmsg))) {
        if (mnl_attr_get_type(attribute) == NFTA_GEN_ID &&
            mnl_attr_validate(attribute, MNL_TYPE_U32) >= 0) {
            return ntohl(mnl_attr_get_u32(attribute));
        }
    }
    return 0;
}

} // namespace

Batch::Batch(Netlink& netlink, std::uint32_t generation)
    : first_sequence_(netlink.next_sequence()) {
    nlmsghdr* const header = nftnl_batch_begin(reserve(0), first_sequence_);
    if (generation != 0) {
        mnl_attr_put_u32(header, NFNL_BATCH_GENID, htonl(generation));
    }
    size_ = MNL_ALIGN(header->nlmsg_len);
    // If the first message requests an echo, the kernel sends it the new generation, and blames it
    // for errors without a culprit. So the first message changes nothing: it makes our table, which
    // exists or comes next.
    nlmsghdr* const first = open(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ECHO, header_room);
    mnl_attr_put_strz(first, NFTA_TABLE_NAME, table_name);
    close();
}

char* Batch::reserve(std::size_t room) {
    const std::size_t wanted = size_ + room + header_room;
    if (buffer_.size() < wanted) {
        buffer_.resize(std::max({wanted, 2 * buffer_.size(), first_buffer}));
    }
    return buffer_.data() + size_;
}

nlmsghdr* Batch::open(std::uint16_t type, std::uint16_t flags, std::size_t room, int owner) {
    char* const place = reserve(room);
    last_ = size_;
    owners_.push_back(owner);
    const auto sequence = first_sequence_ + static_cast<std::uint32_t>(owners_.size());
    return nftnl_nlmsg_build_hdr(place, type, NFPROTO_INET, flags, sequence);
}

void Batch::close() {
    size_ = last_ + MNL_ALIGN(last()->nlmsg_len);
}

/// Reads the kernel's answers to a batch: all of them are queued when the send returns.
Result<> conclude(Netlink& netlink, const Batch& batch, Outcome& outcome) {
    const std::size_t count = batch.owners_.size();
    bool answered = false;
    while (true) {
        const auto datagram = netlink.receive(answered ? MSG_DONTWAIT : 0);
        if (!datagram && datagram.error().code == ENOBUFS) {
            // More errors than our buffer has room for.
            outcome.refusals.push_back({Batch::shared, ENOBUFS});
            answered = true;
            continue;
        }
        if (!datagram) {
            const bool complete = answered && datagram.error().code == EAGAIN;
            return complete ? Result<>{} : std::unexpected(datagram.error());
        }
        for_each_message(*datagram, [&](const nlmsghdr* message) {
            const std::uint32_t nth = message->nlmsg_seq - batch.first_sequence_;
            if (message->nlmsg_type == new_generation && nth <= 1) {
                outcome.generation = generation_in(message);
            }
            if (message->nlmsg_type != NLMSG_ERROR || nth > count + 1) {
                return; // a late answer to an earlier request
            }
            answered = true;
            const int code = message_error(message);
            if (code == ERESTART) {
                outcome.stale = true;
            } else if (code != 0) {
                const bool owned = nth >= 1 && nth <= count;
                outcome.refusals.push_back({owned ? batch.owners_[nth - 1] : Batch::shared, code});
            }
        });
    }
}

Result<Outcome> commit(Netlink& netlink, Batch& batch) {
    Outcome outcome;
    if (batch.empty()) {
        return outcome;
    }
    // The kernel acknowledges only on request; the last acknowledgement means that it read all.
    batch.last()->nlmsg_flags |= NLM_F_ACK;
    const auto end = batch.first_sequence_ + static_cast<std::uint32_t>(batch.owners_.size()) + 1;
    netlink.used_sequence(end);
    const nlmsghdr* const trailer = nftnl_batch_end(batch.reserve(0), end);
    const auto sent = netlink.send(batch.buffer_.data(), batch.size_ + trailer->nlmsg_len);
    if (!sent) {
        if (sent.error().code != EMSGSIZE && sent.error().code != ENOBUFS) {
            return std::unexpected(sent.error());
        }
        outcome.refusals.push_back({Batch::shared, sent.error().code});
        return outcome;
    }
    if (auto concluded = conclude(netlink, batch, outcome); !concluded) {
        return std::unexpected(concluded.error());
    }
    return outcome;
}

nlmsghdr* request_header(char* buffer, std::uint16_t type, std::uint16_t flags) {
    return nftnl_nlmsg_build_hdr(buffer, type, NFPROTO_INET, flags, 0);
}

Result<std::uint32_t> generation(Netlink& netlink) {
    char buffer[256];
    std::uint32_t found = 0;
    const auto take = [&](const nlmsghdr* message) { found = generation_in(message); };
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETGEN, 0);
    if (auto asked = netlink.ask(
            request, [] {}, take);
        !asked) {
        return std::unexpected(asked.error());
    }
    return found;
}

} // namespace egress::helper
