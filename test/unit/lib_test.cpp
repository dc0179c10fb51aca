// libegress against a listener: what each call returns, sends, costs and leaves behind.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include "lib/api.h"
#include "test/unit/lib_counters.h"
#include "test/unit/lib_listener.h"

using namespace egress;
using namespace egress::test;

namespace {

/// A UDP socket: some descriptor to send.
Fd some_socket() {
    return Fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

int error_of(int result) {
    const int error = errno;
    CHECK((result == 0 || result == -1));
    return result == 0 ? 0 : error;
}

int exit_status(pid_t child) {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Handle {
    egress_handle* get = egress_open();
    ~Handle() { egress_close(get); }
};

} // namespace

TEST_CASE("without a daemon a report is one failed connect") {
    const Place place;
    const Fd fd = some_socket();
    const Counters before = counters();
    CHECK(error_of(egress_report(EGRESS_AUTH_FAIL, fd.get(), "x")) == ENOENT);
    const Counters after = counters();
    CHECK(after.sockets - before.sockets == 1);
    CHECK(after.connects - before.connects == 1);
    CHECK(after.sends == before.sends);
    CHECK(after.closes - before.closes == 1);
    CHECK(after.allocations == before.allocations);

    // A socket file that a dead daemon left behind.
    Fd dead(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, place.path.c_str(), place.path.size());
    REQUIRE(bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    dead.reset();
    CHECK(error_of(egress_report(EGRESS_AUTH_FAIL, fd.get(), "x")) == ECONNREFUSED);
}

TEST_CASE("a report carries the action, the message, the descriptor and the credentials") {
    const Place place;
    const Listener listener(place.path);
    const Fd fd = some_socket();
    errno = 1234;
    REQUIRE(egress_report(EGRESS_BAD_USER | EGRESS_VERIFIED, fd.get(), "user r\xc3\xb6\xc3\xb6t") ==
            0);
    CHECK(errno == 1234);
    const Received got = listener.one();
    REQUIRE(got.fault == wire::Fault::none);
    CHECK(got.record.action == EGRESS_BAD_USER);
    CHECK(got.record.verified);
    CHECK(got.record.remote_length == 0);
    CHECK(got.record.message == "user r\xc3\xb6\xc3\xb6t");
    REQUIRE(got.fds.size() == 1);
    CHECK(same_file(got.fds[0].get(), fd.get()));
    CHECK(got.credentials.pid == getpid());
    CHECK(got.credentials.uid == getuid());
}

TEST_CASE("an address travels, with or without a descriptor") {
    const Place place;
    const Listener listener(place.path);
    sockaddr_in remote{};
    remote.sin_family = AF_INET;
    remote.sin_port = htons(99);
    remote.sin_addr.s_addr = htonl(0xc0000201);
    const auto* address = reinterpret_cast<const sockaddr*>(&remote);
    REQUIRE(egress_report_sa(EGRESS_ABUSIVE, -1, address, sizeof remote, nullptr) == 0);
    const Received got = listener.one();
    REQUIRE(got.fault == wire::Fault::none);
    CHECK(got.fds.empty());
    CHECK(got.record.message.empty());
    REQUIRE(got.record.remote_length == sizeof remote);
    CHECK(std::memcmp(&got.record.remote, &remote, sizeof remote) == 0);

    const Handle handle;
    const Fd fd = some_socket();
    REQUIRE(egress_report_sa_r(handle.get, EGRESS_ABUSIVE, fd.get(), address, sizeof remote, "") ==
            0);
    CHECK(listener.one().fds.size() == 1);
}

TEST_CASE("bad arguments are errors, and nothing is sent") {
    const Place place;
    const Listener listener(place.path);
    const Handle handle;
    const Fd connection = listener.accept();
    sockaddr_in remote{};
    remote.sin_family = AF_INET;
    const auto* address = reinterpret_cast<const sockaddr*>(&remote);
    CHECK(error_of(egress_report(4, -1, "")) == EINVAL);
    CHECK(error_of(egress_report(-1, -1, "")) == EINVAL);
    CHECK(error_of(egress_report_sa(1, -1, address, 4, "")) == EINVAL);
    CHECK(error_of(egress_report_sa(1, -1, nullptr, sizeof remote, "")) == EINVAL);
    CHECK(error_of(egress_report_r(nullptr, 1, -1, "")) == EINVAL);
    CHECK(error_of(egress_report_r(handle.get, 0x400, -1, "")) == EINVAL);
    CHECK_FALSE(listener.has_connection());

    Fd closed = some_socket();
    const int number = closed.get();
    closed.reset();
    CHECK(error_of(egress_report_r(handle.get, 1, number, "")) == EBADF);
    CHECK(error_of(egress_report_r(handle.get, 1, -2, "")) == EBADF);
    CHECK_FALSE(readable(connection.get(), 0));
    CHECK(error_of(egress_report_r(handle.get, 1, -1, "")) == 0); // the handle is none the worse
    CHECK(receive(connection.get()).has_value());
    CHECK(error_of(egress_report(1, number, "")) == EBADF);
    egress_close(nullptr);
}

TEST_CASE("a long message is cut between characters") {
    const Place place;
    const Listener listener(place.path);
    std::string text(wire::max_message - 2, 'x');
    text += "\xe2\x82\xac and more";
    REQUIRE(egress_report(EGRESS_AUTH_FAIL, -1, text.c_str()) == 0);
    CHECK(listener.one().record.message == std::string(wire::max_message - 2, 'x'));
}

TEST_CASE("a path that does not fit is an error") {
    const Place place;
    REQUIRE(setenv("EGRESS_SOCKET", ("/" + std::string(200, 'x')).c_str(), 1) == 0);
    CHECK(error_of(egress_report(EGRESS_AUTH_FAIL, -1, "")) == ENAMETOOLONG);
    CHECK(egress_open() == nullptr);
    CHECK(errno == ENAMETOOLONG);
}

TEST_CASE("a full queue is EAGAIN and never a wait") {
    const Place place;
    const Listener listener(place.path, 1);
    const Fd fd = some_socket();
    const Handle handle;
    int sent = 0;
    int error = 0;
    while ((error = error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, fd.get(), "x"))) == 0) {
        REQUIRE(++sent < 100'000);
    }
    CHECK(error == EAGAIN);
    CHECK(sent > 10);
    // Room again, and the same handle goes on; nothing that was taken is lost.
    const Fd connection = listener.accept();
    for (int i = 0; i < sent; ++i) {
        REQUIRE(receive(connection.get()).has_value());
    }
    CHECK_FALSE(readable(connection.get(), 0));
    CHECK(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, fd.get(), "x")) == 0);

