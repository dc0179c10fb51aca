// Lists of addresses: every form of a line, files as the system has them, a million lines.
#include <algorithm>
#include <chrono>
#include <sstream>

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/policy/egress/list.h"
#include "test/policy/scratch.h"

namespace egress::policy {

namespace {

struct Read {
    AddressList list{"x", "x", {}, {}};
    std::string said;
};

Read read(std::string_view text, std::size_t piece = std::string_view::npos) {
    Read out;
    Diagnostics diagnostics;
    ListText reader(out.list, diagnostics);
    while (!text.empty() && reader.feed(text.substr(0, piece))) {
        text.remove_prefix(std::min(piece, text.size()));
    }
    reader.finish();
    for (const auto& diagnostic : diagnostics.take()) {
        out.said += diagnostic.message() + "\n";
    }
    return out;
}

/// The one prefix of a line, "" for none or a refused one.
std::string prefix(std::string_view line) {
    const auto got = read(line);
    return got.said.empty() && got.list.prefixes.size() == 1 ? got.list.prefixes[0].text() : "";
}

std::string main_text() {
    return "[egress]\n@one * * * * deny\n@one:80 * * * * deny\n";
}

} // namespace

TEST_CASE("lists: what a line may be") {
    CHECK(prefix("192.0.2.1") == "192.0.2.1");
    CHECK(prefix("192.0.2.1/32") == "192.0.2.1");
    CHECK(prefix("192.0.2.0/24\r\n") == "192.0.2.0/24");
    CHECK(prefix("  192.0.2.0/24 # why") == "192.0.2.0/24");
    CHECK(prefix("\t192.0.2.0/24#why\n") == "192.0.2.0/24");
    CHECK(prefix("\xef\xbb\xbf"
                 "192.0.2.0/24\n") == "192.0.2.0/24");
    CHECK(prefix("0.0.0.0/0") == "0.0.0.0/0");
    CHECK(prefix("255.255.255.255") == "255.255.255.255");
    CHECK(prefix("::/0") == "::/0");
    CHECK(prefix("2001:DB8::/32") == "2001:db8::/32");
    CHECK(prefix("[2001:db8::]/32") == "2001:db8::/32");
    CHECK(prefix("[2001:db8::1]") == "2001:db8::1");
    CHECK(prefix("::ffff:0:0/96") == "0.0.0.0/0");
    CHECK(prefix("::ffff:192.0.2.0/120") == "192.0.2.0/24");
    CHECK(prefix("::ffff:192.0.2.1") == "192.0.2.1");
    const auto names = read("a.Example\n*.b.example.\r\n**.c.example # deep\n\n#\n   \n");
    CHECK(names.said == "");
    REQUIRE(names.list.names.size() == 3);
    std::vector<NamePatterns::Pattern> patterns;
    names.list.names.each([&](const auto& pattern) { patterns.push_back(pattern); });
    CHECK(patterns == std::vector<NamePatterns::Pattern>{{NameKind::exact, "a.example"},
                                                         {NameKind::one, "b.example"},
                                                         {NameKind::deep, "c.example"}});
}

TEST_CASE("lists: what is wrong is said with its place, and what is right instead") {
    CHECK(read("\n# x\n  10.1.2.3/8\n").said ==
          "x:3:3: '10.1.2.3/8' has bits set past its length; did you mean 10.0.0.0/8?\n");
    CHECK(read("2001:db8::1/32").said ==
          "x:1:1: '2001:db8::1/32' has bits set past its length; did you mean 2001:db8::/32?\n");
    CHECK(read("::ffff:10.0.0.1/104").said.find("did you mean 10.0.0.0/8?") != std::string::npos);
    CHECK(read("10.0.0.1 10.0.0.2").said ==
          "x:1:10: more than one word in a line; one prefix or name each\n");
    for (const char* bad : {"10.0.0.0/33",
                            "10.0.0.0/-1",
                            "10.0.0.0/",
                            "10.0.0.0/08",
                            "10.0.0",
                            "10.0.0.0.0",
                            "10.0.0.256",
                            "010.0.0.1",
                            "10.0.0.1:80",
                            "::1/129",
                            "::ffff:0:0/95",
                            "[10.0.0.1]",
                            "[::1",
                            "::1]",
                            "1",
                            "1.2.3.4/24/24",
                            "/8",
                            "0x7f.0.0.1",
                            "99999999999999999999.1.1.1",
                            "fe80::1%eth0",
                            "a..b",
                            "a b",
                            "*",
                            "*.",
                            "**",
                            "a.*",
                            "\xff",
                            "a\x1b[31m",
                            "-",
                            "@other"}) {
        const auto got = read(bad);
        CHECK_MESSAGE(got.said != "", bad);
        CHECK_MESSAGE(got.list.prefixes.empty(), bad);
        CHECK_MESSAGE(got.said.find('\x1b') == std::string::npos, bad);
    }
    CHECK(read(std::string_view("10.0.0.1\0", 9)).said != "");
}

TEST_CASE("lists: every bit past the length counts") {
    for (int length = 0; length <= 32; ++length) {
        const auto line = [length](std::uint64_t address) {
            return fmt::format("{}.{}.{}.{}/{}", address >> 24 & 255, address >> 16 & 255,
                               address >> 8 & 255, address & 255, length);
        };
        const std::uint64_t kept = 0xffffffffULL << (32 - length);
        CHECK_MESSAGE(prefix(line(kept)) != "", length);
        for (int bit = 0; bit < 32 - length; ++bit) {
            CHECK_MESSAGE(prefix(line(kept | 1ULL << bit)) == "", length);
        }
    }
}

TEST_CASE("lists: pieces may end anywhere") {
    const std::string text =
        "\xef\xbb\xbf# begin\r\n10.0.0.0/8\r\n\n2001:db8::/32 # x\nname.example\n"
        "10.0.0.1/8\n192.0.2.1";
    const auto whole = read(text);
    CHECK(whole.list.prefixes.size() == 3);
    CHECK(whole.list.names.size() == 1);
    for (std::size_t piece = 1; piece < text.size(); ++piece) {
        const auto got = read(text, piece);
        CHECK(same_meaning(got.list, whole.list));
        CHECK(got.said == whole.said);
    }
}

TEST_CASE("lists: errors and long lines are bounded") {
    std::string text;
    for (int i = 0; i < 100000; ++i) {
        text += "10.0.0.1/8\n";
    }
    const auto got = read(text);
    CHECK(std::ranges::count(got.said, '\n') == max_list_errors + 1);
    CHECK(got.said.ends_with("x:10: the rest of the list is not checked\n"));
    const std::string line(max_list_line - 9, ' ');
    CHECK(read("10.0.0.0/8" + line.substr(1)).said == "");
    const auto longer =
        read("10.0.0.0/8" + line + "\n10.0.0.0/8\n" + std::string(1 << 20, '#'), 999);
    CHECK(longer.list.prefixes.size() == 1);
    CHECK(longer.said == "x:1:1: the line has more than 4096 bytes\n"
                         "x:3:1: the line has more than 4096 bytes\n");
}

TEST_CASE("lists: names stay inside the directory") {
    for (const char* good : {"a", "bad-hosts", "a_b.txt", "0"}) {
        CHECK_MESSAGE(bad_list_name(good) == nullptr, good);
    }
    for (const char* bad : {"", ".", "..", ".a", "a/b", "../a", "a b", "\xc3\xa4", "a\\b"}) {
        CHECK_MESSAGE(bad_list_name(bad) != nullptr, bad);
    }
    CHECK(bad_list_name(std::string(256, 'a')) != nullptr);
    CHECK(lists_beside("/etc/egress.conf") == "/etc/egress.d");
    CHECK(lists_beside("egress.conf") == "egress.d");
}

TEST_CASE("lists: files beside the rules file, read once, also for the files of the directory") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", main_text());
    scratch.write("d/a.conf", "[egress]\n@two * * * * deny\n@one * udp * * deny\n");
    scratch.write("egress.d/one", "10.0.0.0/8\n10.0.0.0/8\n10.1.0.0/16\n0.0.0.0/0\n");
    scratch.write("egress.d/two", "10.0.0.0/8");
    const auto parsed = parse_files(main, scratch.path("d"));
    CHECK(parsed.ok());
    REQUIRE(parsed.policy.lists.size() == 2);
    CHECK(parsed.policy.lists[0]->name == "one");
    CHECK(parsed.policy.lists[0]->file == scratch.path("egress.d/one"));
    CHECK(parsed.policy.lists[0]->prefixes.size() == 4);
}

