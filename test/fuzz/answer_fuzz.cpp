// Any bytes as an HTTP answer: the same whatever pieces they come in, a body within its bound, and
// a reason without control characters.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "ctl/answer.h"

using namespace egress::ctl;

namespace {

constexpr std::size_t body_max = 4096;
constexpr std::size_t head_max = 8192; ///< of Beast

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "does not hold: %s\n", what);
        std::abort();
    }
}

struct Read {
    Answer::State state;
    unsigned status;
    std::string body;
    std::string why;
};

Read read(std::string_view text, std::size_t piece) {
    Read out{};
    Answer answer(body_max, [&](std::string_view body) {
        out.body += body;
        return true;
    });
    while (!text.empty() && answer.take(text.substr(0, piece)) == Answer::State::more) {
        text.remove_prefix(std::min(piece, text.size()));
    }
    out.state = answer.end();
    out.status = answer.status();
    out.why = answer.why();
    return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto whole = read(text, std::string_view::npos);
    const auto pieces = read(text, size == 0 ? 1 : 1 + data[size - 1] % 64U);
    for (const auto* const each : {&whole, &pieces}) {
        require(each->state != Answer::State::more, "it has ended");
        require(each->body.size() <= body_max, "a body is bounded");
        require(each->why.empty() == (each->state != Answer::State::wrong), "a fault has a reason");
        require(std::ranges::none_of(
                    each->why,
                    [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }),
                "a reason holds no control character");
    }
    // Near the bound of a head, pieces decide whether it is met.
    if (whole.state == Answer::State::complete && size < head_max) {
        require(pieces.state == whole.state, "pieces end where the whole ends");
        require(pieces.status == whole.status, "pieces make the same status");
        require(pieces.body == whole.body, "pieces make the same body");
    }
    return 0;
}
