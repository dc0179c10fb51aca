// Transactions of nf_tables: batches that commit or fail as a whole, and the messages to blame.
//
// This file handles messages, sequence numbers and errors; layout.h (table, chains, sets, rules)
// and elements.h (set elements) write their content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "helper/netlink.h"

namespace egress::helper {

inline constexpr const char* table_name = "egress";

/// The result of a commit.
struct Outcome {
    struct Refusal {
        int owner; ///< of the message; Batch::shared: no single message is to blame
        int code;  ///< errno
    };
    std::vector<Refusal> refusals; ///< empty: committed
    bool stale = false;            ///< the ruleset no longer had the batch's generation
    std::uint32_t generation = 0;  ///< after the commit; 0: it changed nothing

    bool committed() const { return refusals.empty() && !stale; }
};

/// The messages of one transaction, in order, written in place into a growing buffer.
class Batch {
  public:
    static constexpr int shared = -1; ///< owner of a message for the whole batch

    /// `generation`: commit only if the ruleset still has it (0: any).
    Batch(Netlink& netlink, std::uint32_t generation);

    /// Starts a message of `type` (NFT_MSG_*) with at least `room` bytes to write after its header.
    /// The pointer is valid until close(). Outcome has the `owner` if the kernel refuses the
    /// message.
    nlmsghdr* open(std::uint16_t type, std::uint16_t flags, std::size_t room, int owner = shared);
    void close();

    bool empty() const {
        return owners_.size() == 1;
    } ///< except the message that begins every batch
    std::size_t size() const { return size_; }

  private:
    friend Result<Outcome> commit(Netlink&, Batch&);
    friend Result<> conclude(Netlink&, const Batch&, Outcome&);

    char* reserve(std::size_t room);
    nlmsghdr* last() { return reinterpret_cast<nlmsghdr*>(buffer_.data() + last_); }

    std::vector<char> buffer_;
    std::size_t size_ = 0;         ///< bytes of finished messages
    std::size_t last_ = 0;         ///< offset of the current or last message
    std::uint32_t first_sequence_; ///< of the batch's begin; message n has first_sequence_ + 1 + n
    std::vector<int> owners_;      ///< of each message
};

/// Commits the batch in one transaction. The Outcome has the kernel's verdict; an error means that
/// the exchange with the kernel failed.
Result<Outcome> commit(Netlink& netlink, Batch& batch);

/// The ruleset's generation, which changes with every commit of any process.
Result<std::uint32_t> generation(Netlink& netlink);

/// Writes the header of a request outside a batch into `buffer` (family inet).
nlmsghdr* request_header(char* buffer, std::uint16_t type, std::uint16_t flags);

} // namespace egress::helper
