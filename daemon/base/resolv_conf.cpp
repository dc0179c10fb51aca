#include "daemon/base/resolv_conf.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

namespace egress {

namespace {

constexpr std::size_t most_bytes = 64U << 10;
constexpr std::size_t most_nameservers = 64;
constexpr std::size_t most_domains = 64;

/// "" if it cannot be read. Never waits for a writer, as of a FIFO.
std::string head_of(const std::string& path) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    struct stat st {};
    if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
        return "";
    }
    std::string out(most_bytes, '\0');
    std::size_t used = 0;
    while (used < out.size()) {
        const ssize_t got = read(fd.get(), out.data() + used, out.size() - used);
        if (got <= 0) {
            break;
        }
        used += static_cast<std::size_t>(got);
    }
    out.resize(used);
    return out;
}

std::string domain(std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) {
        return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    });
    if (text.ends_with('.')) {
        text.pop_back();
    }
    return text;
}

void take_line(const std::string& line, ResolvConf& out) {
    std::istringstream words(line);
    std::string key;
    std::string value;
    words >> key;
    if (key == "nameserver" && words >> value && out.nameservers.size() < most_nameservers) {
        const auto address = Address::parse(value.substr(0, value.find('%')));
        if (address && std::ranges::find(out.nameservers, *address) == out.nameservers.end()) {
            out.nameservers.push_back(*address);
        }
    }
    if (key != "search" && key != "domain") {
        return;
    }
    out.search.clear();
    while (words >> value && out.search.size() < most_domains) {
        if (auto name = domain(value); !name.empty()) { // "." is every domain, which is none here
            out.search.push_back(std::move(name));
        }
    }
}

} // namespace

ResolvConf read_resolv_conf(const std::string& path) {
    ResolvConf out;
    std::istringstream lines(head_of(path));
    for (std::string line; std::getline(lines, line);) {
        take_line(line, out);
    }
    return out;
}

} // namespace egress
