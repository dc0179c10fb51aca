// The one table of subcommands. Parsing, --help, completion and the test of the manual use it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ctl/context.h"

namespace egress::ctl {

/// What completion may offer for an operand or an option's argument.
enum class Kind : unsigned char { word, file, directory, command, shell };

struct Option {
    char letter = '\0';        ///< "-x"; '\0': none
    std::string_view name;     ///< "--name"; empty: none
    std::string_view argument; ///< name of its argument in help texts; empty: a flag
    std::string_view help;
    Kind kind = Kind::word;
    bool many = false;            ///< may be given several times
    std::string_view values = {}; ///< what completion offers for Kind::word, with blanks between

    /// The key in Arguments: the long name, or the letter if there is none.
    std::string key() const { return name.empty() ? std::string(1, letter) : std::string(name); }
    std::string text() const; ///< "--for", or "-D" if there is no long name
};

/// A command line, checked against the table.
struct Arguments {
    std::map<std::string, std::string, std::less<>> values; ///< by Option::key(); flags hold ""
    std::map<std::string, std::vector<std::string>, std::less<>> all; ///< in the order given
    std::vector<std::string> operands;

    bool has(std::string_view key) const { return values.find(key) != values.end(); }
    const std::string* value(std::string_view key) const {
        const auto found = values.find(key);
        return found == values.end() ? nullptr : &found->second;
    }
    /// Every value of an option that may be given several times.
    std::span<const std::string> each(std::string_view key) const {
        const auto found = all.find(key);
        return found == all.end() ? std::span<const std::string>() : found->second;
    }
};

struct Command {
    std::string_view name;
    std::string_view operands; ///< as the synopsis shows them; "[X]" may be left out
    std::string_view help;     ///< one line
    std::span<const Option> options;
    Exit (*handler)(const Context&, const Arguments&);
    Kind kind = Kind::word; ///< of the operands
    bool hidden = false;    ///< not in --help
    bool rest = false;      ///< the operands are a command line: all words from the first one on

    std::string synopsis() const; ///< "dump [-abdnrw] [-D db]"
    std::size_t max_operands() const { return operands.empty() ? 0 : rest ? ~std::size_t{0} : 1; }
    std::size_t min_operands() const { return operands.empty() || operands[0] == '[' ? 0 : 1; }
};

std::span<const Command> commands();
/// Options that stand before or after any command: -S, --json, --timeout, -h.
std::span<const Option> global_options();
/// null: no command has this name.
const Command* find_command(std::string_view name);

struct Line {
    const Command* command = nullptr; ///< null only for a bare --help or --version
    Arguments arguments;              ///< global options are among them
};

/// Reads a command line without the program's name. Failures are usage failures with a hint.
Outcome<Line> parse_line(std::span<const std::string> words);

std::string help_text();
std::string help_text(const Command& command);
/// Completion scripts, made from the table.
std::string bash_completion();
std::string zsh_completion();

/// Parses and runs one command line; all that main() does. `context` holds the defaults.
Exit run(Context context, std::span<const std::string> words);

} // namespace egress::ctl
