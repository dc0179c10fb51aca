// Limits how many of a thing each user may hold at a time: a share each, and a reserve for root.
//
// Memory is bounded by the total. Root is uid 0 and the daemon's own user.
#pragma once

#include <cstdint>
#include <map>

#include <unistd.h>

namespace egress {

class Shares {
  public:
    struct Limits {
        unsigned most = 0;
        unsigned of_user = 0;
        unsigned for_root = 0; ///< part of `most` that is reserved for root
    };
    enum class Room { yes, user_has_share, all_taken };

    explicit Shares(Limits limits, std::uint32_t own = geteuid()) : limits_(limits), own_(own) {}

    Room room(std::uint32_t uid) const {
        if (uid == 0 || uid == own_) {
            return total_ < limits_.most ? Room::yes : Room::all_taken;
        }
        return of(uid) >= limits_.of_user ? Room::user_has_share
               : others_ >= limits_.most - limits_.for_root || total_ >= limits_.most
                   ? Room::all_taken
                   : Room::yes;
    }
    void enter(std::uint32_t uid) {
        ++held_[uid];
        ++total_;
        others_ += is_other(uid) ? 1 : 0;
    }
    void leave(std::uint32_t uid) {
        const auto found = held_.find(uid);
        if (found == held_.end()) {
            return;
        }
        --total_;
        others_ -= is_other(uid) ? 1 : 0;
        if (--found->second == 0) {
            held_.erase(found);
        }
    }
    unsigned of(std::uint32_t uid) const {
        const auto found = held_.find(uid);
        return found == held_.end() ? 0 : found->second;
    }
    unsigned total() const { return total_; }
    const std::map<std::uint32_t, unsigned>& users() const { return held_; }
    const Limits& limits() const { return limits_; }

  private:
    bool is_other(std::uint32_t uid) const { return uid != 0 && uid != own_; }

    Limits limits_;
    std::uint32_t own_;
    std::map<std::uint32_t, unsigned> held_;
    unsigned total_ = 0;
    unsigned others_ = 0;
};

} // namespace egress
