// Lists of addresses: the files of egress.d/ that "@name" in [egress] stands for.
//
// A prefix or a name a line, '#' comments, blank lines, a byte order mark and CRLF line ends. A
// million lines are normal, so a line costs no allocation, and a file is never in memory as a
// whole.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/lexer.h"

namespace egress::policy {

inline constexpr std::size_t max_list_bytes = 256U << 20;
inline constexpr std::size_t max_list_prefixes = 16U << 20;
inline constexpr std::size_t max_list_names = 1U << 20;
inline constexpr std::size_t max_list_line = 4096; ///< bytes, with its comment
inline constexpr std::size_t max_list_errors = 10; ///< that are told of one list
inline constexpr std::size_t max_list_name = 255;  ///< bytes of a list's name

/// Why a list cannot have the name; null: it can. No name leads out of the directory.
const char* bad_list_name(std::string_view name);

/// "/etc/egress.d" for "/etc/egress.conf".
std::string lists_beside(const std::string& rules_file);

/// Text of a list, in pieces that end anywhere, into `out`.
class ListText {
  public:
    ListText(AddressList& out, Diagnostics& diagnostics) : out_(out), diagnostics_(diagnostics) {}

    /// False: there were too many errors to go on.
    bool feed(std::string_view piece);
    /// After the last piece.
    void finish();

  private:
    void line(std::string_view text);
    void entry(std::string_view text, int column);
    void prefix(std::string_view text, int column);
    void name(std::string_view text, int column);
    void add(const Prefix& prefix, int column);
    void error(int column, std::string what, std::string hint = {});

    AddressList& out_;
    Diagnostics& diagnostics_;
    std::string rest_; // of a line whose end is in the next piece
    int number_ = 0;
    std::size_t errors_ = 0;
};

/// The lists of one policy, each read once.
class Lists {
  public:
    /// `directory` "" has none.
    Lists(std::string directory, Diagnostics& out) : directory_(std::move(directory)), out_(out) {}

    /// Reads the list that `name` of the rule at `cell` stands for, unless it has been.
    void use(const Cell& cell, const std::string& name);
    /// In the order of their first use; those that could not be read are not among them.
    std::vector<std::shared_ptr<const AddressList>> take() { return std::move(lists_); }
    /// Paths of all that were used.
    const std::vector<std::string>& files() const { return files_; }

  private:
    bool safe_directory(const Cell& cell);
    bool read(const Cell& cell, AddressList& list);

    std::string directory_;
    Diagnostics& out_;
    std::vector<std::shared_ptr<const AddressList>> lists_;
    std::vector<std::string> names_;
    std::vector<std::string> files_;
};

} // namespace egress::policy
