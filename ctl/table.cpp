#include "ctl/table.h"

#include <algorithm>

#include "ctl/commands/commands.h"
#include "ctl/out.h"
#include "daemon/base/suggest.h"

namespace egress::ctl {

namespace {

constexpr Option globals[] = {
    {'S', "socket", "path", "the daemon's control socket", Kind::file},
    {'\0', "json", "", "write JSON"},
    {'\0', "timeout", "seconds", "wait this long for the daemon (30)"},
    {'h', "help", "", "show this help"},
    {'\0', "version", "", "show the version of egressctl"},
};

constexpr std::string_view protocols = "tcp udp";

constexpr Option dump_options[] = {
    {'a', "", "", "all rows, blocked or not"},
    {'b', "", "", "only blocked rows"},
    {'d', "", "", "more columns: protocol, name, state, since, until, reason"},
    {'n', "", "", "no header"},
    {'r', "", "", "remaining time instead of last access"},
    {'w', "", "", "wide enough for IPv6 addresses"},
    {'x', "", "", "only rows that are set aside because they were damaged"},
    {'D', "", "db", "directory of the database", Kind::directory},
    {'\0', "name", "name", "only rows of this rule name", Kind::word, true},
    {'\0', "port", "port", "only rows of this port; * for those of every port", Kind::word, true},
    {'\0', "state", "state", "only rows in this state, as --json has it", Kind::word, true,
     "counting wanted blocked monitored releasing"},
};

constexpr Option check_options[] = {
    {'\0', "print", "", "print the rules in canonical form"},
};

constexpr Option apply_options[] = {
    {'\0', "confirm", "time", "go back after 60s, 5m, ... unless \"confirm\" comes"},
    {'\0', "wait", "", "with --confirm: wait until the trial has ended, and report how"},
    {'\0', "force", "", "even if the rules cut off what the system needs"},
};

constexpr Option status_options[] = {
    {'v', "", "", "numbers that are zero, too"},
};

constexpr Option reload_options[] = {
    {'\0', "force", "", "even if the rules cut off what the system needs"},
};

constexpr Option confirm_options[] = {
    {'\0', "back", "", "end the trial: the previous rules return"},
};

constexpr Option block_options[] = {
    {'\0', "for", "time", "how long, as 90s, 10m, 1h30m, 7d; * (the default) for ever"},
    {'\0', "name", "name", "rule name whose set takes the block"},
    {'\0', "proto", "protocol", "tcp, udp or a number; without it every protocol", Kind::word,
     false, protocols},
    {'\0', "reason", "text", "why, up to 256 bytes, kept with the row"},
    {'\0', "from", "file", "every address of a file, one per line; - is standard input",
     Kind::file},
    {'\0', "force", "", "even if it cuts off your session, this host or an exempt address"},
};

constexpr Option unblock_options[] = {
    {'\0', "name", "name", "only blocks of this rule name"},
    {'\0', "proto", "protocol", "only blocks of this protocol", Kind::word, false, protocols},
    {'\0', "from", "file", "every address of a file, one per line; - is standard input",
     Kind::file},
    {'\0', "all", "", "the blocks of every address"},
};

constexpr Option forget_options[] = {
    {'\0', "name", "name", "only rows of this rule name"},
    {'\0', "proto", "protocol", "only rows of this protocol", Kind::word, false, protocols},
};

constexpr Option watch_options[] = {
    {'\0', "blocks", "", "blocks and lifts instead of the events of [egress]"},
    {'\0', "action", "action",
     "only BLOCKED, ALLOWED or MONITOR; with --blocks BLOCK, EXTEND or LIFT", Kind::word, true,
     "BLOCKED ALLOWED MONITOR BLOCK EXTEND LIFT"},
    {'\0', "name", "name", "with --blocks: only of this rule name", Kind::word, true},
    {'\0', "exe", "path", "only of this program", Kind::file, true},
    {'\0', "uid", "user", "only of this user, a name or a number", Kind::word, true},
    {'\0', "addr", "prefix", "only to this address or network, as ADDR[/LEN]", Kind::word, true},
    {'\0', "port", "port", "only to this port", Kind::word, true},
    {'\0', "rule", "line", "only by this line, as LINE or FILE:LINE; \"none\"", Kind::word, true},
};

constexpr Option learn_options[] = {
    {'\0', "since", "time", "only traffic seen in the last 2h, 7d, ..."},
    {'\0', "exact", "", "no prefixes for neighbours"},
    {'\0', "refused", "", "include refused traffic"},
    {'D', "", "db", "directory of the database", Kind::directory},
};

constexpr Option explain_options[] = {
    {'\0', "pid", "pid", "a running process"},
    {'\0', "exe", "path", "a program that need not run", Kind::file},
    {'\0', "command", "name", "its command name, else the last part of the path"},
    {'\0', "parent", "path", "program that forked it; again: the one that forked that, and so on",
     Kind::file, true},
    {'\0', "uid", "user", "its user, a name or a number; with --exe else root"},
    {'\0', "gid", "group", "its group; else the user's"},
    {'\0', "cgroup", "path", "its cgroup, below the root of the hierarchy"},
    {'\0', "container", "", "it is in a container"},
    {'\0', "host", "", "it is on the host"},
    {'\0', "type", "type", "stream, dgram, raw or seqpacket; else the protocol's", Kind::word,
     false, "stream dgram raw seqpacket"},
    {'\0', "proto", "protocol", "tcp, udp or a number; else the type's", Kind::word, false,
     protocols},
    {'\0', "report", "addr", "which lines would count a failed log-in from ADDR at PORT"},
};

constexpr Option run_options[] = {
    {'\0', "allow", "dest", "DEST[:PORT], as in [egress], or unix:/PATH", Kind::word, true},
    {'\0', "rules", "file", "lines of [egress] for it, after those of --allow", Kind::file},
    {'\0', "learn", "", "refuse nothing, but print the --allow list that it needs"},
    {'\0', "report", "file", "write what was refused there, as JSON", Kind::file},
    {'q', "", "", "no line at the end, and none of what is not refused here"},
};

constexpr std::span<const Option> none{};
constexpr std::string_view target = "[ADDR[/LEN][:PORT]]";

constexpr Command all_commands[] = {
    {"dump", target, "list the rows of the database, with or without the daemon", dump_options,
     run_dump},
    {"status", "", "show the state of the daemon, its helper and its database", status_options,
     run_status},
    {"reload", "", "read the rules files again, all or nothing", reload_options, run_reload},
    {"check", "[FILE]", "check rules without touching the daemon", check_options, run_check,
     Kind::file},
    {"apply", "FILE", "put other rules in force, for a trial or for good", apply_options, run_apply,
     Kind::file},
    {"confirm", "", "keep the rules on trial", confirm_options, run_confirm},
    {"block", target, "block an address by hand", block_options, run_block},
    {"unblock", target, "lift the blocks of an address", unblock_options, run_unblock},
    {"forget", "ADDR[/LEN][:PORT]", "forget the counts of an address, and lift its blocks",
     forget_options, run_forget},
    {"which", "ADDR[/LEN]", "show which block or exemption covers an address, and by which line",
     none, run_which},
    {"watch", "", "show the events of [egress], or blocks, as they come", watch_options, run_watch},
    {"learn", "", "print the lines of [egress] that the traffic seen needs", learn_options,
     run_learn},
    {"explain", "DEST[:PORT]", "explain which line decides, and why", explain_options, run_explain},
    {"selftest", "", "try every way out and report what is enforced here", none, run_selftest},
    {"run", "COMMAND [ARGUMENT]...", "run a command that may reach only what is listed",
     run_options, run_run, Kind::word, false, true},
    {"detach", "", "remove egress from the kernel: hooks, pins and tables", none, run_detach},
    {"rules", "", "print the rules that are in force", none, run_rules},
    {"metrics", "", "print the daemon's counters in Prometheus form", none, run_metrics},
    {"version", "", "print the versions of egressctl and of the daemon", none, run_version},
    {"help", "[COMMAND]", "show help for a command", none, run_help, Kind::command},
    {"completion", "SHELL", "print the completion script for bash or zsh", none, run_completion,
     Kind::shell, true},
};

/// "; did you mean X?" for the nearest of the known words, or "".
std::string suggestion(std::string_view word, const std::vector<std::string>& known) {
    const std::vector<std::string_view> candidates(known.begin(), known.end());
    const auto best = nearest(word, candidates);
    return best.empty() ? std::string{} : fmt::format("; did you mean '{}'?", best);
}

/// Reads words left to right; one object per command line.
class Reader {
  public:
    explicit Reader(std::span<const std::string> words) : words_(words) {}

