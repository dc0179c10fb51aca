// From bytes to a verified report: the wire, the descriptor's own word, the text for the log.
#include <array>
#include <cstring>

#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/base/log.h"
#include "daemon/report/verify.h"
#include "lib/fd.h"
#include "lib/wire.h"

namespace egress {
namespace {

constexpr int auth_fail = 1; // EGRESS_AUTH_FAIL; egress.h names a struct like our namespace
constexpr std::string_view text = "Failed password for invalid user admin from 192.0.2.7";

sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return out;
}

void encode(benchmark::State& state) {
    std::array<std::byte, wire::max_record> out;
    const sockaddr_in remote = loopback(40000);
    for (auto _ : state) {
        benchmark::DoNotOptimize(wire::encode(
            out, auth_fail, reinterpret_cast<const sockaddr*>(&remote), sizeof remote, text));
    }
}
BENCHMARK(encode)->Name("wire/encode");

void decode(benchmark::State& state) {
    std::array<std::byte, wire::max_record> out;
    const auto bytes = wire::encode(out, auth_fail, nullptr, 0, text);
    wire::Record record;
    for (auto _ : state) {
        benchmark::DoNotOptimize(wire::decode(bytes, record));
        benchmark::ClobberMemory();
    }
}
BENCHMARK(decode)->Name("wire/decode");

class NobodyTrusted final : public TrustedReporters {
  public:
    bool service_of(const Reporter&, Endpoint&, int&, int&) const override { return false; }
    bool vouches(const Reporter&, const Endpoint&, int, int) const override { return false; }
    bool is_known(std::uint32_t) const override { return false; }
};

/// A connected socket: of an accepted TCP connection, or of a UDP service.
struct Connected {
    explicit Connected(int type) : client(socket(AF_INET, type, 0)) {
        Fd service(socket(AF_INET, type, 0));
        sockaddr_in name = loopback(0);
        socklen_t length = sizeof name;
        auto* const address = reinterpret_cast<sockaddr*>(&name);
        bind(service.get(), address, length);
        getsockname(service.get(), address, &length);
        if (type == SOCK_STREAM) {
            listen(service.get(), 1);
            connect(client.get(), address, length);
            server.reset(accept(service.get(), nullptr, nullptr));
        } else {
            server = std::move(service);
            connect(server.get(), address, length);
        }
    }
    Fd client;
    Fd server;
};

void verify_fd(benchmark::State& state) {
    const Connected connected(static_cast<int>(state.range(0)));
    const NobodyTrusted nobody;
    wire::Record record;
    record.action = auth_fail;
    record.message = text;
    for (auto _ : state) {
        const auto verdict = conclude(examine(record, connected.server.get(), Sender{1000, 1}),
                                      record.message, nobody);
        if (!verdict) {
            state.SkipWithError("refused");
            break;
        }
    }
}
BENCHMARK(verify_fd)->Name("verify")->Arg(SOCK_STREAM)->Arg(SOCK_DGRAM);

/// The two questions that cannot be spared.
void both_names(benchmark::State& state) {
    const Connected connected(static_cast<int>(state.range(0)));
    for (auto _ : state) {
        sockaddr_storage name{};
        socklen_t length = sizeof name;
        getsockname(connected.server.get(), reinterpret_cast<sockaddr*>(&name), &length);
        length = sizeof name;
        getpeername(connected.server.get(), reinterpret_cast<sockaddr*>(&name), &length);
        benchmark::DoNotOptimize(name);
    }
}
BENCHMARK(both_names)->Name("floor/both_names")->Arg(SOCK_STREAM)->Arg(SOCK_DGRAM);

void escape_text(benchmark::State& state) {
    const std::array<std::string, 2> texts = {
        std::string(text),
        "\x1b[2J\r\nNov 22 sshd: \xff\xfe fake line \xe2\x80\xae" + std::string(100, '\n')};
    const auto& chosen = texts[static_cast<std::size_t>(state.range(0))];
    for (auto _ : state) {
        benchmark::DoNotOptimize(escape(chosen));
    }
}
BENCHMARK(escape_text)->Name("log/escape")->ArgName("hostile")->Arg(0)->Arg(1);

} // namespace
} // namespace egress
