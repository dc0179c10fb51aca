#include "daemon/base/resolv_conf.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>

#include "daemon/base/small_file.h"

namespace egress {

namespace {

constexpr std::size_t most_nameservers = 64;
constexpr std::size_t most_domains = 64;

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
    std::istringstream lines(read_small_file(path));
    for (std::string line; std::getline(lines, line);) {
        take_line(line, out);
    }
    return out;
}

} // namespace egress
