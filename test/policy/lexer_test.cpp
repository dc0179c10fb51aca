#include <doctest/doctest.h>

#include "daemon/policy/text/lexer.h"

namespace egress::policy {

namespace {

/// Lines as "place:text|place:text" joined with newlines.
std::string lex(std::string_view text) {
    Diagnostics diagnostics;
    Lexer lexer(text, "f", diagnostics);
    Line line;
    std::string out;
    while (lexer.next(line)) {
        for (const auto& cell : line.cells()) {
            const auto place = cell.place();
            out += std::to_string(place.line) + "." + std::to_string(place.column) + "=";
            out += std::string(cell.text) + " ";
        }
        out += "\n";
    }
    for (const auto& diagnostic : diagnostics.take()) {
        out += "!" + diagnostic.place.text() + "\n";
    }
    return out;
}

} // namespace

TEST_CASE("cells know where they stand") {
    CHECK(lex("") == "");
    CHECK(lex("\n\n  \t\n# x\n") == "");
    CHECK(lex("a b") == "1.1=a 1.3=b \n");
    CHECK(lex("\n\ta\v\fb  \n c\n") == "2.2=a 2.5=b \n3.2=c \n");
    CHECK(lex("a\r\nb\r\n") == "1.1=a \n2.1=b \n");
    CHECK(lex("\xef\xbb\xbf"
              "a") == "1.1=a \n");
}

TEST_CASE("a backslash joins lines without a gap, and places stay those of the file") {
    CHECK(lex("a \\\n  b") == "1.1=a 2.3=b \n");
    CHECK(lex("a\\\nb c") == "1.1=ab 2.3=c \n");
    CHECK(lex("a\\\r\n b") == "1.1=a 2.2=b \n");
    CHECK(lex("\\\n\\\n x") == "3.2=x \n");
    CHECK(lex("a\\") == "1.1=a \n");
    CHECK(lex("a \\\n# b\nc") == "1.1=a \n3.1=c \n");
}

TEST_CASE("a comment begins anywhere and does not go on") {
    CHECK(lex("a#b c\nd") == "1.1=a \n2.1=d \n");
    CHECK(lex("# a \\\nb") == "2.1=b \n");
    CHECK(lex("a\\#b \\#c") == "1.1=a#b 1.7=#c \n");
    CHECK(lex("# \xff\x01\nb") == "2.1=b \n");
}

TEST_CASE("a part of a cell behind an escape or a join knows its place") {
    Diagnostics diagnostics;
    const std::string text = "ab\\\n  \ncd\\\nef\\#gh";
    Lexer lexer(text, "f", diagnostics);
    Line line;
    REQUIRE(lexer.next(line));
    REQUIRE(lexer.next(line));
    const Cell& cell = line.cells()[0];
    CHECK(cell.text == "cdef#gh");
    CHECK(cell.part(0).place().text() == "f:3:1");
    CHECK(cell.part(3).place().text() == "f:4:2");
    CHECK(cell.part(4).place().text() == "f:4:4");
    CHECK(cell.part(6).place().text() == "f:4:6");
}

TEST_CASE("bad bytes are errors of their line only") {
    using namespace std::string_literals;
    CHECK(lex("a\0b\nc"s) == "2.1=c \n!f:1:2\n");
    CHECK(lex("a \x1b[2J\nc") == "2.1=c \n!f:1:3\n");
    CHECK(lex("\xc3\xa4") == "1.1=\xc3\xa4 \n");
    for (const char* bad : {"\xc3", "\xff", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
                            "\xf4\x90\x80\x80", "\xf0\x80\x80\x80", "\xc2\x85", "\x7f", "a\rb"}) {
        CAPTURE(bad);
        const auto said = lex(std::string("\n ") + bad + "\nok");
        CHECK(said.starts_with("3.1=ok \n!f:2:"));
    }
    CHECK(lex("a\\b\nc") == "2.1=c \n!f:1:2\n");
    CHECK(lex("a \\ \nc") == "2.1=c \n!f:1:3\n");
    CHECK(lex("a\\\\\nc") == "!f:1:2\n"); // the second one does join
}

TEST_CASE("lines and files are bounded") {
    CHECK(lex(std::string(max_line, 'a') + "\nb").ends_with("2.1=b \n"));
    CHECK(lex(std::string(max_line + 1, 'a') + "\nb") == "2.1=b \n!f:1:1\n");
    std::string joined;
    for (int i = 0; i < 3000; ++i) {
        joined += "abcdefgh\\\n";
    }
    CHECK(lex(joined + "\nb") == "3002.1=b \n!f:1:1\n");
    CHECK(lex(std::string(max_text + 1, '\n')) == "!f\n");
    CHECK(lex(std::string(max_text - 1, '\n') + "b").starts_with("16777216.1=b"));
}

} // namespace egress::policy
