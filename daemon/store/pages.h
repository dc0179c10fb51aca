// The pages of LMDB's file, looked at one by one: whether what LMDB will write next is safe.
//
// LMDB trusts its pages: a wrong one can end the process, and a page that is in use but stands in
// the list of free ones is overwritten later. So the tree is walked here from the newest head, with
// every number checked. The layout is that of liblmdb 0.9 (data version 1) with 64 bits.
#pragma once

#include <optional>
#include <string>

namespace egress::store {

/// What is wrong with the pages of the file, which nobody may be writing; nullopt: nothing.
std::optional<std::string> page_damage(const std::string& file);

} // namespace egress::store
