#include "daemon/base/as_owner.h"

#include <filesystem>

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

namespace egress {

namespace {

/// Only plain files with one name: a link to a file elsewhere stays what it is.
void give_files(int directory, const std::string& path, const struct stat& owner) {
    std::error_code code;
    for (auto entry = std::filesystem::directory_iterator(path, code);
         !code && entry != std::filesystem::directory_iterator(); entry.increment(code)) {
        const std::string name = entry->path().filename();
        struct stat file {};
        if (fstatat(directory, name.c_str(), &file, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(file.st_mode) && file.st_nlink == 1 && file.st_uid == 0) {
            // What cannot be given shows where it is opened.
            [[maybe_unused]] const int given =
                fchownat(directory, name.c_str(), owner.st_uid, owner.st_gid, AT_SYMLINK_NOFOLLOW);
        }
    }
}

} // namespace

AsOwner::AsOwner(const std::string& directory) {
    const Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct stat owner {};
    if (geteuid() != 0 || !fd || fstat(fd.get(), &owner) != 0 || owner.st_uid == 0) {
        return;
    }
    give_files(fd.get(), directory, owner);
    group_ = static_cast<gid_t>(setfsgid(owner.st_gid));
    user_ = static_cast<uid_t>(setfsuid(owner.st_uid));
    changed_ = true;
}

AsOwner::~AsOwner() {
    if (changed_) {
        setfsuid(user_);
        setfsgid(group_);
    }
}

} // namespace egress
