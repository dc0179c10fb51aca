// The same ways out from other threads, names, namespaces and descriptors than the obvious ones.
#include "bypass.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/prctl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/uring.h"

namespace bypass {

namespace {

using egress::ctl::Uring;

std::string tcp4(const Job& job) {
    return connect_and_send(make(AF_INET, SOCK_STREAM), place(job.v4, job.port), job);
}

std::string thread(const Job& job) {
    std::string result;
    std::thread([&] { result = tcp4(job); }).join();
    return result;
}

/// What a child says of itself comes back through a pipe.
std::string in_child(const Job& job, std::string (*path)(const Job&)) {
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return failed(errno);
    }
    const pid_t child = fork();
    if (child == 0) {
        std::string text;
        try {
            text = path(job);
        } catch (const Cannot& why) {
            text = std::string("cannot: ") + why.what();
        }
        [[maybe_unused]] const auto put = write(ends[1], text.data(), text.size());
        _exit(0);
    }
    close(ends[1]);
    char text[256];
    const auto got = read(ends[0], text, sizeof text);
    close(ends[0]);
    waitpid(child, nullptr, 0);
    const std::string result(text, got > 0 ? static_cast<std::size_t>(got) : 0);
    if (result.starts_with("cannot: ")) {
        throw Cannot(result.substr(8));
    }
    return result;
}
std::string forked(const Job& job) {
    return in_child(job, tcp4);
}

std::string renamed(const Job& job) {
    prctl(PR_SET_NAME, "allowed");
    return tcp4(job);
}

/// The fields of /proc/self/stat, by their numbers in proc(5).
std::map<int, unsigned long> own_stat() {
    std::ifstream file("/proc/self/stat");
    std::string text;
    std::getline(file, text);
    std::istringstream rest(text.substr(text.rfind(')') + 1));
    std::map<int, unsigned long> fields;
    std::string word;
    for (int i = 3; rest >> word; ++i) {
        fields[i] = std::strtoul(word.c_str(), nullptr, 10);
    }
    return fields;
}

/// What ps(1) shows.
std::string reargued(const Job& job) {
    const Job copy = job;
    std::strcpy(reinterpret_cast<char*>(own_stat()[48]), "ls");
    return tcp4(copy);
}

/// Puts memory with the same content in the place of everything that is mapped from the program's
/// file: as long as one page of it is, the kernel keeps it as the program.
void leave_file() {
    char own[4096];
    const auto length = readlink("/proc/self/exe", own, sizeof own - 1);
    own[length > 0 ? length : 0] = '\0';
    std::vector<std::string> lines;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        if (line.ends_with(std::string(" ") + own)) {
            lines.push_back(line);
        }
    }
    for (const auto& line : lines) {
        unsigned long from = 0;
        unsigned long to = 0;
        char rights[5] = {};
        if (std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, rights) != 3 || rights[0] != 'r') {
            continue;
        }
        const auto size = to - from;
        void* const copy =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memcpy(copy, reinterpret_cast<const void*>(from), size);
        mprotect(copy, size,
                 PROT_READ | (rights[1] == 'w' ? PROT_WRITE : 0) |
                     (rights[2] == 'x' ? PROT_EXEC : 0));
        mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(from));
    }
}

/// Has /proc/PID/exe show another program, which a user may in a user namespace of their own.
std::string other_exe(const Job& job) {
    if (unshare(CLONE_NEWUSER) < 0) {
        throw Cannot("no user namespace: " + failed(errno));
    }
    leave_file();
    auto stat = own_stat();
    const Fd lie(open("/bin/true", O_RDONLY | O_CLOEXEC));
    prctl_mm_map map{};
    map.start_code = stat[26];
    map.end_code = stat[27];
    map.start_stack = stat[28];
    map.start_data = stat[45];
    map.end_data = stat[46];
    map.start_brk = stat[47];
    map.brk = reinterpret_cast<std::uintptr_t>(sbrk(0));
    map.arg_start = stat[48];
    map.arg_end = stat[49];
    map.env_start = stat[50];
    map.env_end = stat[51];
    map.exe_fd = static_cast<std::uint32_t>(lie.get());
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) < 0) {
        throw Cannot("PR_SET_MM_MAP: " + failed(errno));
    }
    char seen[64] = {};
    if (readlink("/proc/self/exe", seen, sizeof seen - 1) < 0 ||
        std::string_view(seen).find("true") == std::string_view::npos) {
        throw Cannot("/proc/self/exe does not lie");
    }
    return tcp4(job);
}

