// A report socket for tests: the daemon's end, in a directory of its own.
#pragma once

#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include "lib/fd.h"
#include "lib/wire.h"

namespace egress::test {

/// A fresh directory that anyone may enter; removed with the sockets in it.
class TempDir {
  public:
    TempDir() {
        char name[] = "/tmp/egress-test-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path_ = name;
        REQUIRE(chmod(name, 0755) == 0);
    }
    ~TempDir() {
        const std::string command = "rm -rf " + path_;
        (void)!std::system(command.c_str());
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

/// A directory with a socket's name in it, and EGRESS_SOCKET naming that.
struct Place {
    Place() { REQUIRE(setenv("EGRESS_SOCKET", path.c_str(), 1) == 0); }
    ~Place() { unsetenv("EGRESS_SOCKET"); }
    TempDir dir;
    std::string path = dir.path() + "/report.sock";
};

/// One message as the daemon sees it.
struct Received {
    std::vector<std::byte> bytes;
    std::vector<Fd> fds;
    ucred credentials{};
    wire::Record record; ///< points into bytes
    wire::Fault fault = wire::Fault::too_short;
};

inline bool readable(int fd, int milliseconds) {
    pollfd wait{fd, POLLIN, 0};
    return poll(&wait, 1, milliseconds) > 0;
}

/// The next message of a connection; nothing at its end. A test that waits 10 s has failed.
inline std::optional<Received> receive(int connection) {
    REQUIRE(readable(connection, 10'000));
    Received got;
    got.bytes.resize(2 * wire::max_record);
    std::array<char, 512> control{};
    iovec text{got.bytes.data(), got.bytes.size()};
    msghdr message{};
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t length = recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length <= 0) {
        return std::nullopt;
    }
    got.bytes.resize(static_cast<std::size_t>(length));
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_type == SCM_CREDENTIALS) {
            std::memcpy(&got.credentials, CMSG_DATA(c), sizeof got.credentials);
        } else if (c->cmsg_type == SCM_RIGHTS) {
            for (std::size_t at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0);
                 at += sizeof(int)) {
                int fd = -1;
                std::memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
                got.fds.emplace_back(fd);
            }
        }
    }
    got.fault = wire::decode(got.bytes, got.record);
    return got;
}

class Listener {
  public:
    explicit Listener(std::string path, int backlog = 128) : path_(std::move(path)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        REQUIRE(path_.size() < sizeof address.sun_path);
        std::memcpy(address.sun_path, path_.c_str(), path_.size());
        fd_.reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        const int on = 1;
        REQUIRE(setsockopt(fd_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
        REQUIRE(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(chmod(path_.c_str(), 0666) == 0);
        REQUIRE(listen(fd_.get(), backlog) == 0);
    }
    ~Listener() { unlink(path_.c_str()); }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    int fd() const { return fd_.get(); }
    bool has_connection() const { return readable(fd_.get(), 0); }

    Fd accept() const {
        REQUIRE(readable(fd_.get(), 10'000));
        Fd connection(accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        const int on = 1;
        REQUIRE(setsockopt(connection.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
        return connection;
    }
    /// The one message of a new connection.
    Received one() const {
        const Fd connection = accept();
        auto got = receive(connection.get());
        REQUIRE(got.has_value());
        return std::move(*got);
    }

  private:
    std::string path_;
    Fd fd_;
};

inline std::vector<int> open_fds() {
    std::vector<int> fds;
    DIR* directory = opendir("/proc/self/fd");
    REQUIRE(directory != nullptr);
    while (const dirent* entry = readdir(directory)) {
        const int fd = std::atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != dirfd(directory)) {
            fds.push_back(fd);
        }
    }
    closedir(directory);
    return fds;
}

inline bool same_file(int a, int b) {
    struct stat left {};
    struct stat right {};
    return fstat(a, &left) == 0 && fstat(b, &right) == 0 && left.st_dev == right.st_dev &&
           left.st_ino == right.st_ino;
}

} // namespace egress::test
