#include "daemon/base/ids.h"

#include <fstream>

#include "daemon/base/number.h"

namespace egress {

Ids::Ids(const std::string& path) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const auto first = line.find(':');
        const auto second = first == std::string::npos ? first : line.find(':', first + 1);
        if (first == 0 || second == std::string::npos || line[0] == '#') {
            continue;
        }
        const auto third = line.find(':', second + 1);
        const auto digits = std::string_view(line).substr(second + 1, third - second - 1);
        const auto number = parse_decimal<std::uint32_t>(digits);
        if (number && numbers_.try_emplace(line.substr(0, first), *number).second) {
            names_.try_emplace(*number, line.substr(0, first));
        }
    }
}

std::optional<std::uint32_t> Ids::number(std::string_view name) const {
    const auto at = numbers_.find(name);
    return at == numbers_.end() ? std::nullopt : std::optional(at->second);
}

const std::string* Ids::name(std::uint32_t number) const {
    const auto at = names_.find(number);
    return at == names_.end() ? nullptr : &at->second;
}

std::set<std::string> Ids::names(std::uint32_t number) const {
    std::set<std::string> out;
    for (const auto& [name, id] : numbers_) {
        if (id == number) {
            out.insert(name);
        }
    }
    return out;
}

} // namespace egress