/// A network namespace of its own, with a server of its own under the same address.
std::string new_net(const Job& job) {
    if (unshare(CLONE_NEWNET) < 0) {
        throw Cannot("no network namespace: " + failed(errno));
    }
    const Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq device{};
    std::strcpy(device.ifr_name, "lo");
    const Place own = place(job.v4, 0);
    std::memcpy(&device.ifr_addr, &own.v4, sizeof own.v4);
    if (ioctl(control.get(), SIOCSIFADDR, &device) < 0 ||
        ioctl(control.get(), SIOCGIFFLAGS, &device) < 0) {
        throw Cannot("lo: " + failed(errno));
    }
    device.ifr_flags |= IFF_UP;
    if (ioctl(control.get(), SIOCSIFFLAGS, &device) < 0) {
        throw Cannot("lo: " + failed(errno));
    }
    const Fd server = make(AF_INET, SOCK_STREAM);
    const Place at = place(job.v4, job.port);
    if (bind(server.get(), &at.any, at.size()) < 0 || listen(server.get(), 1) < 0) {
        throw Cannot("server: " + failed(errno));
    }
    const auto result = tcp4(job);
    if (result != "sent") {
        return result;
    }
    const Fd accepted(accept(server.get(), nullptr, nullptr));
    char got[256];
    return read(accepted.get(), got, sizeof got) == static_cast<ssize_t>(job.token.size())
               ? "arrived"
               : failed(errno);
}
std::string new_user_net(const Job& job) {
    if (unshare(CLONE_NEWUSER) < 0) {
        throw Cannot("no user namespace: " + failed(errno));
    }
    return new_net(job);
}

// --- io_uring ---

int step(Uring& ring, io_uring_sqe entry, unsigned flags) {
    entry.flags = static_cast<std::uint8_t>(flags);
    return ring.run(entry);
}

std::string ring_tcp(const Job& job, unsigned setup, unsigned flags) {
    Uring ring(setup);
    if (!ring.good()) {
        throw Cannot("io_uring_setup: " + failed(errno));
    }
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const Place to = place(job.v4, job.port);
    io_uring_sqe entry{};
    entry.opcode = IORING_OP_CONNECT;
    entry.fd = fd.get();
    entry.addr = reinterpret_cast<std::uintptr_t>(&to);
    entry.off = to.size();
    if (const int code = step(ring, entry, flags); code < 0) {
        return failed(-code);
    }
    entry = {};
    entry.opcode = IORING_OP_SEND;
    entry.fd = fd.get();
    entry.addr = reinterpret_cast<std::uintptr_t>(job.token.data());
    entry.len = static_cast<unsigned>(job.token.size());
    const int code = step(ring, entry, flags);
    return code < 0 ? failed(-code) : "sent";
}

std::string ring_udp(const Job& job, unsigned setup, unsigned flags) {
    Uring ring(setup);
    if (!ring.good()) {
        throw Cannot("io_uring_setup: " + failed(errno));
    }
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    Place to = place(job.v4, job.port);
    std::string token = job.token;
    iovec part{token.data(), token.size()};
    msghdr message{};
    message.msg_name = &to;
    message.msg_namelen = to.size();
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    io_uring_sqe entry{};
    entry.opcode = IORING_OP_SENDMSG;
    entry.fd = fd.get();
    entry.addr = reinterpret_cast<std::uintptr_t>(&message);
    const int code = step(ring, entry, flags);
    return code < 0 ? failed(-code) : "sent";
}

/// The socket itself made by the ring.
std::string ring_raw(const Job& job) {
    Uring ring;
    if (!ring.good()) {
        throw Cannot("io_uring_setup: " + failed(errno));
    }
    io_uring_sqe entry{};
    entry.opcode = IORING_OP_SOCKET;
    entry.fd = AF_INET;
    entry.off = SOCK_RAW;
    entry.len = 253;
    const int made = step(ring, entry, IOSQE_ASYNC);
    if (made == -EINVAL) {
        throw Cannot("io_uring makes no sockets here");
    }
    return made < 0 ? failed(-made) : send_to(Fd(made), place(job.v4, 0), job);
}

