// The table of commands against everything made from it: parsing, help, manual, completion; and
// the values of the command line.
#include "test/unit/ctl_test.h"

#include <set>

#include <doctest/doctest.h>

#include "ctl/out.h"
#include "ctl/values.h"
#include "daemon/policy/parser.h"
#include "egress-paths.h"

using namespace egress;
using namespace egress::ctl;
using namespace egress::test;

namespace {

std::string source(const std::string& path) {
    const char* const root = std::getenv("EGRESS_TEST_SOURCE");
    return slurp(std::string(root != nullptr ? root : ".") + "/" + path);
}

/// The part of the manual that describes a command: from its item to the next command's.
std::string manual_of(const std::string& manual, std::string_view name) {
    const auto begin = manual.find(".It Cm " + std::string(name));
    if (begin == std::string::npos) {
        return "";
    }
    const auto end = std::min(manual.find("\n.It Cm ", begin), manual.find("\n.Sh ", begin));
    return manual.substr(begin, end - begin + 1);
}

/// Words after ".It Cm " or after ".It Fl " at line starts.
std::set<std::string> items(const std::string& text, const std::string& macro) {
    std::set<std::string> found;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(macro)) {
            found.insert(line.substr(macro.size(), line.find(' ', macro.size()) - macro.size()));
        }
    }
    return found;
}

std::set<std::string> expected_flags(const Command& command) {
    std::set<std::string> flags;
    for (const auto& option : command.options) {
        flags.insert(option.name.empty() ? std::string(1, option.letter)
                                         : "-" + std::string(option.name));
    }
    return flags;
}

/// The options in the lines of a command in the SYNOPSIS; "options" if it leaves them to the text.
std::set<std::string> synopsis_of(const std::string& manual, const std::string& name) {
    std::set<std::string> found;
    bool inside = false;
    std::istringstream lines(manual.substr(0, manual.find(".Sh DESCRIPTION")));
    for (std::string line; std::getline(lines, line);) {
        inside = line == ".Cm " + name || (inside && line != ".Nm");
        std::istringstream words(inside ? line : "");
        for (std::string word, before; words >> word; before = word) {
            if (before == "Fl" && word.size() > 1 && word[0] == '-') {
                found.insert(word);
            } else if (before == "Fl" && word != "-") { // "-" alone ends the options
                for (const char letter : word) {
                    found.insert(std::string(1, letter));
                }
            } else if (before == "Ar" && word == "options") {
                found.insert(word);
            }
        }
    }
    return found;
}

/// What bash offers after these words, the last one being completed.
std::set<std::string> completions(const std::vector<std::string>& words) {
    const TemporaryDirectory directory;
    std::ofstream(directory / "script") << bash_completion();
    std::string array;
    for (const auto& word : words) {
        array += word.empty() ? " \"\"" : " " + word;
    }
    const auto text = output_of("bash -c 'source " + (directory / "script") + "; COMP_WORDS=(" +
                                array + "); COMP_CWORD=" + std::to_string(words.size() - 1) +
                                "; _egressctl; printf \"%s\\n\" \"${COMPREPLY[@]}\"'");
    std::istringstream lines(text);
    std::set<std::string> offered;
    for (std::string line; std::getline(lines, line);) {
        offered.insert(line);
    }
    return offered;
}

} // namespace

TEST_CASE("manual: every command with every option, and nothing else") {
    const auto manual = source("man/egressctl.8");
    REQUIRE(!manual.empty());
    std::set<std::string> visible;
    for (const auto& command : commands()) {
        if (command.hidden) {
            continue;
        }
        CAPTURE(command.name);
        visible.insert(std::string(command.name));
        CHECK(has(manual, "\n.Cm " + std::string(command.name) + "\n")); // SYNOPSIS
        CHECK(items(manual_of(manual, command.name), ".It Fl ") == expected_flags(command));
        const auto shown = synopsis_of(manual, std::string(command.name));
        CHECK((shown.contains("options") || shown == expected_flags(command)));
    }
    CHECK(items(manual, ".It Cm ") == visible);
    for (const auto& option : global_options()) {
        const auto name = "Fl -" + std::string(option.name);
        CAPTURE(name);
        CHECK(has(manual, name));
    }
}

