// Any bytes as input of `serve`: lines stay bounded, each is refused with a printable reason or is
// a request that prints to a line which parses to the same.
#include "helper/lines.h"
#include "helper/proto.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

using namespace egress::helper;

namespace {

void check(bool holds) {
    if (!holds) {
        std::abort();
    }
}

void try_line(std::string_view line) {
    check(line.size() <= max_line);
    const auto request = parse_request(line);
    if (!request) {
        const auto reply = error_line(parse_id(line).value_or(0), request.error().text);
        check(reply.size() <= max_line && reply.back() == '\n');
        check(std::all_of(reply.begin(), reply.end() - 1,
                          [](char c) { return c >= 0x20 && c <= 0x7e; }));
        return;
    }
    const auto text = print(*request);
    const auto again = parse_request(text);
    check(again && print(*again) == text);
    check(again->id == request->id && again->verb == request->verb &&
          again->name == request->name && again->block.target == request->block.target &&
          again->block.seconds == request->block.seconds &&
          again->block.action == request->block.action);
}

/// The same bytes as arguments of one event: split at NULs and blanks.
void try_event(std::string_view bytes) {
    std::string copy(bytes.substr(0, 4096));
    std::vector<const char*> arguments;
    std::replace(copy.begin(), copy.end(), ' ', '\0');
    for (std::size_t at = 0; at < copy.size() && arguments.size() < 12;) {
        arguments.push_back(copy.c_str() + at);
        at += std::char_traits<char>::length(copy.c_str() + at) + 1;
    }
    const char* const seconds = arguments.size() > 7 ? arguments[7] : nullptr;
    const char* const action = arguments.size() > 8 ? arguments[8] : nullptr;
    const auto count = std::min<std::size_t>(arguments.size(), 7);
    const auto event = parse_event(std::span(arguments).first(count), seconds, action);
    check(!event || is_name(event->name));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    LineReader whole;
    std::vector<std::string> lines;
    whole.feed(bytes, [&](std::string_view line) {
        try_line(line);
        lines.emplace_back(line);
    });
    // In pieces the lines are the same.
    LineReader pieces;
    std::size_t next = 0;
    for (std::size_t at = 0; at < size; at += 1 + at % 7) {
        const std::size_t length = 1 + at % 7;
        pieces.feed(bytes.substr(at, length),
                    [&](std::string_view line) { check(lines.at(next++) == line); });
    }
    check(next == lines.size());
    try_event(bytes);
    return 0;
}