std::string ring_plain(const Job& job) {
    return ring_tcp(job, 0, 0);
}
std::string ring_async(const Job& job) {
    return ring_tcp(job, 0, IOSQE_ASYNC);
}
std::string ring_polled(const Job& job) {
    return ring_tcp(job, IORING_SETUP_SQPOLL, 0);
}
std::string ring_polled_async(const Job& job) {
    return ring_tcp(job, IORING_SETUP_SQPOLL, IOSQE_ASYNC);
}
std::string ring_udp_plain(const Job& job) {
    return ring_udp(job, 0, 0);
}
std::string ring_udp_async(const Job& job) {
    return ring_udp(job, 0, IOSQE_ASYNC);
}
std::string ring_udp_polled(const Job& job) {
    return ring_udp(job, IORING_SETUP_SQPOLL, 0);
}

// --- descriptors of others ---

sockaddr_un holder_at(const std::string& name, socklen_t& size) {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    name.copy(at.sun_path + 1, sizeof at.sun_path - 2);
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    return at;
}

Fd taken(const std::string& holder, const std::string& kind) {
    const Fd link(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    socklen_t size = 0;
    const auto at = holder_at(holder, size);
    const std::string text = "give " + kind;
    if (connect(link.get(), reinterpret_cast<const sockaddr*>(&at), size) < 0 ||
        send(link.get(), text.data(), text.size(), 0) < 0) {
        throw Cannot("holder: " + failed(errno));
    }
    char answer[128];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec part{answer, sizeof answer};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const auto got = recvmsg(link.get(), &message, 0);
    const cmsghdr* const passed = CMSG_FIRSTHDR(&message);
    if (got < 0 || passed == nullptr) {
        throw Cannot(std::string(answer, got > 0 ? static_cast<std::size_t>(got) : 0));
    }
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(passed), sizeof fd);
    return Fd(fd);
}

std::string passed_tcp4(const Job& job) {
    return say(taken(job.extra, "tcp4"), job);
}
std::string passed_tcp6(const Job& job) {
    return say(taken(job.extra, "tcp6"), job);
}
/// Left in the socket: the kernel sends it by itself, when this process has ended.
std::string passed_late(const Job& job, const char* kind) {
    const Fd fd = taken(job.extra, kind);
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
    return say(fd, job);
}
std::string passed_late4(const Job& job) {
    return passed_late(job, "late4");
}
std::string passed_late6(const Job& job) {
    return passed_late(job, "late6");
}
std::string passed_udp4(const Job& job) {
    return say(taken(job.extra, "udp4"), job);
}
std::string passed_udp6(const Job& job) {
    return say(taken(job.extra, "udp6"), job);
}
std::string passed_new_tcp(const Job& job) {
    return connect_and_send(taken(job.extra, "new-tcp"), place(job.v4, job.port), job);
}
std::string passed_new_udp(const Job& job) {
    return send_to(taken(job.extra, "new-udp"), place(job.v4, job.port), job);
}
std::string passed_raw(const Job& job) {
    return send_to(taken(job.extra, "raw"), place(job.v4, 0), job);
}

/// Makes a socket, and executes the program that is to use it.
std::string handed_down(const Job& job, bool connected) {
    const Fd fd(socket(AF_INET, SOCK_DGRAM, 0));
    const Place to = place(job.v4, job.port);
    if (connected && connect(fd.get(), &to.any, to.size()) < 0) {
        return failed(errno);
    }
    const std::string port = std::to_string(job.port);
    const std::string number = std::to_string(fd.get());
    execl(job.extra.c_str(), job.extra.c_str(), connected ? "use-connected" : "use-new",
          job.v4.c_str(), job.v6.c_str(), job.other4.c_str(), job.other6.c_str(), port.c_str(),
          job.token.c_str(), number.c_str(), nullptr);
    throw Cannot("exec: " + failed(errno));
}
std::string inherited_new(const Job& job) {
    return handed_down(job, false);
}
std::string inherited_connected(const Job& job) {
    return handed_down(job, true);
}
std::string use_new(const Job& job) {
    return send_to(Fd(std::stoi(job.extra)), place(job.v4, job.port), job);
}
std::string use_connected(const Job& job) {
    return say(Fd(std::stoi(job.extra)), job);
}

