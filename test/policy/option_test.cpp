// The tables of options against the manual page, and each option there and back.
#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "daemon/policy/egress/options.h"
#include "daemon/policy/login/options.h"
#include "daemon/policy/print/print.h"
#include "test/policy/build.h"
#include "test/policy/corpus.h"

namespace egress::policy {

namespace {

/// Sorted, with blanks between: doctest shows it.
std::string list_of(const std::set<std::string>& words) {
    return fmt::format("{}", fmt::join(words, " "));
}

template <typename Row>
std::string keys_of(std::span<const Row> table) {
    std::set<std::string> out;
    for (const auto& row : table) {
        CHECK_MESSAGE(out.emplace(row.key).second, row.key);
    }
    return list_of(out);
}

/// The words that the items of a section of egress.conf(5) begin with: ".It Cm token= Ns Ar N".
std::string documented(const std::string& heading) {
    std::ifstream page(source_root() / "man/egress.conf.5");
    constexpr std::string_view command = "Cm ";
    std::set<std::string> out;
    bool inside = false;
    for (std::string line; std::getline(page, line);) {
        if (line.starts_with(".Ss ") || line.starts_with(".Sh ")) {
            inside = line == ".Ss " + heading;
        }
        if (inside && line.starts_with(".It ")) {
            for (auto at = line.find(command); at != line.npos; at = line.find(command, at)) {
                at += command.size();
                const auto end = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz", at);
                if (end != at) {
                    out.insert(line.substr(at, end - at));
                }
            }
        }
    }
    return list_of(out);
}

/// What else a line of [egress] needs for an option to make sense.
std::string company_of(std::string_view key) {
    constexpr std::array<std::pair<std::string_view, const char*>, 4> needed = {
        {{"kill", ",until=2026-12-01"},
         {"nfail", ",disable=10m"},
         {"disable", ",nfail=3"},
         {"level", ",nfail=3,disable=10m"}}};
    const auto* const at =
        std::ranges::find(needed, key, [](const auto& entry) { return entry.first; });
    return at == needed.end() ? "" : at->second;
}

/// The option as the messages give it as an example.
template <typename Row>
std::string example_of(const Row& row) {
    CHECK_MESSAGE((row.takes == Row::Takes::nothing) == row.example.empty(), row.key);
    return std::string(row.key) + (row.example.empty() ? "" : "=") + std::string(row.example);
}

/// Parses, prints and parses again; `options_of` gives the options of the policy's only line.
template <typename Row, typename OptionsOf>
void there_and_back(const Row& row, const std::string& line, OptionsOf options_of) {
    INFO(line);
    const Policy first = good(line);
    const auto text = print(first);
    const Policy second = good(text);
    const auto options = options_of(first);
    CHECK(row.values(options) == OptionValues{std::string(row.example)});
    CHECK(options_of(second) == options);
    CHECK(print(second) == text);
    CHECK(text.find(example_of(row)) != std::string::npos);
}

} // namespace

TEST_CASE("every option is in the manual page, and every option there is one") {
    CHECK(keys_of(option_table()) == documented("Options"));
    CHECK(keys_of(egress_option_table()) == documented("Options of [egress]"));
    CHECK(keys_of(trusted_option_table()) == documented("Options of [trusted]"));
}

TEST_CASE("every option of [local] and [remote] is printed as it was read") {
    for (const auto& row : option_table()) {
        there_and_back(row, "[local]\n* * * * * 3 1h " + example_of(row) + "\n",
                       [](const Policy& policy) { return policy.local.at(0).options; });
    }
}

TEST_CASE("every option of [egress] is printed as it was read") {
    for (const auto& row : egress_option_table()) {
        const auto column = example_of(row) + company_of(row.key);
        there_and_back(row, "[egress]\n* * * * * deny " + column + "\n",
                       [](const Policy& policy) { return policy.egress.at(0).options; });
    }
}

TEST_CASE("an option of [egress] without its value is told an example that is good") {
    for (const auto& row : egress_option_table()) {
        if (row.takes == EgressOptionRow::Takes::value) {
            CHECK(said("[egress]\n* * * * * deny " + std::string(row.key) + "\n")
                      .find("; as in " + example_of(row)) != std::string::npos);
        }
    }
}

} // namespace egress::policy
