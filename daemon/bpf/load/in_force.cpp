#include "daemon/bpf/load/in_force.h"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <vector>

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/bpf.h>

#include "daemon/bpf/abi.h"
#include "lib/fd.h"

namespace egress::bpf {

namespace {

bool has_links(const std::string& directory) {
    std::error_code code;
    for (auto entry = std::filesystem::directory_iterator(directory, code);
         !code && entry != std::filesystem::directory_iterator(); entry.increment(code)) {
        if (entry->path().filename().string().starts_with("link_")) {
            return true;
        }
    }
    return false;
}

/// The settings pinned there, as many bytes as their version has; empty: none.
std::vector<std::byte> pinned_settings(const std::string& pins) {
    const Fd map(bpf_obj_get((pins + "/config").c_str()));
    if (!map) {
        return {};
    }
    bpf_map_info info{};
    std::uint32_t size = sizeof info;
    const std::uint32_t zero = 0;
    if (bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0) {
        std::vector<std::byte> value(info.value_size);
        if (bpf_map_lookup_elem(map.get(), &zero, value.data()) == 0) {
            return value;
        }
    }
    return std::vector<std::byte>(1); // they exist, but are unreadable
}

} // namespace

std::optional<std::uint32_t> pinned_abi(const std::string& pins) {
    // Its offset in the settings of every version.
    constexpr std::size_t place = 44;
    static_assert(offsetof(egress_config, abi) == place);
    const auto value = pinned_settings(pins);
    if (value.empty()) {
        return std::nullopt;
    }
    std::uint32_t abi = 0;
    if (value.size() >= place + sizeof abi) {
        std::memcpy(&abi, value.data() + place, sizeof abi);
    }
    return value.size() != sizeof(egress_config) && abi == EGRESS_ABI ? 0 : abi;
}

bool others_set_aside(const std::string& pins) {
    std::error_code code;
    for (auto entry = std::filesystem::directory_iterator(pins, code);
         !code && entry != std::filesystem::directory_iterator(); entry.increment(code)) {
        if (entry->is_directory(code) && has_links(entry->path().string())) {
            return true;
        }
    }
    return false;
}

InForce pinned_in_force(const std::string& pins) {
    InForce out;
    out.other_version = others_set_aside(pins);
    if (!has_links(pins)) {
        return out;
    }
    const auto value = pinned_settings(pins);
    egress_config config{};
    if (value.size() == sizeof config) {
        std::memcpy(&config, value.data(), sizeof config);
    }
    if (config.abi == EGRESS_ABI) {
        out.generation = config.generation;
        out.monitor = config.monitor != 0;
        out.jobs = config.jobs != 0;
    } else {
        out.other_version = true;
    }
    return out;
}

std::optional<std::string> why_detached(const std::string& pin) {
    const Fd link(bpf_obj_get(pin.c_str()));
    if (!link) {
        return errno == ENOENT ? "its pin is gone" : std::strerror(errno);
    }
    bpf_link_info info{};
    std::uint32_t size = sizeof info;
    if (bpf_obj_get_info_by_fd(link.get(), &info, &size) != 0) {
        return std::strerror(errno);
    }
    // A link that was detached, or whose cgroup is gone, has no cgroup.
    return info.type == BPF_LINK_TYPE_CGROUP && info.cgroup.cgroup_id == 0
               ? std::optional<std::string>("it was taken off")
               : std::nullopt;
}

} // namespace egress::bpf
