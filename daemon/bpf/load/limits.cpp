#include "daemon/bpf/load/limits.h"

#include <algorithm>
#include <ctime>
#include <fstream>

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include "lib/fd.h"

namespace egress::bpf {

std::uint64_t ticks_of_a_second() {
    timespec tick{};
    if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) != 0 || tick.tv_sec != 0 || tick.tv_nsec <= 0) {
        return 0;
    }
    constexpr std::uint64_t second = 1'000'000'000;
    return second / static_cast<std::uint64_t>(tick.tv_nsec);
}

std::uint32_t processes_possible() {
    constexpr std::uint32_t least = 65536;
    constexpr std::uint32_t most = 1 << 22; // the maximum of pid_max
    std::uint64_t possible = most;
    for (const char* const limit : {"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"}) {
        std::uint64_t value = 0;
        if (std::ifstream(limit) >> value) {
            possible = std::min(possible, value);
        }
    }
    return std::max(least, static_cast<std::uint32_t>(possible));
}

std::optional<std::uint32_t> pinned_entries(const std::string& pin) {
    const Fd map(bpf_obj_get(pin.c_str()));
    bpf_map_info info{};
    std::uint32_t size = sizeof info;
    return map && bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0
               ? std::optional(info.max_entries)
               : std::nullopt;
}

} // namespace egress::bpf
