// What the tests of egressctl share: whole command lines with their output, a server that answers
// what it is told to, a clock that stands, a directory that goes away.
#pragma once

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <sys/socket.h>
#include <sys/un.h>

#include "ctl/table.h"
#include "daemon/base/clock.h"
#include "lib/fd.h"

namespace egress::test {

inline constexpr std::int64_t noon = 1'795'348'800; ///< 2026-11-22 12:00:00 UTC

class StandingClock final : public Clock {
  public:
    Moment now() const override { return 1000; }
    std::int64_t at_boot() const override { return noon - now(); }
};

class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::string name = "/tmp/egressctl-test-XXXXXX";
        path_ = mkdtemp(name.data());
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

struct Ran {
    int status = -1;
    std::string out;
    std::string err;
};

/// One command line, in this process.
inline Ran run_words(std::vector<std::string> words, const std::string& socket = "/nonexistent/s",
                     const std::string& input = "", const std::string& pins = "/nonexistent/pins") {
    char* texts[2] = {};
    std::size_t sizes[2] = {};
    const StandingClock clock;
    ctl::Context context;
    context.out = open_memstream(&texts[0], &sizes[0]);
    context.err = open_memstream(&texts[1], &sizes[1]);
    context.in = std::tmpfile();
    std::fwrite(input.data(), 1, input.size(), context.in);
    std::rewind(context.in);
    context.clock = &clock;
    context.socket = socket;
    context.pins = pins;
    Ran ran;
    ran.status = static_cast<int>(ctl::run(context, words));
    for (auto* const stream : {context.out, context.err, context.in}) {
        std::fclose(stream);
    }
    ran.out.assign(texts[0], sizes[0]);
    ran.err.assign(texts[1], sizes[1]);
    std::free(texts[0]);
    std::free(texts[1]);
    return ran;
}

/// Answers every connection to its socket in a thread of its own, one after the other.
class FakeServer {
  public:
    /// What to do with a request; the descriptor is closed afterwards.
    using Answer = std::function<void(int fd, const std::string& request)>;

    explicit FakeServer(Answer answer) : answer_(std::move(answer)) {
        listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path().copy(address.sun_path, sizeof address.sun_path - 1);
        ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
        ::listen(listener_.get(), 8);
        thread_ = std::thread([this] { serve(); });
    }
    ~FakeServer() {
        ::shutdown(listener_.get(), SHUT_RDWR); // wakes accept()
        thread_.join();
    }

    std::string path() const { return directory_ / "control.sock"; }
    /// Head and body of the last request.
    std::string request() const {
        const std::lock_guard lock(mutex_);
        return request_;
    }
    std::string body() const {
        const auto text = request();
        const auto head = text.find("\r\n\r\n");
        return head == std::string::npos ? "" : text.substr(head + 4);
    }

    static void send(int fd, std::string_view text) {
        while (!text.empty()) {
            const auto sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
            if (sent <= 0) {
                return;
            }
            text.remove_prefix(static_cast<std::size_t>(sent));
        }
    }

    /// A well-formed answer.
    static Answer says(int status, std::string body) {
        return [status, body = std::move(body)](int fd, const std::string&) {
            send(fd, "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " +
                         std::to_string(body.size()) + "\r\n\r\n" + body);
        };
    }
    /// These bytes and the end.
    static Answer bytes(std::string text) {
        return [text = std::move(text)](int fd, const std::string&) { send(fd, text); };
    }

  private:
    static std::size_t wanted_length(const std::string& text) {
        const auto head = text.find("\r\n\r\n");
        if (head == std::string::npos) {
            return text.size() + 1;
        }
        const auto field = text.find("Content-Length: ");
        return head + 4 + (field < head ? std::stoul(text.substr(field + 16)) : 0);
    }

    void serve() {
        for (;;) {
            const Fd peer(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!peer) {
                return;
            }
            std::string text;
            char buffer[4096];
            while (text.size() < wanted_length(text)) {
                const auto got = ::recv(peer.get(), buffer, sizeof buffer, 0);
                if (got <= 0) {
                    break;
                }
                text.append(buffer, static_cast<std::size_t>(got));
            }
            {
                const std::lock_guard lock(mutex_);
                request_ = text;
            }
            answer_(peer.get(), text);
        }
    }

    TemporaryDirectory directory_;
    Answer answer_;
    Fd listener_;
    mutable std::mutex mutex_;
    std::string request_;
    std::thread thread_;
};

inline std::string slurp(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

/// The output of a shell command; empty where it fails to start.
inline std::string output_of(const std::string& command) {
    std::string text;
    auto* const pipe = ::popen(command.c_str(), "re");
    if (pipe == nullptr) {
        return text;
    }
    char buffer[4096];
    while (const auto got = std::fread(buffer, 1, sizeof buffer, pipe)) {
        text.append(buffer, got);
    }
    ::pclose(pipe);
    return text;
}

inline bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

} // namespace egress::test
