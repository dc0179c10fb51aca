// Hears of changes that other programs make to our table: the kernel tells who listens.
#pragma once

#include <cstdint>
#include <vector>

#include "helper/netlink.h"

namespace egress::helper {

class Listener {
  public:
    static Result<Listener> open();

    /// Becomes readable when any program has changed any table.
    int fd() const { return netlink_.fd(); }

    /// Stops and starts hearing; what was to be heard before stays.
    void pause();
    Result<> resume();

    /// Takes in what is there, without waiting. True: a program other than that of the port id
    /// `own` has changed our table, or so much has changed that the kernel dropped some of it.
    bool changed(std::uint32_t own);

  private:
    explicit Listener(Netlink netlink) : netlink_(std::move(netlink)) {}

    Netlink netlink_;
};

} // namespace egress::helper
