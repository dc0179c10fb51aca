#include "daemon/bpf/tables/mounts.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include <fmt/format.h>

namespace egress::bpf {

namespace {

/// Undoes the kernel's \040 for blanks and the like; "/" becomes "".
std::string decode(const std::string& text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            out += static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8));
            i += 3;
        } else {
            out += text[i];
        }
    }
    return out == "/" ? "" : out;
}

} // namespace

std::vector<Mount> read_mounts() {
    std::vector<Mount> out;
    std::ifstream file("/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        std::istringstream fields(line);
        Mount mount;
        std::string skip;
        std::string device;
        fields >> mount.id >> skip >> device >> mount.root >> mount.point;
        while (fields >> skip && skip != "-") {
        }
        fields >> mount.type;
        unsigned major = 0;
        unsigned minor = 0;
        if (std::sscanf(device.c_str(), "%u:%u", &major, &minor) != 2) {
            continue;
        }
        mount.device = major << 20 | minor;
        mount.root = decode(mount.root);
        mount.point = decode(mount.point);
        out.push_back(std::move(mount));
    }
    return out;
}

int mount_id_of(int fd) {
    std::ifstream info(fmt::format("/proc/self/fdinfo/{}", fd));
    for (std::string key, value; info >> key >> value;) {
        if (key == "mnt_id:") {
            return std::atoi(value.c_str());
        }
    }
    return -1;
}

bool is_within(std::string_view path, std::string_view outer) {
    return path.starts_with(outer) && (path.size() == outer.size() || path[outer.size()] == '/');
}

} // namespace egress::bpf
