// The log: nothing from outside forges or hides a line, and a flood is folded with its count.
#include "daemon/base/log.h"

#include <random>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "core_test.h"

using namespace egress;

namespace {

/// Standard error goes to a file while this lives.
class Captured {
  public:
    Captured() : path_(folder_ / "log"), kept_(dup(STDERR_FILENO)) {
        const int file = open(path_.c_str(), O_CREAT | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
        REQUIRE(file >= 0);
        dup2(file, STDERR_FILENO);
        close(file);
    }
    ~Captured() {
        dup2(kept_, STDERR_FILENO);
        close(kept_);
    }
    std::vector<std::string> lines() const {
        std::ifstream in(path_);
        std::vector<std::string> out;
        for (std::string line; std::getline(in, line);) {
            out.push_back(line);
        }
        return out;
    }

  private:
    test::Folder folder_;
    std::string path_;
    int kept_;
};

} // namespace

TEST_CASE("escape: what a reader may see stays, everything else is written out") {
    struct {
        const char* description;
        std::string_view text;
        std::string_view expected;
    } const fixtures[] = {
        {"plain", "login of root failed", "login of root failed"},
        {"empty", "", ""},
        {"UTF-8", "Grüße, 世界 🙂", "Grüße, 世界 🙂"},
        {"a new line", "a\nb\r\n", "a\\nb\\x0d\\n"},
        {"a tab", "a\tb", "a\\tb"},
        {"a NUL", std::string_view("a\0b", 3), "a\\x00b"},
        {"an escape sequence", "\x1b[31m", "\\x1b[31m"},
        {"delete", "\x7f", "\\x7f"},
        {"a backslash", "a\\nb", "a\\\\nb"},
        {"C1 as UTF-8 (CSI)", "\xc2\x9b", "\\xc2\\x9b"},
        {"C1 as a byte", "\x9b", "\\x9b"},
        {"a cut sequence", "\xe4\xb8", "\\xe4\\xb8"},
        {"a lone continuation", "\x80", "\\x80"},
        {"overlong slash, 2 bytes", "\xc0\xaf", "\\xc0\\xaf"},
        {"overlong slash, 3 bytes", "\xe0\x80\xaf", "\\xe0\\x80\\xaf"},
        {"overlong new line, 4 bytes", "\xf0\x80\x80\x8a", "\\xf0\\x80\\x80\\x8a"},
        {"overlong copyright sign", "\xe0\x82\xa9", "\\xe0\\x82\\xa9"},
        {"a surrogate", "\xed\xa0\x80", "\\xed\\xa0\\x80"},
        {"over U+10FFFF", "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
        {"0xff", "\xff", "\\xff"},
        {"right-to-left override", "\xe2\x80\xae", "\\xe2\\x80\\xae"},
        {"isolate", "\xe2\x81\xa6", "\\xe2\\x81\\xa6"},
        {"line separator", "\xe2\x80\xa8", "\\xe2\\x80\\xa8"},
        {"zero width space", "\xe2\x80\x8b", "\\xe2\\x80\\x8b"},
        {"byte order mark", "\xef\xbb\xbf", "\\xef\\xbb\\xbf"},
    };
    for (const auto& [description, text, expected] : fixtures) {
        INFO(description);
        CHECK(escape(text) == expected);
    }
}

TEST_CASE("quoted: the text cannot end its quotes") {
    CHECK(quoted("plain") == "\"plain\"");
    CHECK(quoted("x\"; rule egress.conf:1") == "\"x\\\"; rule egress.conf:1\"");
    CHECK(quoted("\\\"") == "\"\\\\\\\"\"");
    CHECK(quoted("a\nb") == "\"a\\nb\"");
}

TEST_CASE("escape: the Arabic letter mark and invisible tags do not pass") {
    CHECK(escape("\xd8\x9c") == "\\xd8\\x9c");
    CHECK(escape("\xf3\xa0\x81\x81") == "\\xf3\\xa0\\x81\\x81");
    CHECK(escape("\xef\xbf\xb9") == "\\xef\\xbf\\xb9");
}

TEST_CASE("escape: the cut is at a whole piece and says so") {
    CHECK(escape("abcdef", 6) == "abcdef");
    CHECK(escape("abcdefg", 6) == "abcdef...");
    CHECK(escape("ab\ncd", 3) == "ab...");
    CHECK(escape("abü", 3) == "ab...");
    CHECK(escape(std::string(100'000, 'x')).size() == 256 + 3);
}

TEST_CASE("escape: random bytes come out printable, of bounded length") {
    std::mt19937 random(11);
    for (int round = 0; round < 20'000; ++round) {
        std::string text(random() % 40, '\0');
        for (auto& byte : text) {
            byte = static_cast<char>(random());
        }
        const std::string out = escape(text, 64);
        REQUIRE(out.size() <= 64 + 3);
        for (const char c : out) {
            const auto byte = static_cast<unsigned char>(c);
            REQUIRE(byte >= 0x20);
            REQUIRE(byte != 0x7f);
        }
    }
}

TEST_CASE("the same line again is folded into one with its count") {
    log::open(log::Target::standard_error, log::Level::info);
    const Captured captured;
    for (int i = 0; i < 1000; ++i) {
        log::info("fold-same", "the same");
    }
    log::info("fold-same", "another");
    log::flush();
    const auto lines = captured.lines();
    REQUIRE(lines.size() == 3);
    CHECK(lines[0] == "egressd: info: the same");
    CHECK(lines[1] == "egressd: info: the same (and 999 more like it)");
    CHECK(lines[2] == "egressd: info: another");
}

TEST_CASE("a flood of different lines of one kind is bounded, and no line goes uncounted") {
    const Captured captured;
    constexpr int sent = 5000;
    for (int i = 0; i < sent; ++i) {
        log::info("fold-flood", "line {}", i);
    }
    log::flush();
    const auto lines = captured.lines();
    CHECK(lines.size() <= 12);
    std::uint64_t counted = 0;
    for (const auto& line : lines) {
        const auto more = line.find("(and ");
        counted += more == std::string::npos ? 1 : std::stoull(line.substr(more + 5));
    }
    CHECK(counted == sent);
}

TEST_CASE("kinds are folded apart, levels below the threshold are not written") {
    const Captured captured;
    log::info("fold-a", "x");
    log::info("fold-b", "x");
    log::debug("fold-c", "never");
    log::error("fold-d", "e");
    log::flush();
    CHECK(captured.lines() ==
          std::vector<std::string>{"egressd: info: x", "egressd: info: x", "egressd: error: e"});
    CHECK(log::threshold() == log::Level::info);
}