constexpr Named all[] = {
    {"thread", thread},
    {"forked", forked},
    {"renamed", renamed},
    {"reargued", reargued},
    {"other-exe", other_exe},
    {"new-net", new_net},
    {"new-user-net", new_user_net},
    {"ring-tcp", ring_plain},
    {"ring-tcp-async", ring_async},
    {"ring-tcp-polled", ring_polled},
    {"ring-tcp-polled-async", ring_polled_async},
    {"ring-udp", ring_udp_plain},
    {"ring-udp-async", ring_udp_async},
    {"ring-udp-polled", ring_udp_polled},
    {"ring-raw", ring_raw},
    {"passed-tcp4", passed_tcp4},
    {"passed-tcp6", passed_tcp6},
    {"passed-late4", passed_late4},
    {"passed-late6", passed_late6},
    {"passed-udp4", passed_udp4},
    {"passed-udp6", passed_udp6},
    {"passed-new-tcp", passed_new_tcp},
    {"passed-new-udp", passed_new_udp},
    {"passed-raw", passed_raw},
    {"inherited-new", inherited_new},
    {"inherited-connected", inherited_connected},
    {"use-new", use_new},
    {"use-connected", use_connected},
};

/// Answers "send KIND TOKEN" and "give KIND".
void answer(int link, const std::string& text, std::map<std::string, Fd>& held, const Job& job) {
    const auto first = text.find(' ');
    const auto second = text.find(' ', first + 1);
    const auto kind = text.substr(first + 1, second - first - 1);
    const auto found = held.find(kind);
    std::string reply = found == held.end() ? "cannot: nothing of that kind is held" : "fd";
    char byte[128] = {};
    iovec part{byte, 0};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (found != held.end() && text.starts_with("send ")) {
        Job sending = job;
        sending.token = text.substr(second + 1);
        reply = kind == "raw"       ? send_to(found->second, place(job.v4, 0), sending)
                : kind == "new-udp" ? send_to(found->second, place(job.v4, job.port), sending)
                                    : say(found->second, sending);
    } else if (found != held.end()) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        const int fd = found->second.get();
        std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    part.iov_len = reply.copy(byte, sizeof byte);
    sendmsg(link, &message, MSG_NOSIGNAL);
}

} // namespace

std::span<const Named> process_paths() {
    return all;
}

int hold(const Job& job) {
    std::map<std::string, Fd> held;
    const auto keep = [&](const char* kind, int family, int type, int protocol,
                          const std::string& to) {
        Fd fd(socket(family, type | SOCK_CLOEXEC, protocol));
        const Place at = to.empty() ? Place{} : place(to, job.port);
        if (fd.get() >= 0 && (to.empty() || connect(fd.get(), &at.any, at.size()) == 0)) {
            held[kind] = std::move(fd);
        }
    };
    keep("tcp4", AF_INET, SOCK_STREAM, 0, job.v4);
    keep("tcp6", AF_INET6, SOCK_STREAM, 0, job.v6);
    keep("late4", AF_INET, SOCK_STREAM, 0, job.v4);
    keep("late6", AF_INET6, SOCK_STREAM, 0, job.v6);
    keep("udp4", AF_INET, SOCK_DGRAM, 0, job.v4);
    keep("udp6", AF_INET6, SOCK_DGRAM, 0, job.v6);
    keep("new-tcp", AF_INET, SOCK_STREAM, 0, "");
    keep("new-udp", AF_INET, SOCK_DGRAM, 0, "");
    keep("raw", AF_INET, SOCK_RAW, 253, "");
    const Fd server(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    socklen_t size = 0;
    const auto at = holder_at(job.extra, size);
    if (bind(server.get(), reinterpret_cast<const sockaddr*>(&at), size) < 0 ||
        listen(server.get(), 8) < 0) {
        std::printf("%s\n", failed(errno).c_str());
        return 1;
    }
    std::printf("ready\n");
    std::fflush(stdout);
    for (;;) {
        const Fd link(accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
        char text[256];
        const auto got = link.get() >= 0 ? recv(link.get(), text, sizeof text, 0) : -1;
        if (got > 0) {
            answer(link.get(), std::string(text, static_cast<std::size_t>(got)), held, job);
        }
    }
}

} // namespace bypass
