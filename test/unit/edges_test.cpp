// The daemon's edges in one process: control socket, keeper, child.
#include <chrono>
#include <csignal>
#include <thread>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include "core_test.h"
#include "daemon/base/child.h"
#include "daemon/control/http.h"
#include "daemon/count/keeper.h"
#include "ledger_world.h"

using namespace egress;
using namespace egress::test;

namespace {

struct Loop {
    Loop() {
        sigset_t child;
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigprocmask(SIG_BLOCK, &child, nullptr);
        sd_event* raw = nullptr;
        REQUIRE(sd_event_new(&raw) >= 0);
        event.reset(raw);
    }
    /// Runs until `done` or, so that a fault ends the test, for ten seconds.
    template <typename Done>
    bool until(Done done, const std::function<void()>& turn = {}) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (!done() && std::chrono::steady_clock::now() < end) {
            sd_event_run(event.get(), 10'000);
            if (turn) {
                turn();
            }
        }
        return done();
    }
    Event event;
};

Fd connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return fd;
}

/// What has arrived by now; adds to `text`.
void take(const Fd& fd, std::string& text) {
    char buffer[65536];
    for (ssize_t got = 0; (got = recv(fd.get(), buffer, sizeof buffer, MSG_DONTWAIT)) > 0;) {
        text.append(buffer, static_cast<std::size_t>(got));
    }
}

void send_text(const Fd& fd, std::string_view text) {
    REQUIRE(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(text.size()));
}

struct Server {
    explicit Server(Control::Handler handler) {
        auto listener = Control::listen(folder / "c.sock");
        REQUIRE(listener);
        auto started =
            Control::start(loop.event.get(), std::move(*listener), clock, std::move(handler));
        REQUIRE(started);
        control = std::move(*started);
    }
    std::string ask(std::string_view request, std::string_view until) {
        const Fd client = connect_to(folder / "c.sock");
        send_text(client, request);
        std::string answer;
        CHECK(loop.until([&] { return answer.find(until) != answer.npos; },
                         [&] { control->pump(), take(client, answer); }));
        return answer;
    }
    Folder folder;
    Loop loop;
    test::FakeClock clock;
    std::unique_ptr<Control> control;
};

constexpr std::string_view get = "GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

} // namespace

TEST_CASE("control: an answer that never came does not end the process at the stop") {
    bool asked = false;
    std::optional<Answer> late;
    Server server([&](const Request&, Answer answer) {
        asked = true;
        late = std::move(answer);
    });
    const Fd client = connect_to(server.folder / "c.sock");
    send_text(client, get);
    REQUIRE(server.loop.until([&] { return asked; }));
    server.control.reset(); // MHD would abort over a suspended connection
    late->send({200, "too late"});
    std::string answer;
    take(client, answer);
    CHECK((answer.empty() || answer.find("503") != answer.npos));
}

TEST_CASE("control: an answer may come later, and a client may go before it comes") {
    std::vector<Answer> answers;
    Server server([&](const Request&, Answer answer) { answers.push_back(std::move(answer)); });
    Fd gone = connect_to(server.folder / "c.sock");
    send_text(gone, get);
    const Fd stays = connect_to(server.folder / "c.sock");
    send_text(stays, get);
    REQUIRE(server.loop.until([&] { return answers.size() == 2; }));
    gone.reset();
    for (auto& answer : answers) {
        answer.send({201, "made"});
    }
    std::string text;
    CHECK(server.loop.until([&] { return text.find("made") != text.npos; },
                            [&] { server.control->pump(), take(stays, text); }));
    CHECK(text.starts_with("HTTP/1.1 201"));
}

