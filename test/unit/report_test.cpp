// What a descriptor proves: real sockets of every kind against examine() and conclude().
#include "daemon/report/verify.h"

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core_test.h"
#include "daemon/bpf/tables/host.h"
#include "daemon/policy/text/names.h"
#include "daemon/report/peer_cgroup.h"
#include "lib/fd.h"

using namespace egress;
using namespace egress::test;

namespace {

struct Nobody final : TrustedReporters {
    bool service_of(const Reporter& reporter, Endpoint& local, int& type,
                    int& protocol) const override {
        if (reporter.uid != trusted) {
            return false;
        }
        local = {address("10.1.1.1"), 143};
        type = SOCK_STREAM;
        protocol = IPPROTO_TCP;
        return true;
    }
    bool vouches(const Reporter& reporter, const Endpoint&, int, int) const override {
        return reporter.uid == trusted;
    }
    bool is_known(std::uint32_t) const override { return false; }
    std::uint32_t trusted = 107;
};

/// An address and its length, ready for system calls.
struct Name {
    sockaddr_storage storage{};
    socklen_t length = 0;
    sockaddr* sa() { return reinterpret_cast<sockaddr*>(&storage); }
};

Name name_of(std::string_view text, std::uint16_t port) {
    Name name;
    const std::string copy(text);
    auto* const in6 = reinterpret_cast<sockaddr_in6*>(&name.storage);
    auto* const in = reinterpret_cast<sockaddr_in*>(&name.storage);
    if (inet_pton(AF_INET6, copy.c_str(), &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        name.length = sizeof *in6;
    } else {
        REQUIRE(inet_pton(AF_INET, copy.c_str(), &in->sin_addr) == 1);
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        name.length = sizeof *in;
    }
    return name;
}

Fd bound(std::string_view text, int type, int protocol = 0) {
    Name name = name_of(text, 0);
    Fd fd(socket(name.storage.ss_family, type | SOCK_CLOEXEC, protocol));
    REQUIRE(fd);
    REQUIRE(bind(fd.get(), name.sa(), name.length) == 0);
    return fd;
}

Name local_of(const Fd& fd) {
    Name name;
    name.length = sizeof name.storage;
    REQUIRE(getsockname(fd.get(), name.sa(), &name.length) == 0);
    return name;
}

/// A listener, a client, and the server's end of their connection.
struct Connected {
    explicit Connected(std::string_view text, int protocol = 0)
        : listener(bound(text, SOCK_STREAM, protocol)) {
        REQUIRE(listen(listener.get(), 5) == 0);
        Name name = local_of(listener);
        client.reset(socket(name.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(connect(client.get(), name.sa(), name.length) == 0);
        server.reset(accept(listener.get(), nullptr, nullptr));
        REQUIRE(server);
    }
    Fd listener;
    Fd client;
    Fd server;
};

class Judge {
  public:
    std::expected<Report, Refusal> operator()(const Fd& fd, std::string_view remote = {}) const {
        wire::Record record;
        record.action = 1;
        record.verified = verified;
        record.message = "hello";
        if (!remote.empty()) {
            const Name name = name_of(remote, 999);
            record.remote = name.storage;
            record.remote_length = name.length;
        }
        return conclude(examine(record, fd.get(), {uid, 42}), record.message, nobody);
    }
    Refusal refused(const Fd& fd, std::string_view remote = {}) const {
        const auto verdict = (*this)(fd, remote);
        REQUIRE_FALSE(verdict.has_value());
        return verdict.error();
    }
    Report taken(const Fd& fd, std::string_view remote = {}) const {
        const auto verdict = (*this)(fd, remote);
        INFO((verdict ? "" : refusal_names[static_cast<std::size_t>(verdict.error())]));
        REQUIRE(verdict.has_value());
        return *verdict;
    }
    std::uint32_t uid = 1000;
    bool verified = false;
    Nobody nobody;
};

} // namespace

TEST_CASE("a connected stream socket proves everything; the record's address is not looked at") {
    const Judge judge;
    for (const auto* text : {"127.0.0.1", "::1"}) {
        const Connected pair(text);
        const Report report = judge.taken(pair.server, "203.0.113.66");
        CHECK(report.remote.address == address(text));
        const Name client = local_of(pair.client);
        CHECK(report.remote.port ==
              ntohs(reinterpret_cast<const sockaddr_in*>(&client.storage)->sin_port));
        CHECK(report.local.address == address(text));
        CHECK(report.local.port != 0);
        CHECK(report.type == SOCK_STREAM);
        CHECK(report.protocol == IPPROTO_TCP);
        CHECK(report.uid == 1000);
        CHECK(report.pid == 42);
        CHECK(report.action == Action::fail);
        CHECK(report.message == "hello");
        CHECK_FALSE(report.forgeable);
    }
}

TEST_CASE("IPv4 on an IPv6 listener is IPv4") {
    Fd listener(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int off = 0;
    setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    Name any = name_of("::", 0);
    REQUIRE(bind(listener.get(), any.sa(), any.length) == 0);
    REQUIRE(listen(listener.get(), 1) == 0);
    Name to = name_of("127.0.0.1", 0);
    const Name at = local_of(listener);
    reinterpret_cast<sockaddr_in*>(&to.storage)->sin_port =
        reinterpret_cast<const sockaddr_in6*>(&at.storage)->sin6_port;
    const Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(connect(client.get(), to.sa(), to.length) == 0);
    const Fd server(accept(listener.get(), nullptr, nullptr));
    const Report report = Judge().taken(server);
    CHECK(report.remote.address == address("127.0.0.1"));
    CHECK(report.local.address.is_v4());
}

TEST_CASE("what is no socket, no internet socket, or not bound") {
    const Judge judge;
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd reading(ends[0]);
    const Fd writing(ends[1]);
    CHECK(judge.refused(reading) == Refusal::not_a_socket);
    CHECK(judge.refused(Fd(open("/dev/null", O_RDONLY | O_CLOEXEC))) == Refusal::not_a_socket);
    const auto bare = judge.refused(Fd(open("/", O_PATH | O_CLOEXEC)));
    CHECK((bare == Refusal::not_a_socket || bare == Refusal::not_inet));
    CHECK(judge.refused(Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))) == Refusal::not_inet);
    CHECK(judge.refused(Fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0))) == Refusal::not_inet);
    CHECK(judge.refused(Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))) == Refusal::unbound);
    CHECK(judge.refused(Fd(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0)), "2001:db8::1") ==
          Refusal::unbound);
}