TEST_CASE("help: of all, of each, and as an option") {
    const auto all = run_words({"--help"});
    CHECK(all.status == 0);
    for (const auto& command : commands()) {
        CAPTURE(command.name);
        CHECK(has(all.out, "\n  " + std::string(command.name) + " ") != command.hidden);
        const auto one = run_words({std::string(command.name), "--help"});
        CHECK(one.status == 0);
        CHECK(has(one.out, "usage: egressctl " + std::string(command.name)));
        CHECK(one.out == run_words({"help", std::string(command.name)}).out);
        for (const auto& option : command.options) {
            CHECK(has(one.out, std::string(option.help)));
        }
    }
    CHECK(run_words({"help"}).out == all.out);
    CHECK(run_words({"help", "nothing"}).status == 2);
    CHECK(run_words({"status", "-h"}).status == 0); // asks nobody
}

TEST_CASE("version: as an option, without a daemon") {
    const auto ran = run_words({"--version"});
    CHECK(ran.status == 0);
    CHECK(ran.out == "egressctl " EGRESS_VERSION "\n");
    CHECK(ran.out == run_words({"status", "--version"}).out);
}

TEST_CASE("completion: bash offers what the table holds") {
    CHECK(completions({"egressctl", "bl"}) == std::set<std::string>{"block"});
    using Words = std::set<std::string>;
    CHECK(completions({"egressctl", "block", "10.0.0.1", "--proto", ""}) == Words{"tcp", "udp"});
    CHECK(completions({"egressctl", "watch", "--action", "BLOCKE"}) == Words{"BLOCKED"});
    CHECK(completions({"egressctl", "explain", "--type", "d"}) == Words{"dgram"});
    CHECK(completions({"egressctl", "dump", "--state", "w"}) == Words{"wanted"});
    CHECK(has(zsh_completion(), "--proto=[only rows of this protocol]:protocol:(tcp udp)'"));
    const auto first = completions({"egressctl", ""});
    for (const auto& command : commands()) {
        CAPTURE(command.name);
        const std::string name(command.name);
        CHECK(first.contains(name) != command.hidden);
        if (command.hidden) {
            continue;
        }
        const auto offered = completions({"egressctl", "-S", "dump", "--json", name, "-"});
        for (const auto options : {command.options, global_options()}) {
            for (const auto& option : options) {
                CHECK((option.letter == '\0' ||
                       offered.contains("-" + std::string(1, option.letter))));
                CHECK((option.name.empty() || offered.contains("--" + std::string(option.name))));
            }
        }
    }
}

TEST_CASE("completion: scripts are well formed") {
    const auto zsh = run_words({"completion", "zsh"});
    CHECK(zsh.status == 0);
    CHECK(zsh.out.starts_with("#compdef egressctl\n"));
    for (const auto& command : commands()) {
        CHECK(has(zsh.out, "        " + std::string(command.name) + ")\n") != command.hidden);
        for (const auto& option : command.options) {
            const auto name = option.name.empty() ? std::string(1, option.letter)
                                                  : "-" + std::string(option.name);
            CHECK((has(zsh.out, "'-" + name) || has(zsh.out, "'*-" + name)));
        }
    }
    CHECK(run_words({"completion", "bash"}).out == bash_completion());
    CHECK(run_words({"completion", "fish"}).status == 2);
    const TemporaryDirectory directory;
    std::ofstream(directory / "zsh") << zsh.out;
    std::ofstream(directory / "bash") << bash_completion();
    CHECK(output_of("bash -n " + (directory / "bash") + " 2>&1") == "");
    CHECK(output_of("! command -v zsh >/dev/null || zsh -n " + (directory / "zsh") + " 2>&1") ==
          "");
}

