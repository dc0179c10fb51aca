// Text of a rules file -> logical lines of cells with their places in the file.
//
// '#' starts a comment anywhere ("\#" is a '#'), '\' at the end of a line joins the next line
// without a gap, as in the ancestor's files. Blanks separate cells. A UTF-8 byte order mark and
// CRLF line ends are accepted; bytes of comments are not checked.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/policy/text/diagnostics.h"

namespace egress::policy {

inline constexpr std::size_t max_text = 16U << 20; ///< bytes of one rules file
inline constexpr std::size_t max_line = 16U << 10; ///< bytes of one logical line

class Line;

/// A column of a line, or a part of one; a view into its Line.
struct Cell {
    std::string_view text;
    const Line* line = nullptr;
    std::size_t offset = 0; ///< into the logical line

    Cell part(std::size_t from, std::size_t count = std::string_view::npos) const {
        return Cell{text.substr(from, count), line, offset + from};
    }
    /// The part before the first `separator`; the whole cell if there is none.
    Cell before(char separator) const { return part(0, text.find(separator)); }
    Place place() const;
};

/// One logical line: continued lines joined, the comment removed.
class Line {
  public:
    Line() = default;
    Line(const Line&) = delete;
    Line& operator=(const Line&) = delete;

    const std::vector<Cell>& cells() const { return cells_; }
    /// The place in the file of the byte at `offset` of the logical line.
    Place place(std::size_t offset) const;

  private:
    friend class Lexer;
    struct Segment {
        std::size_t offset; // where the segment begins in the logical line
        int line;
        int column;
    };
    void clear(std::string_view file);
    void append(std::string_view piece, int line, int column);
    void split();

    std::string_view file_;
    std::string text_;
    std::vector<Segment> segments_;
    std::vector<Cell> cells_;
};

class Lexer {
  public:
    /// `text` and `file` must outlive the lexer and its lines.
    Lexer(std::string_view text, std::string_view file, Diagnostics& out);

    /// The next line that has cells and no errors; false at the end.
    bool next(Line& line);

  private:
    bool read_logical(Line& line);
    bool read_physical(Line& line, bool& good);
    void scan(Line& line, std::string_view text, bool& good);

    std::string_view text_;
    std::string_view file_;
    Diagnostics& out_;
    std::size_t at_ = 0;
    int number_ = 0; // of the last physical line
};

} // namespace egress::policy