    // The queue of connections, for reports without a handle.
    sent = 0;
    while ((error = error_of(egress_report(EGRESS_AUTH_FAIL, fd.get(), "x"))) == 0) {
        REQUIRE(++sent < 1000);
    }
    CHECK(error == EAGAIN);
    for (int i = 0; i < sent; ++i) {
        CHECK(listener.one().fds.size() == 1);
    }
}

TEST_CASE("a handle opened without a daemon connects when one is there") {
    const Place place;
    const Handle handle;
    REQUIRE(handle.get != nullptr);
    CHECK(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "1")) == ENOENT);
    const Listener listener(place.path);
    CHECK(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "2")) == 0);
    CHECK(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "3")) == 0);
    const Fd connection = listener.accept();
    CHECK(receive(connection.get())->record.message == "2");
    CHECK(receive(connection.get())->record.message == "3");
}

TEST_CASE("a handle outlives its daemon, raises no SIGPIPE, and one report each finds the next") {
    (void)std::signal(SIGPIPE, SIG_DFL);
    const Place place;
    const Handle handle;
    const std::size_t fds = open_fds().size();
    for (int restart = 0; restart < 5; ++restart) {
        CAPTURE(restart);
        {
            const Listener listener(place.path);
            REQUIRE(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "up")) == 0);
            const Fd connection = listener.accept();
            CHECK(receive(connection.get())->record.message == "up");
            // An unread message makes the next error ECONNRESET rather than EPIPE.
            if (restart % 2 == 1) {
                REQUIRE(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "")) == 0);
            }
        }
        if (restart % 3 == 2) {
            continue; // straight to the next daemon
        }
        CHECK(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "down")) == ENOENT);
        const Counters before = counters();
        CHECK(error_of(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "down")) == ENOENT);
        const Counters after = counters();
        CHECK(after.connects - before.connects == 1);
        CHECK(after.sends == before.sends);
    }
    CHECK(open_fds().size() <= fds + 1);
}

