// Closes descriptors that strangers sent, where closing may take as long as it likes.
//
// close() of somebody else's descriptor can wait: for SO_LINGER, for a FUSE server's flush. So what
// a user other than root sent, and what lingers, is closed on a thread of that user's own (a lane);
// a user whose lane is stuck holds up nobody but himself, and is not read until it moves again.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

namespace egress {

class Closer {
  public:
    Closer();
    ~Closer(); ///< does not wait for stuck lanes: they end with the process

    /// Takes the descriptor. Closes it here where that cannot wait, else in the user's lane.
    /// `protocol` is what the kernel said of it, 0 where nobody has asked.
    void dispose(std::uint32_t uid, int fd, int protocol);
    /// Takes a connection that may still hold unread messages (and the descriptors in them).
    void dispose_connection(std::uint32_t uid, int fd);
    /// The user's lane holds as much as it may: read nothing more from this user for now.
    bool full(std::uint32_t uid) const;

  private:
    struct Lane;
    void push(std::uint32_t uid, int fd);
    std::shared_ptr<Lane> lane_of(std::uint32_t uid);

    std::map<std::uint32_t, std::shared_ptr<Lane>> lanes_;
    std::shared_ptr<Lane> overflow_; ///< shared by users beyond the bound on threads
};

} // namespace egress
