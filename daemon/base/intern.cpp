#include "daemon/base/intern.h"

#include <limits>

namespace egress {

std::uint16_t Intern::number(std::string_view text) {
    if (const auto found = numbers_.find(text); found != numbers_.end()) {
        return found->second;
    }
    if (texts_.size() > std::numeric_limits<std::uint16_t>::max()) {
        return 0;
    }
    const auto number = static_cast<std::uint16_t>(texts_.size());
    const auto added = numbers_.emplace(std::string(text), number).first;
    texts_.push_back(&added->first);
    return number;
}

} // namespace egress