TEST_CASE("lists: a wrong line is an error of the rules; a missing file stands at its line") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", main_text());
    const auto list = scratch.write("egress.d/one", "10.0.0.0/8\n\n10.1.2.3/9\n");
    const auto first = [&] {
        const auto parsed = parse_files(main, scratch.path("d"));
        CHECK_FALSE(parsed.ok());
        std::istringstream lines(scratch.said(parsed));
        for (std::string line; std::getline(lines, line);) {
            if (line.find("warning") == line.npos) {
                return line;
            }
        }
        return std::string();
    };
    CHECK(first() ==
          "egress.d/one:3:1: '10.1.2.3/9' has bits set past its length; did you mean 10.0.0.0/9?");
    REQUIRE(unlink(list.c_str()) == 0);
    CHECK(first() == "main.conf:2:1: list egress.d/one cannot be opened: No such file or "
                     "directory; make it, with one "
                     "address or prefix in each line; an empty file is a list, too");
    REQUIRE(mkfifo(list.c_str(), 0600) == 0);
    CHECK(first() == "main.conf:2:1: list egress.d/one is not a regular file");
    REQUIRE(unlink(list.c_str()) == 0);
    scratch.write("egress.d/one", "");
    REQUIRE(chmod(list.c_str(), 0666) == 0);
    CHECK(first() ==
          "main.conf:2:1: list egress.d/one may be written by every user; take the right "
          "away with chmod o-w");
    REQUIRE(chmod(list.c_str(), 0644) == 0);
    REQUIRE(chmod(scratch.path("egress.d").c_str(), 0777) == 0);
    CHECK(first() ==
          "main.conf:2:1: every user may write to the directory egress.d; take the right "
          "away with chmod o-w");
}