TEST_CASE("stream sockets without a peer") {
    Judge judge;
    CHECK(judge.refused(bound("127.0.0.1", SOCK_STREAM), "203.0.113.1") == Refusal::not_connected);
    const Connected pair("127.0.0.1");
    CHECK(judge.refused(pair.listener, "203.0.113.1") == Refusal::listening);
    judge.uid = 107; // could have reported without any
    CHECK(judge.taken(pair.listener, "203.0.113.1").remote.address == address("203.0.113.1"));
    CHECK(judge.refused(pair.listener) == Refusal::no_address);
    CHECK(judge.refused(pair.listener, "2001:db8::1") == Refusal::wrong_family);
}

TEST_CASE("a connection that was reset: the address comes from those who need no descriptor") {
    Judge judge;
    Connected pair("127.0.0.1");
    const Endpoint service = judge.taken(pair.server).local;
    const linger at_once{1, 0};
    REQUIRE(setsockopt(pair.client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    pair.client.reset();
    CHECK(judge.refused(pair.server) == Refusal::not_connected);
    CHECK(judge.refused(pair.server, "203.0.113.1") == Refusal::not_connected);
    judge.uid = 107;
    CHECK(judge.refused(pair.server) == Refusal::not_connected);
    const Report report = judge.taken(pair.server, "203.0.113.1");
    CHECK(report.remote.address == address("203.0.113.1"));
    CHECK(report.local.address == service.address);
    CHECK(report.local.port == service.port);
    CHECK_FALSE(report.forgeable);
}

TEST_CASE("datagram sockets: unconnected bring an address that may be forged, unless vouched for") {
    Judge judge;
    const Fd v4 = bound("127.0.0.1", SOCK_DGRAM);
    const Fd v6 = bound("::1", SOCK_DGRAM);
    CHECK(judge.refused(v4) == Refusal::no_address);
    const Report report = judge.taken(v4, "203.0.113.5");
    CHECK(report.forgeable);
    CHECK(report.remote.address == address("203.0.113.5"));
    CHECK(report.type == SOCK_DGRAM);
    CHECK(report.protocol == IPPROTO_UDP);
    CHECK(judge.refused(v4, "2001:db8::1") == Refusal::wrong_family);
    CHECK(judge.taken(v6, "2001:db8::1").forgeable);
    CHECK(judge.refused(v4, "0.0.0.0") == Refusal::unusable_address);
    CHECK(judge.refused(v6, "::") == Refusal::unusable_address);
    const int on = 1;
    const Fd only6(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    setsockopt(only6.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    Name any = name_of("::1", 0);
    REQUIRE(bind(only6.get(), any.sa(), any.length) == 0);
    CHECK(judge.refused(only6, "::ffff:203.0.113.5") == Refusal::wrong_family);
    judge.verified = true;
    CHECK_FALSE(judge.taken(v4, "203.0.113.5").forgeable);
    Name to = name_of("127.0.0.9", 5353);
    REQUIRE(connect(v4.get(), to.sa(), to.length) == 0);
    judge.verified = false;
    const Report connected = judge.taken(v4, "203.0.113.5");
    CHECK(connected.remote == Endpoint{address("127.0.0.9"), 5353});
    CHECK_FALSE(connected.forgeable);
}

TEST_CASE("no descriptor: only trusted reporters, with the service that the rules name") {
    Judge judge;
    CHECK(judge.refused(Fd(), "203.0.113.1") == Refusal::no_fd);
    judge.uid = 107;
    CHECK(judge.refused(Fd()) == Refusal::no_address);
    CHECK(judge.refused(Fd(), "::") == Refusal::unusable_address);
    const Report report = judge.taken(Fd(), "203.0.113.1");
    CHECK(report.local == Endpoint{address("10.1.1.1"), 143});
    CHECK(report.protocol == IPPROTO_TCP);
    CHECK_FALSE(report.forgeable);
}

TEST_CASE("a multipath socket reports as TCP") {
    Fd probe(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP));
    if (!probe) {
        MESSAGE("SKIP: this kernel has no MPTCP");
        return;
    }
    const Connected pair("127.0.0.1", IPPROTO_MPTCP);
    CHECK(Judge().taken(pair.server).protocol == IPPROTO_TCP);
}

TEST_CASE("a socket of another network namespace proves nothing, unless root or a line vouches") {
    std::array<int, 2> ends{};
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    const pid_t pid = fork();
    if (pid == 0) { // makes a socket over there and hands it over
        char byte = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 ? 'y' : 'n';
        const int there = socket(AF_INET, SOCK_DGRAM, 0);
        Name any = name_of("0.0.0.0", 0);
        byte = byte == 'y' && bind(there, any.sa(), any.length) == 0 ? 'y' : 'n';
        iovec vector{&byte, 1};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* const part = CMSG_FIRSTHDR(&message);
        *part = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        std::memcpy(CMSG_DATA(part), &there, sizeof there);
        _exit(sendmsg(ends[1], &message, 0) != 1);
    }
    char byte = 0;
    iovec vector{&byte, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    REQUIRE(recvmsg(ends[0], &message, 0) == 1);
    waitpid(pid, nullptr, 0);
    close(ends[0]);
    close(ends[1]);
    int raw = -1;
    std::memcpy(&raw, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof raw);
    const Fd fd(raw);
    if (byte != 'y') {
        MESSAGE("SKIP: no user namespaces here");
        return;
    }
    Judge judge;
    CHECK(judge.refused(fd, "203.0.113.1") == Refusal::other_namespace);
    judge.uid = 0;
    CHECK(judge.taken(fd, "203.0.113.1").forgeable);
    judge.uid = 107;
    CHECK(judge.taken(fd, "203.0.113.1").forgeable);
}

TEST_CASE("a living process is a member of its cgroup, and of those around it") {
    std::string own;
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        own = line.starts_with("0::/") ? line.substr(3) : own;
    }
    const std::string root = bpf::cgroup_root();
    if (root.empty() || own.empty() || !std::filesystem::exists(root + own + "/cgroup.procs")) {
        MESSAGE("SKIP: no cgroup2 hierarchy in which this process is");
        return;
    }
    const pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    const Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
    REQUIRE(pidfd);
    CHECK(is_member(pidfd.get(), root + own));
    CHECK_FALSE(is_member(pidfd.get(), root + own + "/none-of-this-name"));
    CHECK_FALSE(is_member(pidfd.get(), "/proc"));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    CHECK_FALSE(is_member(pidfd.get(), root + own)); // its number may be another's by now
}

TEST_CASE("the process at the other end of a connection, and its cgroup") {
    std::array<int, 2> ends{};
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
    const Fd one(ends[0]);
    const Fd other(ends[1]);
    const PeerProcess process(one.get());
    if (bpf::cgroup_root().empty() || !policy::LocalNames::tells_peers()) {
        MESSAGE("SKIP: no cgroup2 hierarchy, or a kernel that does not tell peers");
        return;
    }
    CHECK(process.inside("/"));
    CHECK_FALSE(process.inside("/none-of-this-name"));
    CHECK_FALSE(PeerProcess(-1).inside("/"));
}

TEST_CASE("every fault of the wire has its refusal, every refusal a name of its own") {
    CHECK(refusal_of(wire::Fault::too_short) == Refusal::too_short);
    CHECK(refusal_of(wire::Fault::bad_magic) == Refusal::bad_magic);
    CHECK(refusal_of(wire::Fault::bad_version) == Refusal::bad_version);
    CHECK(refusal_of(wire::Fault::bad_length) == Refusal::bad_length);
    CHECK(refusal_of(wire::Fault::bad_action) == Refusal::bad_action);
    CHECK(refusal_of(wire::Fault::bad_address) == Refusal::bad_address);
    for (std::size_t i = 0; i < refusal_names.size(); ++i) {
        CHECK_FALSE(refusal_names[i].empty());
        for (std::size_t j = 0; j < i; ++j) {
            CHECK(refusal_names[i] != refusal_names[j]);
        }
    }
    CHECK(refusal_names[static_cast<std::size_t>(Refusal::listening)] == "listening");
    CHECK(refusal_names[static_cast<std::size_t>(Refusal::many_fds)] == "many_fds");
    CHECK(refusal_names.back() == "unusable_address");
}