TEST_CASE("usage: status 2 and the wrong word in the message") {
    struct Case {
        std::vector<std::string> words;
        std::string says;
    };
    const std::vector<Case> cases = {
        {{}, "no command"},
        {{"statsu"}, "'statsu'; did you mean 'status'?"},
        {{"frobnicate"}, "unknown command 'frobnicate'"},
        {{"\x1b[2J"}, "'\\x1b[2J'"},
        {{"--jsn"}, "did you mean '--json'?"},
        {{"status", "extra"}, "'extra' is one word too many"},
        {{"dump", "-z"}, "'dump' has no option '-z'"},
        {{"dump", "-az"}, "'-z'"},
        {{"dump", "-D"}, "'-D' needs a value"},
        {{"dump", "--json=yes"}, "'--json' takes no value"},
        {{"block"}, "'block' needs ADDR"},
        {{"--FOO", "status"}, "unknown option '--FOO'"},
        {{"watch", "--action", "FOO"},
         "--action: 'FOO' is not an action; write BLOCKED, ALLOWED or MONITOR"},
        {{"explain", "--exe", "/x", "--type", "FOO", "192.0.2.1"},
         "--type: 'FOO' is not a type; write"},
        {{"block", "1.2.3.4", "5.6.7.8"}, "'5.6.7.8' is one word too many"},
        {{"block", "1.2.3.4", "--fro", "1m"}, "did you mean '--for'?"},
        {{"block", "host.example"}, "'host.example' is not an address"},
        {{"block", "1.2.3.4", "--for", "soon"}, "--for: 'soon' is not a time"},
        {{"block", "1.2.3.4", "--name", "-x"}, "--name: '-x'"},
        {{"block", "1.2.3.4", "--name", "a b"}, "'a b' is not a rule's name"},
        {{"block", "1.2.3.4", "--proto", "tpc"}, "--proto: 'tpc'"},
        {{"block", "1.2.3.4", "--reason", "a\nb"}, "--reason: 'a\\x0ab'"},
        {{"block", "1.2.3.4", "--reason", std::string(257, 'x')}, "257 bytes"},
        {{"unblock", "1.2.3.0/33"}, "'33' is not a prefix length"},
        {{"--timeout", "0", "status"}, "--timeout: '0'"},
        {{"-S", "", "status"}, "path is empty"},
        {{"-S", std::string(200, 'x'), "status"}, "longer than 107 bytes"},
    };
    for (const auto& [words, says] : cases) {
        const auto ran = run_words(words);
        CAPTURE(ran.err);
        CHECK(ran.status == 2);
        CHECK(has(ran.err, says));
        CHECK(ran.out == "");
    }
}

TEST_CASE("options: clusters, attached and separate values, both sides of the command") {
    const auto line = [](std::vector<std::string> words) {
        const auto parsed = parse_line(words);
        REQUIRE_MESSAGE(parsed.has_value(), parsed.error().text);
        return *parsed;
    };
    const auto dump = line({"-S", "/s", "dump", "-anD/db", "-w", "--json"});
    CHECK(dump.command->name == "dump");
    for (const auto* const key : {"a", "n", "w", "json"}) {
        CHECK(dump.arguments.has(key));
    }
    CHECK(*dump.arguments.value("D") == "/db");
    CHECK(*dump.arguments.value("socket") == "/s");
    CHECK(!dump.arguments.has("b"));
    const auto block = line({"block", "--for=1h", "--reason", "--for", "1.2.3.4", "--socket=/t"});
    CHECK(*block.arguments.value("for") == "1h");
    CHECK(*block.arguments.value("reason") == "--for");
    CHECK(*block.arguments.value("socket") == "/t");
    CHECK(line({"check", "--", "--print"}).arguments.operands ==
          std::vector<std::string>{"--print"});
    CHECK(line({"check", "-"}).arguments.operands == std::vector<std::string>{"-"});
}

TEST_CASE("targets") {
    struct Case {
        const char* text;
        const char* prefix;
        int port; // 0: any
    };
    for (const auto& [text, prefix, port] : std::vector<Case>{
             {"192.0.2.1", "192.0.2.1", 0},
             {"192.0.2.1:22", "192.0.2.1", 22},
             {"192.0.2.1:ssh", "192.0.2.1", 22},
             {"192.0.2.0/24", "192.0.2.0/24", 0},
             {"192.0.2.0/24:65535", "192.0.2.0/24", 65535},
             {"192.0.2.1/32:*", "192.0.2.1", 0},
             {"::1", "::1", 0},
             {"2001:db8::/32", "2001:db8::/32", 0},
             {"2001:db8::1/128:22", "2001:db8::1", 22},
             {"[2001:db8::]/64:22", "2001:db8::/64", 22},
             {"[2001:db8::1]:22", "2001:db8::1", 22},
             {"::ffff:192.0.2.1", "192.0.2.1", 0},
         }) {
        CAPTURE(text);
        const auto target = parse_target(text);
        REQUIRE(target.has_value());
        CHECK(target->prefix.text() == prefix);
        CHECK(target->port.value_or(0) == port);
        const auto again = parse_target(target->text());
        REQUIRE(again.has_value());
        CHECK(again->prefix == target->prefix);
        CHECK(again->port == target->port);
    }
    for (const auto* const text : {"",
                                   "x",
                                   "192.0.2",
                                   "192.0.2.1/33",
                                   "192.0.2.1/24",
                                   "192.0.2.1/",
                                   "192.0.2.1:",
                                   "192.0.2.1:0",
                                   "192.0.2.1:65536",
                                   "192.0.2.1:22x",
                                   "192.0.2.1:no-such-service",
                                   "[::1",
                                   "[::1]x",
                                   "[::1]/129",
                                   "2001:db8::1/32",
                                   "1.2.3.4/+8",
                                   "1.2.3.4/-1",
                                   ":22",
                                   "[]:22",
                                   "1.2.3.4 ",
                                   "1.2.3.4%eth0"}) {
        CAPTURE(text);
        CHECK(!parse_target(text).has_value());
    }
    CHECK(has(parse_target("192.0.2.1/24").error().text, "did you mean 192.0.2.0/24?"));
}

