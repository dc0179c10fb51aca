// Bytes into lines, with a bound. Pure.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "helper/proto.h"

namespace egress::helper {

class LineReader {
  public:
    /// Calls `take` for each line that is complete, without its '\n'. Of a line that is too long
    /// only the first max_line bytes are kept and given, once its end has come: parse_request
    /// refuses that many, and its id can still be read. What follows the last '\n' waits for more.
    void feed(std::string_view bytes, const std::function<void(std::string_view)>& take);

  private:
    std::string partial_; ///< at most max_line bytes
};

} // namespace egress::helper
