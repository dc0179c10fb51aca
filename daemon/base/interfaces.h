// The addresses of this host, and the interface of each, for rules that name an interface or
// "self".
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

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
    /// Every address of this host, in order: those of its interfaces, 127.0.0.0/8 and ::1.
    const std::vector<Prefix>& own() const { return own_; }
    /// True if own() covers the address.
    bool is_own(const Address& address) const;

  private:
    Fd monitor_;
    std::map<Address, std::string> names_;
    std::vector<Prefix> own_ = {*Prefix::parse("127.0.0.0/8"), *Prefix::parse("::1")};
};

} // namespace egress
