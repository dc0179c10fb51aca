#include "ctl/process.h"

#include <fstream>
#include <sstream>

namespace egress::ctl {

std::optional<std::uint64_t> start_of(const std::string& file) {
    std::ifstream in(file);
    std::stringstream text;
    text << in.rdbuf();
    const auto all = text.str();
    // The 20th field after the name, which may contain anything.
    const auto name_end = all.rfind(')');
    if (name_end == std::string::npos) {
        return std::nullopt;
    }
    std::istringstream fields(all.substr(name_end + 1));
    std::string skipped;
    for (int i = 0; i < 19; ++i) {
        fields >> skipped;
    }
    std::uint64_t start = 0;
    return fields >> start ? std::optional(start) : std::nullopt;
}

std::string cgroup_in(const std::string& file) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with("0::/")) {
            return line.substr(3);
        }
    }
    return {};
}

} // namespace egress::ctl