TEST_CASE("control: a body over the limit is refused and never handled") {
    int handled = 0;
    Server server([&](const Request&, Answer answer) {
        ++handled;
        answer.send({200, "handled"});
    });
    const Fd client = connect_to(server.folder / "c.sock");
    const std::string body(2 << 20, 'x');
    std::string rest =
        "POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
        "\r\n\r\n" + body;
    std::string answer;
    const auto push = [&] {
        const ssize_t put =
            send(client.get(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        rest.erase(0, put > 0 ? static_cast<std::size_t>(put) : 0);
        server.control->pump();
        take(client, answer);
    };
    CHECK(server.loop.until([&] { return answer.find("413") != answer.npos; }, push));
    CHECK(handled == 0);
}

TEST_CASE("control: a long body is streamed in order") {
    Server server([](const Request&, Answer answer) {
        answer.stream([piece = 0](std::string& out) mutable {
            out += std::string(1000, static_cast<char>('a' + piece % 26));
            return ++piece < 300;
        });
    });
    const Fd client = connect_to(server.folder / "c.sock");
    send_text(client, "GET /v1/x HTTP/1.0\r\n\r\n"); // 1.0: no chunks between the pieces
    std::string answer;
    const auto body = [&] {
        const auto start = answer.find("\r\n\r\n");
        return start == answer.npos ? std::string() : answer.substr(start + 4);
    };
    REQUIRE(server.loop.until([&] { return body().size() >= 300'000; },
                              [&] { server.control->pump(), take(client, answer); }));
    std::string expected;
    for (int piece = 0; piece < 300; ++piece) {
        expected += std::string(1000, static_cast<char>('a' + piece % 26));
    }
    CHECK(body() == expected);
}

namespace {

struct Kept {
    explicit Kept(World& of) : world(of) {
        auto env = store::Env::open(folder.path, store::Env::Mode::read_write);
        REQUIRE(env);
        auto store = store::Store::start(std::move(*env));
        REQUIRE(store);
        auto made = Keeper::make(loop.event.get(), world.ledger, std::move(*store));
        REQUIRE(made);
        keeper = std::move(*made);
    }
    std::size_t rows_on_disk() {
        std::size_t rows = 0;
        CHECK(keeper->store().env().each([&](store::Row&&) { return ++rows, true; }));
        return rows;
    }
    World& world;
    Folder folder;
    Loop loop;
    std::unique_ptr<Keeper> keeper;
};

} // namespace

TEST_CASE("keeper: who waits is told after the commit, not before") {
    World world;
    Kept kept(world);
    world.report("192.0.2.1");
    std::optional<bool> told;
    kept.keeper->when_durable([&](bool durable) { told = durable; });
    CHECK_FALSE(told.has_value());
    CHECK(kept.loop.until([&] { return told.has_value(); }, [&] { kept.keeper->pump(); }));
    CHECK(told == true);
    CHECK(kept.rows_on_disk() == 1);
    CHECK(kept.keeper->waiting() == 0);
}

TEST_CASE("keeper: the end writes everything and answers all who wait") {
    World world;
    Kept kept(world);
    std::vector<bool> told;
    for (int i = 1; i <= 200; ++i) {
        world.report("192.0.2." + std::to_string(i));
        kept.keeper->when_durable([&](bool durable) { told.push_back(durable); });
    }
    CHECK(kept.keeper->finish());
    CHECK(told == std::vector<bool>(200, true));
    CHECK(kept.rows_on_disk() == 200);
}

TEST_CASE("keeper: a disk that refuses is told to those who wait, and tried again") {
    World world;
    Kept kept(world);
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit tiny = before;
    tiny.rlim_cur = 1;
    setrlimit(RLIMIT_FSIZE, &tiny);
    world.report("192.0.2.1");
    std::optional<bool> told;
    kept.keeper->when_durable([&](bool durable) { told = durable; });
    CHECK(kept.loop.until([&] { return told.has_value(); }, [&] { kept.keeper->pump(); }));
    CHECK(told == false);
    CHECK_FALSE(kept.keeper->counters().last_error.empty());
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(
        kept.loop.until([&] { return kept.keeper->waiting() == 0; }, [&] { kept.keeper->pump(); }));
    CHECK(kept.keeper->counters().last_error.empty());
    CHECK(kept.rows_on_disk() == 1);
}

TEST_CASE("child: a last line without its newline is a line; a flood of input is not kept") {
    Loop loop;
    Reaper reaper(loop.event.get());
    std::string said;
    std::optional<int> status;
    auto child = Child::spawn(
        loop.event.get(), reaper,
        {"/bin/sh", "-c", "while read -r x; do test \"$x\" = end && break; done; printf OK"}, {},
        {[&](std::string_view line) { said = line; }, [](const std::string&) {},
         [&](int code) { status = code; }});
    REQUIRE(child);
    (*child)->write(std::string(100'000, 'x') + "\n");
    (*child)->flush();
    CHECK(loop.until([&] { return (*child)->queued() == 0; }));
    (*child)->write("end\n");
    (*child)->flush();
    CHECK(loop.until([&] { return status.has_value() && !said.empty(); }));
    CHECK(said == "OK");
}

TEST_CASE("shares: each user has one, together they leave root its part, root may have all") {
    Shares shares({10, 3, 4}, 500);
    using Room = Shares::Room;
    for (int i = 0; i < 3; ++i) {
        CHECK(shares.room(1000) == Room::yes);
        shares.enter(1000);
    }
    CHECK(shares.room(1000) == Room::user_has_share);
    for (int i = 0; i < 3; ++i) {
        CHECK(shares.room(1001) == Room::yes);
        shares.enter(1001);
    }
    CHECK(shares.room(1002) == Room::all_taken);
    for (const std::uint32_t uid : {0, 500, 0, 0}) {
        CHECK(shares.room(uid) == Room::yes);
        shares.enter(uid);
    }
    CHECK(shares.room(0) == Room::all_taken);
    CHECK(shares.total() == 10);
    shares.leave(1000);
    shares.leave(4711); // has none
    CHECK(shares.room(1000) == Room::yes);
    CHECK(shares.room(0) == Room::yes);
    CHECK(shares.of(1000) == 2);
    shares.leave(1000);
    shares.leave(1000);
    CHECK_FALSE(shares.users().contains(1000));
}

TEST_CASE("control: a request that is not complete in time is answered, and hung up on") {
    Server server([](const Request&, Answer answer) { answer.send({}); });
    const Fd half = connect_to(server.folder / "c.sock");
    send_text(half, "GET /v1/x HTTP/1.1\r\nHo");
    CHECK(server.loop.until([&] { return server.control->shares().total() == 1; },
                            [&] { server.control->pump(); }));
    server.control->tick();
    CHECK(server.control->timed_out() == 0);
    server.clock.pass(Control::request_seconds + 1);
    server.control->tick();
    CHECK(server.control->timed_out() == 1);
    std::string text;
    CHECK(server.loop.until([&] { return server.control->shares().total() == 0; },
                            [&] { server.control->pump(), take(half, text); }));
    CHECK(text.starts_with("HTTP/1.1 408 "));
    CHECK(text.ends_with("\"}\n"));
}
