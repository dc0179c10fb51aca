#include "daemon/policy/parser.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "daemon/policy/check.h"
#include "daemon/policy/egress/check.h"
#include "daemon/policy/egress/columns.h"
#include "daemon/policy/egress/dns.h"
#include "daemon/policy/egress/list.h"
#include "daemon/policy/login/location.h"
#include "daemon/policy/login/options.h"
#include "daemon/policy/text/columns.h"
#include "daemon/policy/text/file.h"
#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

struct SectionName {
    std::string_view text;
    Section section;
};
constexpr std::array<SectionName, 6> sections = {{{"local", Section::local},
                                                  {"remote", Section::remote},
                                                  {"trusted", Section::trusted},
                                                  {"settings", Section::settings},
                                                  {"dns", Section::dns},
                                                  {"egress", Section::egress}}};
constexpr std::uint64_t least_rows = 100;
constexpr std::uint64_t most_rows = 100000000;

bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_';
}

/// "[word]"; "[::1]" and "[*]" are locations.
bool is_header(std::string_view text) {
    return text.size() >= 2 && text.front() == '[' && text.back() == ']' &&
           std::ranges::all_of(text.substr(1, text.size() - 2), is_letter);
}

/// Reads the lines of one text into a policy that may already have lines.
class Reader {
  public:
    Reader(Policy& policy, Diagnostics& out, LocalNames& names, Lists& lists)
        : policy_(policy), lists_(lists), context_{out, names} {}

    void read(std::string_view text, std::string_view file) {
        Lexer lexer(text, file, context_.out);
        Line line;
        while (lexer.next(line)) {
            read_line(line);
        }
    }

  private:
    void read_line(const Line& line) {
        if (is_header(line.cells()[0].text)) {
            read_header(line);
        } else if (!skipping_) {
            read_entry(line);
        }
    }

    void read_header(const Line& line) {
        const Cell& cell = line.cells()[0];
        const Cell word = cell.part(1, cell.text.size() - 2);
        const auto at = std::ranges::find(sections, word.text, &SectionName::text);
        skipping_ = at == sections.end(); // the error for the header is enough
        if (skipping_) {
            std::array<std::string_view, sections.size()> words;
            std::ranges::transform(sections, words.begin(), &SectionName::text);
            context_.error(
                word, fmt::format("unknown section {}", quote(word.text)),
                suggestion(word.text, words, fmt::format("known are {}", fmt::join(words, ", "))));
            return;
        }
        if (line.cells().size() > 1) {
            context_.error(line.cells()[1], "text after the section's name",
                           "put it on a line of its own");
        }
        context_.section = at->section;
    }

    void read_entry(const Line& line) {
        switch (context_.section) {
        case Section::local:
            return read_rule(line, policy_.local);
        case Section::remote:
            return read_rule(line, policy_.remote);
        case Section::trusted:
            return read_trusted(line);
        case Section::settings:
            return read_setting(line);
        case Section::dns:
            return parse_dns(line, context_, policy_.dns);
        case Section::egress:
            return read_egress(line);
        }
    }

    /// False: the line has too few or too many columns, which is reported.
    bool has_columns(const Line& line, std::size_t least, std::size_t most, std::string_view what) {
        const auto& cells = line.cells();
        if (cells.size() >= least && cells.size() <= most) {
            return true;
        }
        const bool few = cells.size() < least;
        context_.error(few ? cells.back() : cells[most],
                       fmt::format("too {} columns: {}", few ? "few" : "many", cells.size()),
                       fmt::format("a line here is: {}", what));
        return false;
    }

