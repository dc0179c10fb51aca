// The report socket in its loop: every message is read or refused by name, descriptors never stay,
// users keep to their share.
#include "daemon/report/receiver.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core_test.h"
#include "daemon/base/log.h"

using namespace egress;
using namespace egress::test;

namespace {

struct Anyone final : TrustedReporters {
    bool service_of(const Reporter&, Endpoint& local, int& type, int& protocol) const override {
        local = {address("10.0.0.1"), 22};
        type = SOCK_STREAM;
        protocol = IPPROTO_TCP;
        return trust;
    }
    bool vouches(const Reporter&, const Endpoint&, int, int) const override { return trust; }
    bool is_known(std::uint32_t uid) const override { return uid == 0; }
    bool trust = true;
};

std::size_t open_fds() {
    std::size_t count = 0;
    DIR* const folder = opendir("/proc/self/fd");
    while (readdir(folder) != nullptr) {
        ++count;
    }
    closedir(folder);
    return count;
}

/// A receiver on a socket in a folder of its own, and what it took.
struct World {
    explicit World(Receiver::Limits limits = {}) {
        log::open(log::Target::standard_error, static_cast<log::Level>(2)); // quiet
        sd_event* raw = nullptr;
        REQUIRE(sd_event_new(&raw) >= 0);
        event.reset(raw);
        auto spawner = lane::Spawner::start();
        REQUIRE(spawner);
        receiver = std::make_unique<Receiver>(
            raw, anyone, std::move(*spawner),
            [this](std::span<const Report> reports) {
                for (const Report& report : reports) {
                    taken.emplace_back(report.message);
                }
            },
            limits);
        using std::filesystem::perms;
        std::filesystem::permissions(folder.path, static_cast<perms>(0755));
        const auto listening = receiver->listen(path);
        INFO((listening ? "" : listening.error().text));
        REQUIRE(listening);
        while (receiver->lanes().counters().running < 2) { // one, and the one that discards
            REQUIRE(sd_event_run(raw, 5'000'000) > 0);
        }
    }
    /// Runs the loop until nothing is ready.
    void run() {
        for (int i = 0; i < 10'000; ++i) {
            const bool reading = receiver && receiver->lanes().counters().busy > 0;
            if (sd_event_run(event.get(), reading ? 100'000 : 0) <= 0 && !reading) {
                return;
            }
        }
    }
    /// Runs it until it has taken so many, waiting for timers.
    void run_until(std::size_t reports) {
        // Turns do not count: without a free descriptor they take no time, and a lane does.
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (taken.size() < reports && std::chrono::steady_clock::now() < end) {
            sd_event_run(event.get(), 1'000'000);
        }
    }
    /// Runs it until no more than so many descriptors are open: spare lanes go after a while.
    bool closed_down_to(std::size_t wanted) {
        for (int i = 0; i < 200 && open_fds() > wanted; ++i) {
            sd_event_run(event.get(), 100'000);
        }
        const auto lanes = receiver->lanes().counters();
        INFO(lanes.running, " lanes, ", lanes.busy, " busy, ", lanes.lost, " lost");
        CHECK(lanes.lost == 0);
        return open_fds() <= wanted;
    }
    std::uint64_t refused(Refusal kind) const {
        return receiver->counters().refused[static_cast<std::size_t>(kind)];
    }
    std::size_t connections() const {
        std::size_t count = 0;
        for (const auto& user : receiver->users()) {
            count += user.connections;
        }
        return count;
    }

    Folder folder;
    std::string path = folder / "report.sock";
    Anyone anyone;
    Event event;
    std::vector<std::string> taken;
    std::unique_ptr<Receiver> receiver;
};

Fd connected(const std::string& path) {
    Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
        fd.reset();
    }
    return fd;
}

std::vector<std::byte> record(std::string_view text) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(0xcb007101);
    std::array<std::byte, wire::max_record> buffer;
    const auto bytes = wire::encode(buffer, 1, reinterpret_cast<sockaddr*>(&in), sizeof in, text);
    return {bytes.begin(), bytes.end()};
}

bool send_fds(const Fd& to, const std::vector<std::byte>& bytes, const std::vector<int>& fds) {
    iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
    std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* const part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
    }
    return sendmsg(to.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

bool send_text(const Fd& to, std::string_view text) {
    return send_fds(to, record(text), {});
}

/// In a child with uid 65534, so that quotas apply (root has none). Returns its exit status.
template <typename Effect>
int as_nobody(Effect effect) {
    const pid_t pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setuid(65534) != 0) {
            _exit(99);
        }
        _exit(effect());
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

} // namespace

TEST_CASE("many messages of one connection, one-shots, in order, none lost") {
    World world;
    const Fd one = connected(world.path);
    for (int i = 0; i < 100; ++i) {
        REQUIRE(send_text(one, std::to_string(i)));
    }
    for (int i = 100; i < 400; ++i) {
        REQUIRE(send_text(connected(world.path), std::to_string(i)));
    }
    world.run();
    REQUIRE(world.taken.size() == 400);
    CHECK(world.receiver->counters().taken == 400);
    CHECK(std::ranges::find(world.taken, "399") != world.taken.end());
    CHECK(std::vector<std::string>(world.taken.begin(), world.taken.end()).size() == 400);
    CHECK(world.connections() == 1);
}

TEST_CASE("a message of length 0 is refused, the end of the stream is no message") {
    World world;
    Fd one = connected(world.path);
    REQUIRE(send_fds(one, {}, {}));
    REQUIRE(send_text(one, "after"));
    REQUIRE(send_fds(one, {}, {}));
    one.reset();
    world.run();
    CHECK(world.refused(Refusal::too_short) == 2);
    CHECK(world.taken == std::vector<std::string>{"after"});
    CHECK(world.connections() == 0);
    connected(world.path).reset(); // nothing but an end
    world.run();
    CHECK(world.refused(Refusal::too_short) == 2);
}

TEST_CASE("the longest record is taken, one byte more is too long") {
    World world;
    const Fd one = connected(world.path);
    auto bytes = record(std::string(wire::max_message, 'x'));
    CHECK(bytes.size() == wire::max_record);
    REQUIRE(send_fds(one, bytes, {}));
    bytes.push_back(std::byte{0});
    REQUIRE(send_fds(one, bytes, {}));
    bytes.resize(100'000);
    REQUIRE(send_fds(one, bytes, {}));
    world.run();
    CHECK(world.taken.size() == 1);
    CHECK(world.refused(Refusal::too_long) == 2);
}

TEST_CASE("every refusal is counted by its name and closes every descriptor") {
    World world;
    const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const Fd udp(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    Fd one = connected(world.path);
    world.run();
    const std::size_t before = open_fds();
    constexpr int times = 50;
    for (int i = 0; i < times; ++i) {
        auto bytes = record("x");
        REQUIRE(send_fds(one, bytes, {null.get()}));
        REQUIRE(send_fds(one, bytes, {udp.get()}));
        REQUIRE(send_fds(one, bytes, {null.get(), null.get()}));
        REQUIRE(send_fds(one, bytes, {null.get(), null.get(), null.get()}));
        bytes[0] = std::byte{0};
        REQUIRE(send_fds(one, bytes, {null.get()}));
        bytes = record("x");
        bytes[4] = std::byte{9};
        REQUIRE(send_fds(one, bytes, {null.get(), null.get()}));
        world.run();
    }
    CHECK(world.refused(Refusal::not_a_socket) == times);
    CHECK(world.refused(Refusal::unbound) == times);
    CHECK(world.refused(Refusal::many_fds) == 2 * times);
    CHECK(world.refused(Refusal::bad_magic) == times);
    CHECK(world.refused(Refusal::bad_version) == times);
    world.anyone.trust = false;
    REQUIRE(send_text(one, "no fd"));
    world.run();
    CHECK(world.refused(Refusal::no_fd) == 1);
    CHECK(world.taken.empty());
    one.reset();
    CHECK(world.closed_down_to(before));
}

TEST_CASE("253 descriptors in one message are many, and all are closed") {
    World world;
    const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const Fd one = connected(world.path);
    world.run();
    const std::size_t before = open_fds();
    for (int i = 0; i < 20; ++i) {
        REQUIRE(send_fds(one, record("x"), std::vector<int>(253, null.get())));
        REQUIRE(send_text(one, "honest"));
        world.run();
    }
    CHECK(world.refused(Refusal::many_fds) == 20);
    CHECK(world.taken.size() == 20);
    CHECK(world.closed_down_to(before));
}

TEST_CASE("a uid with too many connections loses its idlest, after what it sent was read") {
    World world({.connections_per_uid = 3, .connections = 100, .reports_per_second = 1e6});
    std::vector<Fd> fds;
    for (int i = 0; i < 3; ++i) {
        fds.push_back(connected(world.path));
    }
    world.run();
    REQUIRE(send_text(fds[0], "first is busy"));
    world.run();
    REQUIRE(send_text(fds[1], "sent and not read"));
    fds.push_back(connected(world.path));
    world.run();
    CHECK(world.taken == std::vector<std::string>{"first is busy", "sent and not read"});
    CHECK(world.receiver->counters().closed_idle == 1);
    CHECK(world.connections() == 3);
    CHECK(send_text(fds[0], "a"));
    CHECK(send_text(fds[3], "b"));
    world.run();
    CHECK(world.taken.size() == 4);
}

TEST_CASE("what is sent to a connection that was closed for room fails") {
    World world({.connections_per_uid = 1, .connections = 100, .reports_per_second = 1e6});
    const Fd first = connected(world.path);
    world.run();
    const Fd second = connected(world.path);
    world.run();
    REQUIRE(world.receiver->counters().closed_idle == 1);
    const bool sent = send_text(first, "lost");
    world.run();
    CHECK(sent == (world.taken.size() == 1));
}

TEST_CASE("out of descriptor numbers: room is made, and what the idlest had sent is read first") {
    World world({.connections_per_uid = 100, .connections = 100, .reports_per_second = 1e6});
    const Fd first = connected(world.path);
    world.run();
    const Fd second = connected(world.path);
    REQUIRE(send_text(first, "sent before"));
    REQUIRE(send_text(second, "sent by the newcomer"));
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(Fd(dup(first.get())).get()); // the next free number
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    world.run_until(2);
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK(std::ranges::count(world.taken, "sent before") == 1);
    CHECK(std::ranges::count(world.taken, "sent by the newcomer") == 1);
    CHECK(world.receiver->counters().closed_idle == 1);
}

TEST_CASE("a uid over its share waits, and nothing of it is lost") {
    World world({.connections_per_uid = 100, .connections = 100, .reports_per_second = 100});
    REQUIRE(as_nobody([&] {
                const Fd one = connected(world.path);
                for (int i = 0; i < 200; ++i) {
                    if (!send_text(one, "flood")) {
                        return 1;
                    }
                }
                return 0;
            }) == 0);
    world.run();
    if (geteuid() == 0) {
        CHECK(world.taken.size() >= 100);
        CHECK(world.taken.size() < 200);
        REQUIRE(world.receiver->users().size() == 1);
        CHECK(world.receiver->users()[0].paused >= 1);
        // Another user is read meanwhile.
        REQUIRE(send_text(connected(world.path), "honest"));
        world.run();
        CHECK(world.taken.back() == "honest");
    }
    world.run_until(201 - (geteuid() != 0));
    CHECK(std::ranges::count(world.taken, "flood") == 200);
}

TEST_CASE("one-shot reports cost one each") {
    World world({.connections_per_uid = 100, .connections = 100, .reports_per_second = 1000});
    REQUIRE(as_nobody([&] {
                for (int i = 0; i < 500; ++i) {
                    if (!send_text(connected(world.path), "shot")) {
                        return 1;
                    }
                }
                return 0;
            }) == 0);
    world.run();
    CHECK(world.taken.size() == 500);
    REQUIRE(world.receiver->users().size() == 1);
    CHECK(world.receiver->users()[0].paused == 0);
}

TEST_CASE("one-shot reports are charged too") {
    World world({.connections_per_uid = 100, .connections = 100, .reports_per_second = 100});
    REQUIRE(as_nobody([&] {
                for (int i = 0; i < 400; ++i) {
                    if (!send_text(connected(world.path), "shot")) {
                        return 1;
                    }
                }
                return 0;
            }) == 0);
    world.run_until(400);
    CHECK(world.taken.size() == 400);
    REQUIRE(world.receiver->users().size() == 1);
    if (geteuid() == 0) {
        CHECK(world.receiver->users()[0].paused >= 1);
    }
}

TEST_CASE("drain reads what waits in every socket and in the backlog") {
    World world;
    const Fd one = connected(world.path);
    world.run();
    for (int i = 0; i < 150; ++i) {
        REQUIRE(send_text(one, "queued"));
    }
    for (int i = 0; i < 50; ++i) {
        REQUIRE(send_text(connected(world.path), "backlog"));
    }
    world.receiver->drain(); // no loop runs any more
    CHECK(world.taken.size() == 200);
}

TEST_CASE("the receiver goes with connections open and messages unread") {
    World world;
    std::vector<Fd> fds;
    for (int i = 0; i < 20; ++i) {
        fds.push_back(connected(world.path));
        send_text(fds.back(), "x");
    }
    sd_event_run(world.event.get(), 0);
    world.receiver.reset();
    world.run();
    CHECK_FALSE(send_text(fds[0], "nobody"));
}

TEST_CASE("the socket: mode 0666, a stale one is replaced, anything else is left alone") {
    World world;
    CHECK((std::filesystem::status(world.path).permissions() & std::filesystem::perms::all) ==
          static_cast<std::filesystem::perms>(0666));
    const std::string file = world.folder / "file";
    std::ofstream(file) << "precious";
    CHECK_FALSE(world.receiver->listen(file));
    CHECK(std::filesystem::file_size(file) == 8);
    CHECK_FALSE(world.receiver->listen(world.folder / std::string(200, 'x')));
    CHECK_FALSE(world.receiver->listen(world.folder / "no/such/folder"));
    world.receiver.reset();
    World other;
    const auto stale = other.receiver->listen(world.path);
    CHECK(stale);
}
