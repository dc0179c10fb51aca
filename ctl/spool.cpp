#include "ctl/spool.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

namespace egress::ctl {

void Spool::add(std::string_view text) {
    held_ += text;
    if (held_.size() >= most_held) {
        spill();
    }
}

void Spool::spill() {
    if (!file_ && error_ == 0) {
        file_.reset(std::tmpfile());
        error_ = file_ ? 0 : errno;
    }
    if (error_ == 0 && std::fwrite(held_.data(), 1, held_.size(), file_.get()) != held_.size()) {
        error_ = errno;
    }
    held_.clear();
}

Outcome<void> Spool::write(std::FILE* to) {
    if (file_ && error_ == 0) {
        std::array<char, 64u << 10u> part{};
        error_ = std::fflush(file_.get()) == 0 ? 0 : errno;
        std::rewind(file_.get());
        for (std::size_t size = 1; error_ == 0 && size > 0;) {
            size = std::fread(part.data(), 1, part.size(), file_.get());
            std::fwrite(part.data(), 1, size, to); // run() checks the stream once
        }
        error_ = error_ == 0 && std::ferror(file_.get()) != 0 ? EIO : error_;
    }
    if (error_ != 0) {
        return fail(Exit::unreachable,
                    fmt::format("cannot keep the rows in {}: {}; the output is incomplete",
                                P_tmpdir, std::strerror(error_)));
    }
    std::fwrite(held_.data(), 1, held_.size(), to);
    return {};
}

} // namespace egress::ctl
