// bypass PATH V4 V6 OTHER4 OTHER6 PORT TOKEN [EXTRA]
#include "bypass.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <arpa/inet.h>
#include <unistd.h>

namespace bypass {

Place place(const std::string& address, std::uint16_t port) {
    Place out{};
    if (address.find(':') != std::string::npos) {
        out.v6.sin6_family = AF_INET6;
        out.v6.sin6_port = htons(port);
        inet_pton(AF_INET6, address.c_str(), &out.v6.sin6_addr);
    } else {
        out.v4.sin_family = AF_INET;
        out.v4.sin_port = htons(port);
        inet_pton(AF_INET, address.c_str(), &out.v4.sin_addr);
    }
    return out;
}

std::string failed(int code) {
    const char* const name = strerrorname_np(code);
    return name != nullptr ? name : std::to_string(code);
}

std::string told(long result) {
    return result >= 0 ? "sent" : failed(errno);
}

Fd make(int family, int type, int protocol) {
    Fd fd(socket(family, type | SOCK_CLOEXEC, protocol));
    const int code = errno;
    if (fd.get() < 0 && (code == EPROTONOSUPPORT || code == ESOCKTNOSUPPORT ||
                         code == EAFNOSUPPORT || code == EACCES)) {
        throw Cannot("socket: " + failed(code));
    }
    errno = code;
    return fd;
}

std::string say(const Fd& fd, const Job& job) {
    return told(send(fd.get(), job.token.data(), job.token.size(), MSG_NOSIGNAL));
}

std::string connect_and_send(const Fd& fd, const Place& to, const Job& job) {
    if (fd.get() < 0 || connect(fd.get(), &to.any, to.size()) < 0) {
        return failed(errno);
    }
    return say(fd, job);
}

std::string send_to(const Fd& fd, const Place& to, const Job& job, int flags) {
    if (fd.get() < 0) {
        return failed(errno);
    }
    return told(sendto(fd.get(), job.token.data(), job.token.size(), flags | MSG_NOSIGNAL, &to.any,
                       to.size()));
}

namespace {

std::string go(std::string_view wanted, const Job& job) {
    for (const auto& all : {stream_paths(), datagram_paths(), raw_paths(), process_paths()}) {
        for (const auto& [name, path] : all) {
            if (name == wanted) {
                return path(job);
            }
        }
    }
    throw Cannot("no such path");
}

int list() {
    for (const auto& all : {stream_paths(), datagram_paths(), raw_paths(), process_paths()}) {
        for (const auto& [name, path] : all) {
            std::printf("%.*s\n", static_cast<int>(name.size()), name.data());
        }
    }
    return 0;
}

} // namespace
} // namespace bypass

int main(int argc, char** argv) {
    if (argc == 2 && std::string_view(argv[1]) == "list") {
        return bypass::list();
    }
    if (argc < 8) {
        std::fprintf(stderr, "usage: bypass PATH V4 V6 OTHER4 OTHER6 PORT TOKEN [EXTRA]\n");
        return 2;
    }
    alarm(50); // whatever hangs
    const bypass::Job job{argv[2],
                          argv[3],
                          argv[4],
                          argv[5],
                          static_cast<std::uint16_t>(std::atoi(argv[6])),
                          argv[7],
                          argc > 8 ? argv[8] : ""};
    try {
        if (std::string_view(argv[1]) == "hold") {
            alarm(0);
            return bypass::hold(job);
        }
        std::printf("%s\n", bypass::go(argv[1], job).c_str());
    } catch (const bypass::Cannot& why) {
        std::printf("cannot: %s\n", why.what());
    }
    return 0;
}
