// Files of rules against what they must print and say. EGRESS_UPDATE=1 writes what is printed and
// said now over the expectations; read the difference before you keep it.
#include <algorithm>

#include "daemon/policy/check.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "test/policy/corpus.h"
#include "test/policy/zone.h"

namespace egress::policy {

namespace {

std::string messages(const Parsed& parsed) {
    std::string out;
    for (const auto& diagnostic : parsed.diagnostics) {
        out += diagnostic.message() + "\n";
    }
    for (const auto& warning : check(parsed.policy, corpus_sources())) {
        out += warning.message() + "\n";
    }
    const auto root = source_root().string() + "/";
    for (auto at = out.find(root); at != out.npos; at = out.find(root, at)) {
        out.erase(at, root.size());
    }
    return out;
}

/// An expectation that is empty is a file that is not there.
void expect(const std::filesystem::path& path, const std::string& text) {
    if (std::getenv("EGRESS_UPDATE") != nullptr) {
        std::filesystem::remove(path);
        if (!text.empty()) {
            std::ofstream(path, std::ios::binary) << text;
        }
    }
    CHECK_MESSAGE(read_text(path) == text, path.string());
}

} // namespace

TEST_CASE("good files print as expected, and what is printed means the same") {
    const Zone zone("UTC0");
    const auto paths = corpus("good");
    REQUIRE(paths.size() >= 7);
    for (const auto& path : paths) {
        CAPTURE(path.string());
        const auto parsed = parse_text(read_text(path), path.filename().string(), corpus_sources());
        const auto said = messages(parsed);
        CHECK_MESSAGE(parsed.ok(), said);
        const auto printed = print(parsed.policy);
        expect(std::filesystem::path(path).replace_extension(".golden"), printed);
        expect(std::filesystem::path(path).replace_extension(".expect"), said);

        const auto again = parse_text(printed, "printed", corpus_sources());
        CHECK(again.ok());
        CHECK(same_meaning(again.policy, parsed.policy));
        CHECK(print(again.policy) == printed);
    }
}

TEST_CASE("bad files say every error with its place and a hint") {
    const auto paths = corpus("bad");
    REQUIRE(paths.size() >= 7);
    for (const auto& path : paths) {
        CAPTURE(path.string());
        const auto parsed = parse_text(read_text(path), path.filename().string(), corpus_sources());
        CHECK_FALSE(parsed.ok());
        const auto said = messages(parsed);
        expect(std::filesystem::path(path).replace_extension(".expect"), said);
        const auto plain = [](char c) { return c == '\n' || (c >= ' ' && c != 0x7f); };
        const auto utf8 = [](char c) { return static_cast<unsigned char>(c) >= 0x80; };
        CHECK_MESSAGE(std::ranges::all_of(said, [&](char c) { return plain(c) || utf8(c); }),
                      "a rules file must not write to the terminal");
    }
}

TEST_CASE("the shipped rules have neither errors nor warnings") {
    const auto path = source_root() / "etc/egress.conf";
    const auto parsed = parse_text(read_text(path), "egress.conf", corpus_sources());
    CHECK(messages(parsed) == "");
    CHECK(parsed.policy.local.size() >= 5);
}

/// Every example stands in a comment "#name ..."; without the '#' it must be good as well.
TEST_CASE("the examples in the shipped rules are good rules") {
    std::istringstream lines(read_text(source_root() / "etc/egress.conf"));
    std::string text;
    for (std::string line; std::getline(lines, line);) {
        const bool example = line.size() > 1 && line[0] == '#' && line[1] != ' ' && line[1] != '#';
        text += (example ? line.substr(1) : line) + "\n";
    }
    const auto parsed = parse_text(text, "egress.conf", corpus_sources());
    for (const auto& diagnostic : parsed.diagnostics) {
        CHECK_MESSAGE(diagnostic.severity == Diagnostic::Severity::warning, diagnostic.message());
    }
    CHECK(parsed.policy.remote.size() >= 3);
    CHECK(parsed.policy.trusted.size() >= 1);
    CHECK(parsed.policy.egress.size() >= 2);
}

} // namespace egress::policy
