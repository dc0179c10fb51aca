#include "helper/lines.h"

#include <algorithm>

namespace egress::helper {

void LineReader::feed(std::string_view bytes, const std::function<void(std::string_view)>& take) {
    while (!bytes.empty()) {
        const auto end = std::min(bytes.find('\n'), bytes.size());
        const auto piece = bytes.substr(0, end);
        const bool complete = end < bytes.size();
        if (complete && partial_.empty()) {
            take(piece.substr(0, max_line)); // the common case needs no copy
        } else {
            partial_ += piece.substr(0, max_line - partial_.size());
            if (complete) {
                take(partial_);
                partial_.clear();
            }
        }
        bytes.remove_prefix(complete ? end + 1 : end);
    }
}

} // namespace egress::helper
