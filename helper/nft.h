// Transactions of nf_tables: batches that commit or fail whole, and who in them is to blame.
//
// This file knows messages, sequence numbers and errors; what is in the messages is the business of
// layout.h (table, chains, sets, rules) and elements.h (set elements).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "helper/netlink.h"

namespace egress::helper {

inline constexpr const char* table_name = "egress";

/// How a commit ended.
struct Outcome {
    struct Refusal {
        int owner; ///< of the message; Batch::nobody where no single message is to blame
        int code;  ///< errno
    };
    std::vector<Refusal> refusals; ///< empty: committed
    bool stale = false;            ///< the ruleset was not of the batch's generation any more
    std::uint32_t generation = 0;  ///< that the commit made; 0 where it changed nothing

    bool committed() const { return refusals.empty() && !stale; }
};

/// The messages of one transaction, in order. Messages are written in place; the buffer grows.
class Batch {
  public:
    static constexpr int nobody = -1; ///< owner of a message that serves the whole batch

    /// `generation`: commit only if the ruleset is still this one (0: whatever it is).
    Batch(Netlink& netlink, std::uint32_t generation);

    /// Starts a message of `type` (NFT_MSG_*) with at least `room` bytes to write after its header.
    /// The pointer is valid until close(); `owner` is told by Outcome when the kernel refuses it.
    nlmsghdr* open(std::uint16_t type, std::uint16_t flags, std::size_t room, int owner = nobody);
    void close();

    bool empty() const { return owners_.size() == 1; } ///< but for what begins each
    std::size_t size() const { return size_; }

  private:
    friend Result<Outcome> commit(Netlink&, Batch&);
    friend Result<> conclude(Netlink&, const Batch&, Outcome&);

    char* reserve(std::size_t room);
    nlmsghdr* last() { return reinterpret_cast<nlmsghdr*>(buffer_.data() + last_); }

    std::vector<char> buffer_;
    std::size_t size_ = 0;         ///< bytes of finished messages
    std::size_t last_ = 0;         ///< where the message being written, or the last one, begins
    std::uint32_t first_sequence_; ///< of the batch's begin; message n has first + 1 + n
    std::vector<int> owners_;      ///< of each message
};

/// Commits the batch in one transaction. An error is one of the conversation; the kernel's verdict
/// is the outcome.
Result<Outcome> commit(Netlink& netlink, Batch& batch);

/// The ruleset's generation: changes with every commit, ours or another's.
Result<std::uint32_t> generation(Netlink& netlink);

/// Writes the header of a request outside a batch into `buffer` (the family is inet).
nlmsghdr* request_header(char* buffer, std::uint16_t type, std::uint16_t flags);

} // namespace egress::helper
