// Finds the interface of a local address, for rules that name an interface.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "daemon/base/address.h"
#include "lib/fd.h"

namespace egress {

class Interfaces {
  public:
    /// Subscribes to the kernel's address notifications and reads the addresses once.
    Interfaces();

    /// Readable when addresses change; -1: the kernel gives no notifications.
    int fd() const { return monitor_.get(); }
    /// Call when fd() is readable: drains it and reads the addresses again.
    void refresh();
    /// Empty: no interface of this network namespace has the address.
    std::string_view name_of(const Address& address) const;

  private:
    Fd monitor_;
    std::map<Address, std::string> names_;
};

} // namespace egress