    void read_rule(const Line& line, std::vector<Rule>& into) {
        if (!has_columns(line, 7, 8, "location type proto owner name nfail disable [options]")) {
            return;
        }
        const auto& cells = line.cells();
        // Read all columns even if one is wrong, to report every error at once.
        Rule rule;
        bool good = read_match(cells, rule);
        const int family = good ? family_of(rule.location, rule.protocol) : AF_UNSPEC;
        good = take(parse_name(cells[4], context_, family), rule.name) && good;
        good = take(parse_nfail(cells[5], context_), rule.nfail) && good;
        good = take(parse_disable(cells[6], context_), rule.disable) && good;
        if (cells.size() > 7) {
            good = take(parse_options(cells[7], context_), rule.options) && good;
        }
        if (good) {
            into.push_back(std::move(rule));
        }
    }

    /// Reads the four columns that a line matches by.
    bool read_match(const std::vector<Cell>& cells, auto& into) {
        into.place = cells[0].place();
        bool good = take(parse_location(cells[0], context_), into.location);
        good = parse_type(cells[1], context_, into.type) && good;
        good = take(parse_protocol(cells[2], context_), into.protocol) && good;
        return parse_owner(cells[3], context_, into.owner, into.absent_owner) && good;
    }

    template <typename T>
    static bool take(std::optional<T> value, T& into) {
        if (value) {
            into = std::move(*value);
        }
        return value.has_value();
    }

    void read_trusted(const Line& line) {
        if (!has_columns(line, 4, 5, "location type proto owner [options]")) {
            return;
        }
        const auto& cells = line.cells();
        Trusted trusted;
        bool good = read_match(cells, trusted);
        if (cells.size() > 4) {
            good = parse_trusted_options(cells[4], context_, trusted) && good;
        }
        if (good) {
            policy_.trusted.push_back(std::move(trusted));
        }
    }

    void read_setting(const Line& line) {
        const auto& cells = line.cells();
        constexpr std::array<std::string_view, 1> known = {"rows"};
        if (cells[0].text != known[0]) {
            context_.error(cells[0], fmt::format("unknown setting {}", quote(cells[0].text)),
                           suggestion(cells[0].text, known, "known is: rows NUMBER"));
            return;
        }
        if (!has_columns(line, 2, 2, "rows NUMBER")) {
            return;
        }
        if (policy_.settings.rows) {
            context_.error(cells[0], "rows is set twice", "one of the two must go");
            return;
        }
        policy_.settings.rows =
            parse_number(cells[1], context_, "number of rows", least_rows, most_rows);
    }

    void read_egress(const Line& line) {
        const Cell& cell = line.cells()[0];
        auto rule = parse_egress(line, context_);
        if (!rule) {
            return;
        }
        if (policy_.egress.size() == max_egress_rules) {
            too_many(cell);
            return;
        }
        if (rule->destination.kind == Destination::Kind::list) {
            lists_.use(cell, rule->destination.text);
        }
        policy_.egress.push_back(std::move(*rule));
    }

    void too_many(const Cell& cell) {
        if (!std::exchange(overfull_, true)) {
            context_.error(cell, fmt::format("more than {} lines in [egress]", max_egress_rules),
                           "put addresses into an @list");
        }
    }

    Policy& policy_;
    Lists& lists_;
    Context context_;
    bool skipping_ = false;
    bool overfull_ = false;
};

/// The state shared by several texts, and the steps after the last one.
class Reading {
  public:
    explicit Reading(const Sources& sources)
        : names_(sources.root), lists_(sources.lists, diagnostics_) {}

    void text(std::string_view text, std::string_view file) {
        Reader(policy_, diagnostics_, names_, lists_).read(text, file);
    }
    Diagnostics& diagnostics() { return diagnostics_; }
    const std::vector<std::string>& list_files() const { return lists_.files(); }

    Policy finish() {
        policy_.lists = lists_.take();
        return std::move(policy_);
    }

  private:
    Policy policy_;
    Diagnostics diagnostics_;
    LocalNames names_;
    Lists lists_;
};

