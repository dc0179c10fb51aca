// dump: what the database remembers, in blocklistctl's columns. Reads the files, asks nobody.

#include "ctl/commands/commands.h"
#include "ctl/out.h"
#include "ctl/row.h"
#include "daemon/clock.h"
#include "daemon/store/env.h"
#include "daemon/store/json.h"
#include "egress-paths.h"

namespace egress::ctl {

namespace {

enum class Wanted { counting, blocked, all };

Wanted wanted_of(const Arguments& arguments) {
    if (arguments.has("a")) {
        return Wanted::all;
    }
    return arguments.has("b") ? Wanted::blocked : Wanted::counting;
}

bool is_wanted(const store::Row& row, Wanted wanted, std::int64_t now) {
    switch (wanted) {
    case Wanted::blocked:
        return row.state == store::State::blocked;
    case Wanted::counting:
        return row.state == store::State::counting && !is_forgotten(row, now);
    case Wanted::all:
        break;
    }
    return true;
}

/// Collects the text of the rows. Nothing is written while the database is open: a pager that
/// stands still would hold LMDB's reader, and the daemon's file would grow meanwhile.
class Listing {
  public:
    Listing(const Context& context, const RowStyle& style, std::int64_t now)
        : json_(context.json), style_(style), now_(now) {
        if (!json_ && style.header) {
            text_ = row_header(style) + "\n";
        }
    }

    void add(const store::Row& row) {
        if (json_) {
            text_ += rows_ == 0 ? "[\n" : ",\n";
            text_ += to_text(store::row_json(row), -1);
        } else {
            text_ += row_line(row, style_, now_);
            text_ += '\n';
        }
        ++rows_;
    }

    /// `whole` false: a JSON list that ends early must not parse as a complete one.
    void write(std::FILE* to, bool whole) {
        if (json_ && whole) {
            text_ += rows_ == 0 ? "[]\n" : "\n]\n";
        }
        std::fwrite(text_.data(), 1, text_.size(), to);
    }

    std::size_t rows() const { return rows_; }

  private:
    std::string text_;
    bool json_;
    RowStyle style_;
    std::int64_t now_;
    std::size_t rows_ = 0;
};

/// Walks the database and closes it again.
Result<> collect(const std::string& directory, Wanted wanted, std::int64_t now, Listing& listing) {
    if (auto readable = store::probe(directory); !readable) {
        return readable;
    }
    const auto env = store::Env::open(directory, store::Env::Mode::read_only);
    if (!env) {
        return std::unexpected(env.error());
    }
    return env->each([&](store::Row&& stored) {
        const auto row = as_of(std::move(stored), now);
        if (is_wanted(row, wanted, now)) {
            listing.add(row);
        }
        return true;
    });
}

} // namespace

Exit run_dump(const Context& context, const Arguments& arguments) {
    const auto* const given = arguments.value("D");
    const std::string directory = given != nullptr ? *given : EGRESS_DB_DIR;
    const RowStyle style{!arguments.has("n"), arguments.has("r"), arguments.has("w"),
                         arguments.has("d")};
    const auto now = context.clock->wall();
    Listing listing(context, style, now);
    const auto walked = collect(directory, wanted_of(arguments), now, listing);
    if (walked || listing.rows() > 0) {
        listing.write(context.out, walked.has_value());
    }
    if (!walked) {
        return complain(context, unreadable_database(walked.error()));
    }
    if (arguments.has("d")) {
        print(context.err, "egressctl: {} rows of {}\n", listing.rows(), printable(directory));
    }
    return Exit::ok;
}

} // namespace egress::ctl
