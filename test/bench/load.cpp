// A server under attack: sends reports through the public library and measures what becomes of
// them. test/bench/system.py runs it beside egressd in a private network namespace; each command
// prints one JSON object.
//
//   load reports handle|oneshot PORT FIRST COUNT [SPAN [PASS]]
//                                                 COUNT reports, until all are durable
//   load reports tcp PORT 0 COUNT                 the same (handle) from 8,192 TCP peers
//   load floor   handle|oneshot PORT FIRST COUNT  to a receiver that does nothing with them
//   load idle    PORT FIRST COUNT                 one report at a time -> element in force
//   load burst   PORT FIRST COUNT                 COUNT at once -> elements in force
//   load element FIRST COUNT                      elements added with nothing in between
//
// Addresses FIRST, FIRST+1, ...; with SPAN they stay inside FIRST .. FIRST+SPAN-1, in no order, and
// the first PASS of that order are passed over.
// EGRESS_SOCKET and EGRESS_CONTROL name the daemon's sockets.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <err.h>
#include <sys/prctl.h>
#include <time.h>

#include "load_firewall.h"
#include "load_floor.h"
#include "load_peers.h"
#include "load_reporter.h"
#include "load_status.h"

namespace egress::bench {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t sockets_in_turn = 8192; // twice what a listener's backlog holds

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string control_socket() {
    const char* const path = std::getenv("EGRESS_CONTROL");
    return path == nullptr ? "/run/egress/control.sock" : path;
}

double cpu_seconds(clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Stretch {
    std::uint16_t port = 0; ///< of the service that is attacked
    std::uint32_t first = 0;
    std::uint32_t count = 0;
    std::uint32_t span = 0; ///< 0: every address once
    std::uint32_t pass = 0; ///< steps to pass over within the span

    std::uint32_t at(std::uint32_t i) const {
        constexpr std::uint64_t stride = 2654435761; // odd, so it walks every address of the span
        const std::uint64_t step = std::uint64_t{pass} + i;
        return first + (span == 0 ? i : static_cast<std::uint32_t>(step * stride % span));
    }
};

using Next = std::function<int(std::uint32_t)>; ///< a descriptor for address number i

/// Sockets for a way of reporting.
Next sockets_for(const std::string& way, const Stretch& stretch) {
    if (way == "tcp") {
        const auto tcp = std::make_shared<Connections>(stretch.port, sockets_in_turn);
        return [tcp](std::uint32_t) { return tcp->next(); };
    }
    const auto udp = std::make_shared<Peers>(stretch.port, sockets_in_turn);
    return [udp](std::uint32_t i) { return udp->at(i); };
}

void send_all(Reporter& reporter, const Next& next, const Stretch& stretch) {
    for (std::uint32_t i = 0; i < stretch.count; ++i) {
        reporter.report(next(stretch.at(i)));
    }
}

json reports(const std::string& way, const Stretch& stretch) {
    const std::string control = control_socket();
    const Next next = sockets_for(way, stretch);
    Reporter reporter(way != "oneshot");
    const json before = status(control);
    const double cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    const auto start = Clock::now();
    send_all(reporter, next, stretch);
    const double sent = seconds_since(start);
    const double send_cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    json after;
    std::uint64_t taken = 0;
    do {
        std::this_thread::sleep_for(1ms);
        after = status(control);
        taken = after["reports"]["taken"].get<std::uint64_t>() -
                before["reports"]["taken"].get<std::uint64_t>();
    } while ((taken < stretch.count || after["store"]["pending"] != 0) &&
             seconds_since(start) < 300);
    const double durable = seconds_since(start);
    return {{"sent", stretch.count},
            {"taken", taken},
            {"retries", reporter.retries()},
            {"send_s", sent},
            {"send_cpu_us", send_cpu / stretch.count * 1e6},
            {"durable_s", durable},
            {"per_s", stretch.count / durable},
            {"rows_before", before["rows"]},
            {"rows_after", after["rows"]},
            {"evicted", after["evicted"]},
            {"commits", after["store"]["commits"].get<std::uint64_t>() -
                            before["store"]["commits"].get<std::uint64_t>()}};
}

json floor(const std::string& way, const Stretch& stretch) {
    const char* const path = std::getenv("EGRESS_SOCKET");
    if (path == nullptr) {
        errx(2, "EGRESS_SOCKET must name the floor's socket");
    }
    const Next next = sockets_for(way, stretch);
    FloorReceiver receiver(path);
    clockid_t clock{};
    clock_getcpuclockid(receiver.pid(), &clock);
    Reporter reporter(way != "oneshot");
    const auto start = Clock::now();
    send_all(reporter, next, stretch);
    while (receiver.taken() < stretch.count && seconds_since(start) < 60) {
        std::this_thread::sleep_for(100us);
    }
    const double all = seconds_since(start);
    return {{"sent", stretch.count},
            {"taken", receiver.taken()},
            {"retries", reporter.retries()},
            {"per_s", stretch.count / all},
            {"cpu_us", cpu_seconds(clock) / stretch.count * 1e6}};
}

json percentiles(std::vector<double> times) {
    std::ranges::sort(times);
    const auto at = [&](double part) {
        const auto place = static_cast<std::size_t>(part * static_cast<double>(times.size()));
        return times.empty() ? 0 : times[std::min(place, times.size() - 1)] * 1e3;
    };
    return {{"count", times.size()},
            {"p50_ms", at(0.5)},
            {"p95_ms", at(0.95)},
            {"p99_ms", at(0.99)},
            {"max_ms", at(1.0)}};
}

/// Waits until the element of `index` is in force; false: not within five seconds.
bool heard(Listener& listener, std::uint32_t index) {
    bool found = false;
    const auto start = Clock::now();
    while (!found && seconds_since(start) < 5) {
        listener.receive(
            100ms, [&](std::uint32_t address) { found = found || address == address_of(index); });
    }
    return found;
}

json one_at_a_time(const Stretch& stretch, const std::function<void(std::uint32_t)>& prepare,
                   const std::function<void(std::uint32_t)>& act) {
    Listener listener;
    std::vector<double> times;
    for (std::uint32_t i = stretch.first; i < stretch.first + stretch.count; ++i) {
        prepare(i);
        const auto start = Clock::now();
        act(i);
        if (heard(listener, i)) {
            times.push_back(seconds_since(start));
        }
        std::this_thread::sleep_for(2ms); // idle again, its commit and confirmation over
    }
    json out = percentiles(times);
    out["lost"] = stretch.count - times.size();
    return out;
}

json idle(const Stretch& stretch) {
    Peers peers(stretch.port, 64);
    Reporter reporter(true);
    int fd = -1;
    return one_at_a_time(
        stretch, [&](std::uint32_t i) { fd = peers.at(i); },
        [&](std::uint32_t) { reporter.report(fd); });
}

json element(const Stretch& stretch) {
    RawAdder adder;
    return one_at_a_time(
        stretch, [](std::uint32_t) {}, [&](std::uint32_t i) { adder.add(address_of(i)); });
}

json burst(const Stretch& stretch) {
    Listener listener;
    Peers peers(stretch.port, stretch.count);
    Reporter reporter(true);
    std::vector<int> fds;
    for (std::uint32_t i = 0; i < stretch.count; ++i) {
        fds.push_back(peers.at(stretch.at(i)));
    }
    std::vector<Clock::time_point> begun(stretch.count);
    std::vector<Clock::time_point> ended(stretch.count);
    std::uint32_t seen = 0;
    std::thread listening([&] {
        for (int silent = 0; seen < stretch.count && silent < 50;) {
            const bool news = listener.receive(100ms, [&](std::uint32_t address) {
                const std::uint32_t i = index_of(address) - stretch.first;
                if (i < stretch.count && ended[i] == Clock::time_point{}) {
                    ended[i] = Clock::now();
                    ++seen;
                }
            });
            silent = news ? 0 : silent + 1;
        }
    });
    for (std::uint32_t i = 0; i < stretch.count; ++i) {
        begun[i] = Clock::now();
        reporter.report(fds[i]);
    }
    const auto sent = Clock::now();
    listening.join();
    std::vector<double> times;
    for (std::uint32_t i = 0; i < stretch.count; ++i) {
        if (ended[i] != Clock::time_point{}) {
            times.push_back(std::chrono::duration<double>(ended[i] - begun[i]).count());
        }
    }
    json out = percentiles(times);
    out["lost"] = stretch.count - times.size();
    out["retries"] = reporter.retries();
    out["send_ms"] = std::chrono::duration<double>(sent - begun[0]).count() * 1e3;
    out["all_ms"] =
        std::chrono::duration<double>(*std::ranges::max_element(ended) - begun[0]).count() * 1e3;
    return out;
}

int usage() {
    std::fputs("usage: load reports|floor handle|oneshot|tcp PORT FIRST COUNT [SPAN]\n"
               "       load idle|burst PORT FIRST COUNT\n"
               "       load element FIRST COUNT\n",
               stderr);
    return 2;
}

int run(const std::vector<std::string>& words) {
    const auto number = [&](std::size_t i) {
        return i < words.size() ? static_cast<std::uint32_t>(std::stoul(words[i])) : 0;
    };
    const auto stretch = [&](std::size_t i) {
        return Stretch{static_cast<std::uint16_t>(number(i)), number(i + 1), number(i + 2),
                       number(i + 3), number(i + 4)};
    };
    const std::string command = words.empty() ? "" : words[0];
    json out;
    if (command == "reports" && words.size() >= 5) {
        out = reports(words[1], stretch(2));
    } else if (command == "floor" && words.size() == 5) {
        out = floor(words[1], stretch(2));
    } else if (command == "idle" && words.size() == 4) {
        out = idle(stretch(1));
    } else if (command == "burst" && words.size() == 4) {
        out = burst(stretch(1));
    } else if (command == "element" && words.size() == 3) {
        out = element({0, number(1), number(2), 0, 0});
    } else {
        return usage();
    }
    std::puts(out.dump().c_str());
    return 0;
}

} // namespace
} // namespace egress::bench

int main(int argc, char** argv) {
    prctl(PR_SET_TIMERSLACK, 1000UL); // a wait of 100 us lasts about 100 us
    return egress::bench::run({argv + 1, argv + argc});
}
