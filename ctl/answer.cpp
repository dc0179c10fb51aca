#include "ctl/answer.h"

// Beast asserts that a last chunk has 5 bytes where 4 have come: in "0\r\n\r" it reads none of
// those that are missing, and waits. A sender must not end a build with assertions by that.
#define BOOST_DISABLE_ASSERTS
#include <algorithm>
#include <limits>

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>

namespace egress::ctl {

namespace {

namespace http = boost::beast::http;
using ErrorCode = boost::beast::error_code;
using Text = boost::beast::string_view;

bool begins_like_http(std::string_view text) {
    constexpr std::string_view start = "HTTP/1.";
    const auto length = std::min(start.size(), text.size());
    return text.substr(0, length) == start.substr(0, length);
}

} // namespace

/// Beast's parser with our ends: the status and the body are kept, fields are not.
class Answer::Parser final : public http::basic_parser<false> {
  public:
    Parser(std::optional<std::uint64_t> body_max, OnBody on_body) : on_body_(std::move(on_body)) {
        eager(true);
        // Not none: Beast 1.74 takes every Content-Length for longer than that.
        body_limit(body_max.value_or(std::numeric_limits<std::uint64_t>::max()));
    }

    unsigned status() const { return status_; }
    bool enough() const { return enough_; }

  private:
    void on_request_impl(http::verb, Text, Text, int, ErrorCode&) override {}
    void on_response_impl(int status, Text, int, ErrorCode& error) override {
        status_ = static_cast<unsigned>(status);
        if (status < 100) {
            error = http::error::bad_status;
        }
    }
    void on_field_impl(http::field, Text, Text, ErrorCode&) override {}
    void on_header_impl(ErrorCode&) override {}
    void on_body_init_impl(const boost::optional<std::uint64_t>&, ErrorCode&) override {}
    std::size_t on_body_impl(Text piece, ErrorCode& error) override { return give(piece, error); }
    void on_chunk_header_impl(std::uint64_t, Text, ErrorCode&) override {}
    std::size_t on_chunk_body_impl(std::uint64_t, Text piece, ErrorCode& error) override {
        return give(piece, error);
    }
    void on_finish_impl(ErrorCode&) override {}

    std::size_t give(Text piece, ErrorCode& error) {
        enough_ = !on_body_({piece.data(), piece.size()});
        if (enough_) {
            error = http::error::end_of_stream; // any error ends it; take() looks at enough_
        }
        return piece.size();
    }

    OnBody on_body_;
    unsigned status_ = 0;
    bool enough_ = false;
};

Answer::Answer(std::optional<std::uint64_t> body_max, OnBody on_body)
    : parser_(std::make_unique<Parser>(body_max, std::move(on_body))) {}

Answer::~Answer() = default;

unsigned Answer::status() const {
    return parser_->status();
}

/// Moves the state on; the number of bytes that are done with.
std::size_t Answer::parse(std::string_view bytes) {
    ErrorCode error;
    const auto used = parser_->put({bytes.data(), bytes.size()}, error);
    if (parser_->enough()) {
        state_ = State::enough;
    } else if (error == http::error::body_limit) {
        state_ = State::too_long;
    } else if (error && error != http::error::need_more) {
        state_ = State::wrong;
        why_ = error.message();
    } else if (parser_->is_done()) {
        state_ = State::complete;
    }
    return used;
}

Answer::State Answer::take(std::string_view bytes) {
    if (state_ != State::more || bytes.empty()) {
        return state_;
    }
    if (held_.empty()) {
        const auto used = parse(bytes);
        held_ = bytes.substr(used);
    } else {
        held_ += bytes;
        held_.erase(0, parse(held_));
    }
    // Beast waits for a whole head; who speaks another protocol may never send one.
    if (state_ == State::more && status() == 0 && !begins_like_http(held_)) {
        state_ = State::wrong;
        why_ = "not HTTP";
    } else if (state_ == State::more && held_.size() > held_max) {
        state_ = State::wrong;
        why_ = "a line without end";
    }
    return state_;
}

Answer::State Answer::end() {
    if (state_ != State::more) {
        return state_;
    }
    ErrorCode error;
    if (parser_->got_some()) {
        parser_->put_eof(error);
    }
    state_ = parser_->is_done() && !error ? State::complete : State::cut;
    return state_;
}

} // namespace egress::ctl