TEST_CASE("lists: a million lines") {
    const Scratch scratch;
    constexpr std::uint32_t lines = 1000000;
    std::string text;
    for (std::uint32_t i = 0; i < lines; ++i) {
        const std::uint32_t address = (i * 2654435761U) & (i % 4 == 0 ? 0xffffff00U : ~0U);
        text += fmt::format("{}.{}.{}.{}{}\n", address >> 24, address >> 16 & 255,
                            address >> 8 & 255, address & 255, i % 4 == 0 ? "/24" : "");
    }
    scratch.write("egress.d/one", text);
    const auto main = scratch.write("main.conf", main_text());
    const auto start = std::chrono::steady_clock::now();
    const auto parsed = parse_files(main, "");
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    REQUIRE(parsed.ok());
    REQUIRE(parsed.policy.lists.at(0)->prefixes.size() == lines);
    CHECK(parsed.policy.lists[0]->prefixes.capacity() == lines);
    fmt::print("{} lines of a list, {} bytes: {:.3f} s, {} bytes of memory\n", lines, text.size(),
               took.count(), lines * sizeof(Prefix));
}

TEST_CASE("lists: a million names take little more than their text") {
    const Scratch scratch;
    constexpr std::size_t lines = 1000000;
    std::string text;
    for (std::size_t i = 0; i < lines; ++i) {
        text += fmt::format("{}host-{}.Example-{}.org\n", i % 3 == 0 ? "*." : "", i, i % 1000);
    }
    scratch.write("egress.d/one", text);
    const auto main = scratch.write("main.conf", main_text());
    const auto parsed = parse_files(main, "");
    REQUIRE(parsed.policy.lists.size() == 1);
    const auto& names = parsed.policy.lists[0]->names;
    CHECK(names.size() == lines);
    CHECK(names.bytes() < text.size() + text.size() / 10);
    std::size_t at = 0;
    std::size_t wrong = 0;
    names.each([&](const NamePatterns::Pattern& pattern) {
        const auto name = fmt::format("host-{}.example-{}.org", at, at % 1000);
        const auto kind = at % 3 == 0 ? NameKind::one : NameKind::exact;
        wrong += pattern == NamePatterns::Pattern{kind, name} ? 0 : 1;
        ++at;
    });
    CHECK(at == lines);
    CHECK(wrong == 0);
}

} // namespace egress::policy
