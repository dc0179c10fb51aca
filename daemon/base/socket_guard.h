// Sees to it that the sockets that we listen on can be found: makes one anew that somebody removed.
//
// A listening socket whose file is gone stays open, but no client reaches it. inotify tells of
// changes at once; a check each second finds what it misses, as a directory that was removed and
// made again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "daemon/base/loop.h"
#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress {

class SocketGuard {
  public:
    /// Makes the socket of the path anew and listens on it.
    using Remake = std::function<Result<>(const std::string& path)>;

    struct Guarded {
        std::string path;
        bool listening = true;
        std::uint64_t remade = 0;
        std::string last_error; ///< why it cannot be made anew; empty: it could
    };

    /// Without inotify the look each second remains, and the log says so.
    explicit SocketGuard(sd_event* event);

    /// The path must be listened on now.
    void add(const std::string& path, Remake remake);
    /// Call once a second.
    void tick() { check(); }
    const std::vector<Guarded>& sockets() const { return sockets_; }

  private:
    struct File {
        dev_t device = 0;
        ino_t inode = 0;
        Remake remake;
    };
    void drain();
    void check();
    void watch_directory(const std::string& path);
    void check(Guarded& guarded, File& file);

    Fd inotify_;
    Source source_;
    std::vector<Guarded> sockets_;
    std::vector<File> files_; ///< of each socket
};

} // namespace egress
