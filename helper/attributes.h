// The attributes of a netlink message or of a nested attribute, as a range. libmnl's own loops are
// macros that do not compile as C++.
#pragma once

#include <cstddef>

#include <libmnl/libmnl.h>

namespace egress::helper {

class Attributes {
  public:
    /// The attributes after the protocol's own header of `header_size` bytes.
    Attributes(const nlmsghdr* message, std::size_t header_size)
        : begin_{static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, header_size)),
                 static_cast<const char*>(mnl_nlmsg_get_payload_tail(message))} {}

    explicit Attributes(const nlattr* nest)
        : begin_{static_cast<const nlattr*>(mnl_attr_get_payload(nest)),
                 static_cast<const char*>(mnl_attr_get_payload(nest)) +
                     mnl_attr_get_payload_len(nest)} {}

    struct End {};

    struct Iterator {
        const nlattr* at;
        const char* end;

        const nlattr* operator*() const { return at; }
        Iterator& operator++() {
            at = mnl_attr_next(at);
            return *this;
        }
        bool operator!=(End) const {
            return mnl_attr_ok(at, static_cast<int>(end - reinterpret_cast<const char*>(at)));
        }
    };

    Iterator begin() const { return begin_; }
    static End end() { return {}; }

  private:
    Iterator begin_;
};

} // namespace egress::helper
