// Checks the pages of LMDB's file one by one, to make sure that LMDB's next write is safe.
//
// LMDB trusts its pages: a wrong one can crash the process, and LMDB overwrites a used page that
// the list of free pages names. So this walks the tree from the newest head and checks every
// number. The layout is that of liblmdb 0.9 (data version 1) with 64 bits.
#pragma once

#include <optional>
#include <string>

namespace egress::store {

/// What is wrong with the pages of the file, which must have no writer; nullopt: nothing.
std::optional<std::string> page_damage(const std::string& file);

} // namespace egress::store
