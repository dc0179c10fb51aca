// Files that root makes in a directory of another user's belong to that user.
//
// The unit runs egressd as its own user; a start by hand or by the init script runs it as root in
// the same directories. What root made there the unit could not open.
#pragma once

#include <string>

#include <sys/types.h>

namespace egress {

/// While it lives, this thread makes and opens files with the rights of the directory's owner, so
/// that nothing which the owner puts there leads it elsewhere. Files that root has left there go to
/// the owner first. Does nothing for other users than root, and in root's own directories.
class AsOwner {
  public:
    explicit AsOwner(const std::string& directory);
    ~AsOwner();
    AsOwner(const AsOwner&) = delete;
    AsOwner& operator=(const AsOwner&) = delete;

  private:
    bool changed_ = false;
    uid_t user_ = 0; ///< before
    gid_t group_ = 0;
};

} // namespace egress
