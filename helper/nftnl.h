// Ownership for libnftnl's objects.
#pragma once

#include <memory>

namespace egress::helper {

/// A unique_ptr that frees with libnftnl's own function, const or not.
template <typename Object, typename Free>
auto make_nftnl(Object* object, Free* release) {
    const auto closer = [release](Object* held) { release(held); };
    return std::unique_ptr<Object, decltype(closer)>(object, closer);
}

} // namespace egress::helper