    Outcome<Line> read() {
        while (next_ < words_.size()) {
            if (const auto taken = take(words_[next_++]); !taken) {
                return std::unexpected(taken.error());
            }
        }
        return finish();
    }

  private:
    Outcome<void> take(const std::string& word) {
        if (!only_operands_ && word == "--") {
            only_operands_ = true;
            return {};
        }
        if (!only_operands_ && word.starts_with("--")) {
            return take_long(word);
        }
        if (!only_operands_ && word.size() > 1 && word[0] == '-') {
            return take_letters(word);
        }
        return line_.command == nullptr ? take_command(word) : take_operand(word);
    }

    Outcome<void> take_command(const std::string& word) {
        line_.command = find_command(word);
        if (line_.command != nullptr) {
            return {};
        }
        std::vector<std::string> names;
        for (const auto& command : commands()) {
            names.emplace_back(command.name);
        }
        const auto hint = suggestion(word, names);
        return usage(fmt::format("unknown command '{}'{}", printable(word),
                                 hint.empty() ? "; 'egressctl help' lists them" : hint));
    }

    Outcome<void> take_operand(const std::string& word) {
        line_.arguments.operands.push_back(word);
        only_operands_ = only_operands_ || line_.command->rest;
        if (line_.arguments.operands.size() > line_.command->max_operands()) {
            return usage(fmt::format("'{}' is one word too many; usage: egressctl {}",
                                     printable(word), line_.command->synopsis()));
        }
        return {};
    }

