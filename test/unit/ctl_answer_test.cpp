// Answers of egressd and of others, in pieces of every size, and the socket that they come through.
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include "ctl/transfer.h"
#include "lib/fd.h"

using namespace egress;
using namespace std::string_literals;
using namespace egress::ctl;
using State = Answer::State;

namespace {

struct Read {
    State state;
    unsigned status;
    std::string body;
};

/// The answer in pieces of `step` bytes, then the end.
Read read(const std::string& text, std::size_t step, std::optional<std::uint64_t> most = 1000) {
    Read read{};
    Answer answer(most, [&](std::string_view piece) {
        read.body += piece;
        return true;
    });
    for (std::size_t at = 0; at < text.size(); at += step) {
        answer.take(std::string_view(text).substr(at, step));
    }
    read.state = answer.end();
    read.status = answer.status();
    return read;
}

/// Two ends of a stream; ours does not block.
struct Pair {
    Pair() {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        ours.reset(ends[0]);
        theirs.reset(ends[1]);
        REQUIRE(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    }
    Fd ours;
    Fd theirs;
};

const std::string head = "HTTP/1.1 200 OK\r\n";
const std::string chunked = head + "Transfer-Encoding: chunked\r\n\r\n";

} // namespace

TEST_CASE("answer: whole in pieces of every size") {
    struct Case {
        std::string text;
        unsigned status;
        std::string body;
    };
    for (const auto& [text, status, body] : std::vector<Case>{
             {head + "Content-Length: 5\r\n\r\nhello", 200, "hello"},
             {head + "Content-Length: 5\r\n\r\nhello and more", 200, "hello"},
             {head + "content-length:0\r\n\r\n", 200, ""},
             {"HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
             {"HTTP/1.0 404 Not Found\r\n\r\nto the end", 404, "to the end"},
             {"HTTP/1.1 599 \r\nContent-Length: 1\r\n\r\n\0"s.substr(0, 42), 599,
              std::string(1, '\0')},
             {chunked + "0\r\n\r\n", 200, ""},
             {chunked + "5\r\nhello\r\n00a;x=\"y\"\r\n, world..!\r\n0\r\nTrailer: z\r\n\r\n", 200,
              "hello, world..!"},
         }) {
        for (const std::size_t step : {1u, 2u, 3u, 5u, 7u, 1000u}) {
            CAPTURE(text);
            CAPTURE(step);
            const auto got = read(text, step);
            CHECK(got.state == State::complete);
            CHECK(got.status == status);
            CHECK(got.body == body);
        }
    }
}

TEST_CASE("answer: what ends early, is too long or no answer") {
    struct Case {
        std::string text;
        State state;
    };
    const std::string length = head + "Content-Length: ";
    for (const auto& [text, state] : std::vector<Case>{
             {"", State::cut},
             {"HTTP/1.1 2", State::cut},
             {head, State::cut},
             {head + "X: y\r\n", State::cut},
             {length + "5\r\n\r\nhell", State::cut},
             {chunked, State::cut},
             {chunked + "5\r\nhel", State::cut},
             {chunked + "5\r\nhello\r\n0\r\n", State::cut},
             {length + "1001\r\n\r\n", State::too_long},
             {length + "18446744073709551615\r\n\r\n", State::too_long},
             {head + "\r\n" + std::string(1001, 'x'), State::too_long},
             {chunked + "3e9\r\n", State::too_long},
             {chunked + "ffffffffffffffff\r\n", State::too_long},
             {length + "18446744073709551616\r\n\r\n", State::wrong},
             {length + "-5\r\n\r\n", State::wrong},
             {length + "5\r\nContent-Length: 6\r\n\r\nhello", State::wrong},
             {length + "5\r\nTransfer-Encoding: chunked\r\n\r\n", State::wrong},
             {chunked + "1ffffffffffffffff\r\n", State::wrong},
             {chunked + "zz\r\n", State::wrong},
             {chunked + "1\r\nabcd\r\n", State::wrong},
             {head + "X" + std::string(9000, 'y'), State::wrong},
             {head + std::string(9000, 'y') + ": z\r\n", State::wrong},
             {std::string(9000, 'A'), State::wrong},
             {"HTTP/2 200 OK\r\n\r\n", State::wrong},
             {"HTTP/1.1 20 OK\r\n\r\n", State::wrong},
             {"HTTP/1.1 000 OK\r\n\r\n", State::wrong},
             {"GET / HTTP/1.1\r\n\r\n", State::wrong},
             {"SSH-2.0-OpenSSH_9.2p1\r\n", State::wrong},
             {std::string("\0\x1b\xff\n\r\n", 6), State::wrong},
         }) {
        for (const std::size_t step : {1u, 2u, 3u, 1000u}) {
            CAPTURE(text);
            CAPTURE(step);
            CHECK(read(text, step).state == state);
        }
    }
    CHECK(read(chunked + "1;" + std::string(70'000, 'x'), 1000).state == State::wrong);
    CHECK(read(chunked + "0\r\n" + std::string(70'000, 'x'), 1000).state == State::wrong);
}

TEST_CASE("answer: a body without bound, and a receiver that has enough") {
    std::string text = chunked;
    const std::string piece(5000, 'x');
    for (int i = 0; i < 1000; ++i) {
        text += fmt::format("{:x}\r\n{}\r\n", piece.size(), piece);
    }
    const auto whole = read(text + "0\r\n\r\n", 4096, std::nullopt);
    CHECK(whole.state == State::complete);
    CHECK(whole.body.size() == 5'000'000);

    int calls = 0;
    Answer answer(std::nullopt, [&](std::string_view) { return ++calls < 3; });
    CHECK(answer.take(text) == State::enough);
    CHECK(answer.take(text) == State::enough);
    CHECK(answer.end() == State::enough);
    CHECK(calls == 3);
}

TEST_CASE("transfer: a refusal that comes before the request is out") {
    const std::string request(8u << 20u, 'x');
    for (const bool reads : {false, true}) {
        Pair pair;
        std::thread peer([&, theirs = std::move(pair.theirs)] {
            const std::string refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
            CHECK(::send(theirs.get(), refusal.data(), refusal.size(), MSG_NOSIGNAL) > 0);
            std::string buffer(1u << 20u, '\0');
            while (reads && ::recv(theirs.get(), buffer.data(), buffer.size(), 0) > 0) {
            }
        });
        Answer answer(1000, [](std::string_view) { return true; });
        CHECK(transfer(pair.ours.get(), request, answer, std::chrono::minutes(1)) ==
              Transfer::ended);
        pair.ours.reset();
        peer.join();
        CHECK(answer.state() == State::complete);
        CHECK(answer.status() == 413);
    }
}

TEST_CASE("transfer: bodies of many megabytes, both ways at once") {
    const std::string body(8u << 20u, 'x');
    Pair pair;
    std::thread peer([&, theirs = std::move(pair.theirs)] { // sends back what it gets
        const auto reply = fmt::format("{}Content-Length: {}\r\n\r\n", head, body.size());
        CHECK(::send(theirs.get(), reply.data(), reply.size(), MSG_NOSIGNAL) > 0);
        std::string buffer(1u << 16u, '\0');
        for (std::size_t done = 0; done < body.size();) {
            const auto got = ::recv(theirs.get(), buffer.data(), buffer.size(), 0);
            const auto sent = got > 0 ? ::send(theirs.get(), buffer.data(),
                                               static_cast<std::size_t>(got), MSG_NOSIGNAL)
                                      : -1;
            REQUIRE(sent == got);
            done += static_cast<std::size_t>(got);
        }
    });
    std::string back;
    Answer answer(body.size(), [&](std::string_view piece) {
        back += piece;
        return true;
    });
    CHECK(transfer(pair.ours.get(), body, answer, std::chrono::minutes(1)) == Transfer::ended);
    peer.join();
    CHECK(answer.state() == State::complete);
    CHECK(back == body);
}

TEST_CASE("transfer: a peer that drips does not outlast the time") {
    Pair pair;
    std::thread peer([theirs = std::move(pair.theirs)] {
        const auto start = chunked;
        ::send(theirs.get(), start.data(), start.size(), MSG_NOSIGNAL);
        while (::send(theirs.get(), "1\r\nx\r\n", 6, MSG_NOSIGNAL) == 6) {
        }
    });
    Answer answer(std::nullopt, [](std::string_view) { return true; });
    CHECK(transfer(pair.ours.get(), "GET", answer, std::chrono::milliseconds(50)) ==
          Transfer::timeout);
    pair.ours.reset();
    peer.join();
}
