// Splits bytes into lines of bounded length. Pure.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "helper/proto.h"

namespace egress::helper {

class LineReader {
  public:
    /// Calls `take` for each complete line, without its '\n'. Passes only the first max_line bytes
    /// of a longer line, once its end has come: parse_request refuses that many, but can still read
    /// the id. Keeps the bytes after the last '\n' for the next call.
    void feed(std::string_view bytes, const std::function<void(std::string_view)>& take);

  private:
    std::string partial_; ///< at most max_line bytes
};

} // namespace egress::helper