TEST_CASE("times agree with the rules file") {
    for (const auto* const text : {"*",
                                   "1",
                                   "90",
                                   "90s",
                                   "10m",
                                   "1h30m",
                                   "7d",
                                   "2w",
                                   "1w2d3h4m5s",
                                   "1h30",
                                   "2147483647",
                                   "2147483648",
                                   "3551w",
                                   "x",
                                   "1y",
                                   "m",
                                   "1hh",
                                   "-1",
                                   "+1",
                                   "1.5h",
                                   "1 m",
                                   "9999999999999w",
                                   "18446744073709551616"}) {
        CAPTURE(text);
        const auto parsed =
            policy::parse_text(std::string("[local]\n* * * * * 3 ") + text + "\n", "test");
        const auto time = parse_time(text);
        const bool spaced = std::string_view(text).find(' ') != std::string_view::npos;
        CHECK(time.has_value() == (parsed.ok() && !spaced));
        if (time && parsed.ok()) {
            const auto& disable = parsed.policy.local.at(0).disable;
            const bool for_ever = disable.kind == policy::Setting<Seconds>::Kind::unlimited;
            CHECK(*time == (for_ever ? forever : disable.value));
        }
    }
    CHECK(!parse_time("").has_value());
    CHECK(!parse_time("0s").has_value());
}

TEST_CASE("names, reasons, protocols") {
    CHECK(parse_name("egress-int").has_value());
    CHECK(parse_name(std::string(63, 'a')).has_value());
    for (const auto& name : {std::string(), std::string(64, 'a'), std::string("_x"),
                             std::string("a/b"), std::string("a\0b", 3), std::string("é")}) {
        CHECK(!parse_name(name).has_value());
    }
    CHECK(parse_reason("brute force, ticket 4711; größer").has_value());
    CHECK(parse_reason(std::string(256, 'x')).has_value());
    for (const auto* const reason : {"\x1b[31m", "a\tb", "\xff", "\xc3", "\u202e", "\u0085"}) {
        CHECK(!parse_reason(reason).has_value());
    }
    CHECK(parse_protocol("6").value() == "tcp");
    CHECK(parse_protocol("udp").value() == "udp");
    CHECK(parse_protocol("132").value() == "132");
    CHECK(parse_protocol("*").value() == "");
    CHECK(!parse_protocol("0").has_value());
    CHECK(!parse_protocol("256").has_value());
}

TEST_CASE("nothing harmful is printable") {
    CHECK(printable("plain größe") == "plain größe");
    CHECK(printable("a\x1b[2Jb\r\n\t\x7f") == "a\\x1b[2Jb\\x0d\\x0a\\x09\\x7f");
    CHECK(printable(std::string("\0", 1)) == "\\x00");
    CHECK(printable("\u009b"
                    "31m\u202e") == "\\u{9b}31m\\u{202e}");
    CHECK(printable("\xff\xc0\x80\xed\xa0\x80") == "\\xff\\xc0\\x80\\xed\\xa0\\x80");
    CHECK(printable("\xe2\x82") == "\\xe2\\x82");
    CHECK(printable_lines("a\n\tb\x1b\r") == "a\n\tb\\x1b\\x0d");
    CHECK(to_text(Json("\x1b\x7f\u009b\xff"), -1) == "\"\\u001b\\u007f\\u009b\\ufffd\"");
    CHECK(!parse_json(std::string(100, '[') + std::string(100, ']')));
    CHECK(!parse_json("{\"a\":1} x"));
    CHECK(!parse_json(""));
}
