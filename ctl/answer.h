// One HTTP answer, read from its bytes as they come.
//
// Boost.Beast parses: header only, so nothing is loaded for it when egressctl starts. What it reads
// is a stranger's until it proves to be egressd's, as EGRESS_CONTROL may name any socket: the head
// is bounded by Beast (8 KiB), the body by the caller, what waits for its other half by held_max.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace egress::ctl {

class Answer {
  public:
    enum class State {
        more,     ///< incomplete
        complete, ///< with its last byte
        enough,   ///< OnBody said so
        too_long, ///< a body above the limit
        cut,      ///< it ended in the middle
        wrong,    ///< no HTTP, or against its rules; why() says how
    };
    /// Receives a piece of the body; status() is known by then. false: enough.
    using OnBody = std::function<bool(std::string_view piece)>;

    /// nullopt: a body of any length.
    Answer(std::optional<std::uint64_t> body_max, OnBody on_body);
    ~Answer();
    Answer(const Answer&) = delete;
    Answer& operator=(const Answer&) = delete;

    /// Takes the next bytes. Does nothing after any other state than `more`.
    State take(std::string_view bytes);
    /// The sender has closed the connection.
    State end();

    State state() const { return state_; }
    /// HTTP status; 0 before the head is complete.
    unsigned status() const;
    /// Why the state is `wrong`: English, not escaped.
    const std::string& why() const { return why_; }

  private:
    class Parser;

    std::size_t parse(std::string_view bytes);

    /// Bytes without their other half: a head, or the line that begins a chunk.
    static constexpr std::size_t held_max = 64u << 10u;

    std::unique_ptr<Parser> parser_;
    std::string held_;
    std::string why_;
    State state_ = State::more;
};

} // namespace egress::ctl