/// A rule must not seem to protect if this version cannot enforce it.
void refuse_not_yet(const Policy& policy, Diagnostics& out) {
    for (const auto& rule : policy.egress) {
        if (auto reason = not_yet(rule); !reason.empty()) {
            out.error(rule.place, std::move(reason), "this version cannot enforce the line");
        }
    }
}

/// An address of any family may have a name; no table tells the families of one name apart.
void refuse_families(const Policy& policy, Diagnostics& out) {
    for (const auto& rule : policy.egress) {
        if (rule.protocol.family != AF_UNSPEC && rule.destination.kind == Destination::Kind::list &&
            goes_by_name(policy, rule.destination)) {
            out.error(rule.place,
                      fmt::format("a protocol of one family with the names of {}",
                                  quote("@" + rule.destination.text)),
                      "a name has addresses of both families: leave out the 4 or 6");
        }
    }
}

/// Diagnostics of check() come after those of reading; restores the order of the text.
void order(std::vector<Diagnostic>& list, const std::vector<std::string>& files) {
    std::multimap<std::tuple<std::ptrdiff_t, bool, int, int>, Diagnostic> sorted; // stable
    for (auto& diagnostic : list) {
        const Place place = diagnostic.place;
        const auto at = std::ranges::find(files, place.file) - files.begin();
        sorted.emplace(std::tuple(at, place.line == 0, place.line, place.column),
                       std::move(diagnostic));
    }
    list.clear();
    for (auto& entry : sorted) {
        list.push_back(std::move(entry.second));
    }
}

} // namespace

bool Parsed::ok() const {
    return std::ranges::none_of(diagnostics, [](const Diagnostic& diagnostic) {
        return diagnostic.severity == Diagnostic::Severity::error;
    });
}

Parsed parse_text(std::string_view text, std::string_view file, const Sources& sources) {
    Parsed out;
    Reading reading(sources);
    reading.text(text, file);
    out.policy = reading.finish();
    out.diagnostics = reading.diagnostics().take();
    return out;
}

namespace {

/// `first` is the text of the first file or its replacement; nullopt: the file is unreadable, which
/// is already an error.
Parsed parse_all(const std::optional<std::string_view>& first, const std::string& name,
                 const std::string& directory, const Sources& sources, Diagnostics&& found) {
    Parsed out;
    Reading reading(sources);
    auto& diagnostics = reading.diagnostics();
    diagnostics = std::move(found);
    std::vector<std::string> files = {name};
    if (first) {
        reading.text(*first, name);
    }
    for (const auto& path : list_directory(directory, diagnostics)) {
        files.push_back(path);
        if (const auto text = read_rules_file(path)) {
            reading.text(*text, path);
        } else {
            diagnostics.error({path, 0, 0}, text.error().what, text.error().hint);
        }
    }
    out.policy = reading.finish();
    refuse_families(out.policy, diagnostics);
    refuse_not_yet(out.policy, diagnostics);
    for (auto& warning : check(out.policy, sources)) {
        diagnostics.warn(warning.place, warning.text, warning.hint);
    }
    out.diagnostics = diagnostics.take();
    files.insert(files.end(), reading.list_files().begin(), reading.list_files().end());
    order(out.diagnostics, files);
    return out;
}

Sources with_lists(Sources sources, const std::string& file) {
    if (sources.lists.empty()) {
        sources.lists = lists_beside(file);
    }
    return sources;
}

} // namespace

Parsed parse_files(const std::string& file, const std::string& directory, Sources sources) {
    Diagnostics found;
    const auto text = read_rules_file(file);
    if (!text) {
        found.error({file, 0, 0}, text.error().what, text.error().hint);
    }
    return parse_all(text ? std::optional<std::string_view>(*text) : std::nullopt, file, directory,
                     with_lists(std::move(sources), file), std::move(found));
}

Parsed parse_instead(std::string_view text, const std::string& name, const std::string& file,
                     const std::string& directory, Sources sources) {
    return parse_all(text, name, directory, with_lists(std::move(sources), file), {});
}

} // namespace egress::policy