    Outcome<void> take_long(const std::string& word) {
        const auto equals = word.find('=');
        const auto name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
        const auto* option = find([&](const Option& o) { return !name.empty() && o.name == name; });
        if (option == nullptr) {
            return unknown(word.substr(0, equals));
        }
        if (equals == std::string::npos) {
            return store(*option, std::nullopt);
        }
        if (option->argument.empty()) {
            return usage(fmt::format("'--{}' takes no value", name));
        }
        return store(*option, word.substr(equals + 1));
    }

    Outcome<void> take_letters(const std::string& word) {
        for (std::size_t i = 1; i < word.size(); ++i) {
            const auto* option = find([&](const Option& o) { return o.letter == word[i]; });
            if (option == nullptr) {
                return unknown(std::string{'-', word[i]});
            }
            if (!option->argument.empty()) {
                const bool attached = i + 1 < word.size();
                return store(*option, attached ? std::optional(word.substr(i + 1)) : std::nullopt);
            }
            if (const auto stored = store(*option, std::nullopt); !stored) {
                return stored;
            }
        }
        return {};
    }

    template <typename Wanted>
    const Option* find(const Wanted& wanted) const {
        const auto own = line_.command != nullptr ? line_.command->options : none;
        for (const auto options : {own, global_options()}) {
            if (const auto found = std::ranges::find_if(options, wanted); found != options.end()) {
                return &*found;
            }
        }
        return nullptr;
    }

    Outcome<void> store(const Option& option, std::optional<std::string> value) {
        if (option.argument.empty()) {
            line_.arguments.values[option.key()] = "";
            return {};
        }
        if (!value && next_ == words_.size()) {
            return usage(fmt::format("'{}' needs a value: {}", option.text(), option.help));
        }
        const auto& given = value ? *value : words_[next_++];
        line_.arguments.values[option.key()] = given;
        line_.arguments.all[option.key()].push_back(given);
        return {};
    }

    Outcome<void> unknown(std::string_view word) const {
        std::vector<std::string> names;
        const auto add = [&](const Option& option) {
            if (!option.name.empty()) {
                names.push_back("--" + std::string(option.name));
            }
        };
        std::ranges::for_each(global_options(), add);
        if (line_.command == nullptr) {
            return usage(fmt::format("unknown option '{}' before the command{}", printable(word),
                                     suggestion(word, names)));
        }
        std::ranges::for_each(line_.command->options, add);
        const auto hint = suggestion(word, names);
        return usage(fmt::format(
            "'{}' has no option '{}'{}", line_.command->name, printable(word),
            hint.empty() ? fmt::format("; usage: egressctl {}", line_.command->synopsis()) : hint));
    }

    Outcome<Line> finish() {
        if (line_.arguments.has("help") || line_.arguments.has("version")) {
            return std::move(line_);
        }
        if (line_.command == nullptr) {
            return fail(Exit::usage, "no command given; 'egressctl help' lists them");
        }
        if (line_.arguments.operands.size() < line_.command->min_operands()) {
            return fail(Exit::usage,
                        fmt::format("'{}' needs {}; usage: egressctl {}", line_.command->name,
                                    line_.command->operands, line_.command->synopsis()));
        }
        return std::move(line_);
    }

    static Outcome<void> usage(std::string text) { return fail(Exit::usage, std::move(text)); }

    std::span<const std::string> words_;
    std::size_t next_ = 0;
    bool only_operands_ = false;
    Line line_;
};

} // namespace

std::span<const Command> commands() {
    return all_commands;
}

std::span<const Option> global_options() {
    return globals;
}

const Command* find_command(std::string_view name) {
    const auto found = std::ranges::find(all_commands, name, &Command::name);
    return found == std::end(all_commands) ? nullptr : found;
}

std::string Option::text() const {
    return name.empty() ? fmt::format("-{}", letter) : fmt::format("--{}", name);
}

std::string Command::synopsis() const {
    std::string letters;
    std::string others;
    for (const auto& option : options) {
        if (option.argument.empty() && option.name.empty()) {
            letters += option.letter;
        } else if (option.argument.empty()) {
            others += fmt::format(" [{}]", option.text());
        } else {
            others +=
                fmt::format(" [{} {}]{}", option.text(), option.argument, option.many ? "..." : "");
        }
    }
    auto text = std::string(name);
    text += letters.empty() ? "" : fmt::format(" [-{}]", letters);
    text += others;
    return operands.empty() ? text : fmt::format("{} {}", text, operands);
}

Outcome<Line> parse_line(std::span<const std::string> words) {
    return Reader(words).read();
}

} // namespace egress::ctl