TEST_CASE("reports allocate nothing and leave no descriptor") {
    const Place place;
    const Listener listener(place.path);
    const Fd fd = some_socket();
    const Handle handle;
    const Fd connection = listener.accept();
    const std::size_t fds = open_fds().size();
    for (int i = 0; i < 10'000; ++i) {
        const Counters before = counters();
        const int first = egress_report_r(handle.get, EGRESS_AUTH_FAIL, fd.get(), "x");
        const int second = egress_report(EGRESS_AUTH_FAIL, fd.get(), "x");
        const Counters after = counters();
        REQUIRE(first == 0);
        REQUIRE(second == 0);
        REQUIRE(after.allocations == before.allocations);
        REQUIRE(after.sockets - before.sockets == 1);
        REQUIRE(receive(connection.get()).has_value());
        (void)listener.one();
    }
    CHECK(open_fds().size() == fds);
    const Counters before = counters();
    void* const memory = std::malloc(1);
    CHECK(memory != nullptr);
    CHECK(counters().allocations > before.allocations); // the counter does count
    std::free(memory);
}

TEST_CASE("a forked child reports over the same connection, under its own name") {
    const Place place;
    const Listener listener(place.path);
    const Handle handle;
    const Fd connection = listener.accept();
    const pid_t child = fork();
    if (child == 0) {
        _exit(egress_report_r(handle.get, EGRESS_AUTH_FAIL, 0, "child") == 0 ? 0 : 1);
    }
    CHECK(exit_status(child) == 0);
    REQUIRE(egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "parent") == 0);
    const auto first = receive(connection.get());
    const auto second = receive(connection.get());
    CHECK(first->record.message == "child");
    CHECK(first->credentials.pid == child);
    CHECK(second->record.message == "parent");
    CHECK(second->credentials.pid == getpid());
}

TEST_CASE("a handle works inside a chroot, and after a restart where the socket is reachable") {
    if (geteuid() != 0) {
        MESSAGE("SKIP: chroot needs root");
        return;
    }
    const Place place;
    const Listener listener(place.path);
    const TempDir jail;
    // The same path once more, inside the jail, as `egressd -P` would make it.
    REQUIRE(mkdir((jail.path() + "/tmp").c_str(), 0755) == 0);
    REQUIRE(mkdir((jail.path() + place.dir.path()).c_str(), 0755) == 0);
    const Handle handle;
    Fd connection = listener.accept();
    int ready[2];
    REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    const pid_t child = fork();
    if (child == 0) {
        connection.reset(); // the daemon's end is not the child's to keep alive
        char byte = 0;
        const bool inside = chroot(jail.path().c_str()) == 0 && chdir("/") == 0 &&
                            egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "inside") == 0;
        const bool told = inside && read(ready[0], &byte, 1) == 1;
        _exit(told && egress_report_r(handle.get, EGRESS_AUTH_FAIL, -1, "again") == 0 ? 0 : 1);
    }
    CHECK(receive(connection.get())->record.message == "inside");
    connection.reset();
    const Listener second(jail.path() + place.path);
    CHECK(write(ready[1], "x", 1) == 1);
    CHECK(second.one().record.message == "again");
    CHECK(exit_status(child) == 0);
    close(ready[0]);
    close(ready[1]);
}

TEST_CASE("EGRESS_SOCKET is ignored in set-uid programs") {
    if (geteuid() != 0) {
        MESSAGE("SKIP: making a set-uid program needs root");
        return;
    }
    constexpr uid_t nobody = 65534;
    const Place place;
    const Listener listener(place.path);
    const std::string copy = place.dir.path() + "/probe";
    REQUIRE(std::system(("cp " PROBE " " + copy).c_str()) == 0);
    for (const mode_t mode : {0755, 04755}) {
        CAPTURE(mode);
        REQUIRE(chmod(copy.c_str(), mode) == 0);
        const pid_t child = fork();
        if (child == 0) {
            const int null = open("/dev/null", O_WRONLY);
            dup2(null, STDOUT_FILENO);
            if (setgid(nobody) == 0 && setuid(nobody) == 0) {
                execl(copy.c_str(), copy.c_str(), static_cast<char*>(nullptr));
            }
            _exit(9);
        }
        CHECK(exit_status(child) == 0);
        CHECK(listener.has_connection() == (mode == 0755));
        if (listener.has_connection()) {
            CHECK(listener.one().credentials.uid == nobody);
        }
    }
}
