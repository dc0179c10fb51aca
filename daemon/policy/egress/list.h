// Lists of addresses: the files of egress.d/ for "@name" in [egress].
//
// One prefix or name per line; '#' comments, blank lines, a byte order mark and CRLF line ends are
// accepted. A million lines are normal, so a line costs no allocation, and a file is never in
// memory as a whole.
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
inline constexpr std::size_t max_list_errors = 10; ///< reported per list
inline constexpr std::size_t max_list_name = 255;  ///< bytes of a list's name

/// Why a list cannot have the name; null: it can. No valid name leads out of the directory.
const char* bad_list_name(std::string_view name);

/// "/etc/egress.d" for "/etc/egress.conf".
std::string lists_beside(const std::string& rules_file);

/// Parses the text of a list into `out`, in pieces of any size.
class ListText {
  public:
    ListText(AddressList& out, Diagnostics& diagnostics) : out_(out), diagnostics_(diagnostics) {}

    /// False: too many errors; stop.
    bool feed(std::string_view piece);
    /// Call after the last piece.
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
    std::string rest_; // start of a line that ends in a later piece
    int number_ = 0;
    std::size_t errors_ = 0;
};

/// The lists of one policy, each read once.
class Lists {
  public:
    /// `directory` "": no lists.
    Lists(std::string directory, Diagnostics& out) : directory_(std::move(directory)), out_(out) {}

    /// Reads the list `name` of the rule at `cell`, unless it was read before.
    void use(const Cell& cell, const std::string& name);
    /// The lists that could be read, in the order of their first use.
    std::vector<std::shared_ptr<const AddressList>> take() { return std::move(lists_); }
    /// Paths of all lists that were used.
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
