#include "daemon/policy/text/lexer.h"

#include <algorithm>

#include <fmt/format.h>

#include "lib/utf8.h"

namespace egress::policy {

namespace {

bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\v' || c == '\f';
}

/// What is wrong with the first character of `text` (null: nothing); stores its bytes in `length`.
const char* bad_character(std::string_view text, std::size_t& length) {
    const auto byte = static_cast<unsigned char>(text[0]);
    length = utf8::first(text).length;
    if (length == 0) {
        length = 1;
        return "byte is not valid UTF-8";
    }
    if (byte == 0) {
        return "NUL byte; is this a text file?";
    }
    const bool c1 = byte == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0;
    if ((byte < 0x20 && !is_blank(text[0])) || byte == 0x7f || c1) {
        return "control character";
    }
    return nullptr;
}

} // namespace

Place Cell::place() const {
    return line->place(offset);
}

Place Line::place(std::size_t offset) const {
    Place place{std::string(file_), 0, 0};
    for (const auto& segment : segments_) {
        if (segment.offset <= offset) {
            place.line = segment.line;
            place.column = segment.column + static_cast<int>(offset - segment.offset);
        }
    }
    return place;
}

void Line::clear(std::string_view file) {
    file_ = file;
    text_.clear();
    segments_.clear();
    cells_.clear();
}

void Line::append(std::string_view piece, int line, int column) {
    if (piece.empty()) {
        return;
    }
    segments_.push_back({text_.size(), line, column});
    text_ += piece;
}

void Line::split() {
    const std::string_view text = text_;
    std::size_t at = 0;
    while (at < text.size()) {
        if (is_blank(text[at])) {
            ++at;
            continue;
        }
        const auto end = static_cast<std::size_t>(
            std::find_if(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), is_blank) -
            text.begin());
        cells_.push_back(Cell{text.substr(at, end - at), this, at});
        at = end;
    }
}

Lexer::Lexer(std::string_view text, std::string_view file, Diagnostics& out)
    : text_(text), file_(file), out_(out) {
    if (text_.starts_with("\xef\xbb\xbf")) {
        at_ = 3;
    }
    if (text_.size() > max_text) {
        out_.error({std::string(file_), 0, 0},
                   fmt::format("the file has {} bytes; {} is the most", text_.size(), max_text),
                   "split it, and put the parts into the directory beside it");
        at_ = text_.size();
    }
}

bool Lexer::next(Line& line) {
    while (at_ < text_.size()) {
        line.clear(file_);
        if (!read_logical(line)) {
            continue;
        }
        line.split();
        if (!line.cells_.empty()) {
            return true;
        }
    }
    return false;
}

/// False: the line has an error, which is reported.
bool Lexer::read_logical(Line& line) {
    bool good = true;
    while (read_physical(line, good)) {
    }
    if (line.text_.size() > max_line) {
        out_.error(line.place(0), fmt::format("the line has more than {} bytes", max_line),
                   "is a '\\' at the end of a line too many?");
        return false;
    }
    return good;
}

/// True: the next line continues this one.
bool Lexer::read_physical(Line& line, bool& good) {
    ++number_;
    const std::size_t end = std::min(text_.find('\n', at_), text_.size());
    std::string_view physical = text_.substr(at_, end - at_);
    at_ = end + 1;
    if (physical.ends_with('\r')) {
        physical.remove_suffix(1);
    }
    std::size_t hash = physical.find('#');
    while (hash != std::string_view::npos && hash > 0 && physical[hash - 1] == '\\') {
        hash = physical.find('#', hash + 1);
    }
    const bool commented = hash != std::string_view::npos;
    physical = physical.substr(0, hash);
    const bool continued = !commented && physical.ends_with('\\');
    if (continued) {
        physical.remove_suffix(1);
    }
    if (line.text_.size() <= max_line) { // beyond it, only find the end
        scan(line, physical, good);
    }
    return continued && at_ < text_.size();
}

/// Checks every character and appends the text, with '#' for "\#".
void Lexer::scan(Line& line, std::string_view text, bool& good) {
    std::size_t start = 0;
    const auto place = [&](std::size_t at) {
        return Place{std::string(file_), number_, static_cast<int>(at) + 1};
    };
    for (std::size_t at = 0; at < text.size();) {
        std::size_t length = 1;
        if (text[at] == '\\') {
            line.append(text.substr(start, at - start), number_, static_cast<int>(start) + 1);
            start = at + 1;
            if (at + 1 == text.size() || text[at + 1] != '#') {
                out_.error(place(at),
                           "a '\\' that stands neither at the end of a line nor before '#'",
                           "nothing may follow the '\\' that continues a line, not even a blank");
                good = false;
                return;
            }
            length = 2;
        } else if (const char* wrong = bad_character(text.substr(at), length)) {
            out_.error(place(at), fmt::format("{}: {}", wrong, quote(text.substr(at, length))));
            good = false;
            return;
        }
        at += length;
    }
    line.append(text.substr(start), number_, static_cast<int>(start) + 1);
}

} // namespace egress::policy
