// dump: the rows of the database, in blocklistctl's columns. Reads the files, without the daemon.

#include "ctl/commands/commands.h"
#include "ctl/out.h"
#include "ctl/row.h"
#include "daemon/base/clock.h"
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

/// Collects the text of the rows. Writes nothing while the database is open: a waiting pager would
/// hold LMDB's reader, and the daemon's file would grow meanwhile.
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

std::string hex(const std::vector<std::uint8_t>& bytes) {
    std::string out;
    for (const auto byte : bytes) {
        out += fmt::format("{:02x}", byte);
    }
    return out;
}

/// Collects the damaged rows with their bytes, for people to examine.
class DamageListing {
  public:
    explicit DamageListing(const Context& context) : json_(context.json) {}

    void add(const store::Damage& damage) {
        const auto time = store::iso_time(static_cast<std::int64_t>(damage.time));
        const auto name = printable(store::name_of(damage));
        if (json_) {
            list_.push_back({{"set_aside", time},
                             {"table", damage.table},
                             {"name", name},
                             {"key", hex(damage.key)},
                             {"value", hex(damage.value)}});
        } else {
            text_ += fmt::format("{} {}\n  key   {}\n  value {}\n", time, name, hex(damage.key),
                                 hex(damage.value));
        }
    }
    void write(std::FILE* to) const { print(to, "{}", json_ ? to_text(list_) + "\n" : text_); }

  private:
    bool json_;
    Json list_ = Json::array();
    std::string text_;
};

Result<store::Env> open_to_read(const std::string& directory) {
    if (auto readable = store::probe(directory); !readable) {
        return std::unexpected(readable.error());
    }
    return store::Env::open(directory, store::Env::Mode::read_only);
}

Exit dump_damaged(const Context& context, const std::string& directory) {
    DamageListing listing(context);
    const auto env = open_to_read(directory);
    const auto read = env ? env->each_damaged([&](store::Damage&& damage) { listing.add(damage); })
                          : std::unexpected(env.error());
    if (!read) {
        return complain(context, unreadable_database(read.error()));
    }
    listing.write(context.out);
    return Exit::ok;
}

/// Walks the database and closes it again. Returns the names of damaged rows.
Result<std::vector<std::string>> collect(const std::string& directory, Wanted wanted,
                                         std::int64_t now, Listing& listing) {
    const auto env = open_to_read(directory);
    if (!env) {
        return std::unexpected(env.error());
    }
    const auto add = [&](store::Row&& stored) {
        const auto row = as_of(std::move(stored), now);
        if (is_wanted(row, wanted, now)) {
            listing.add(row);
        }
        return true;
    };
    std::vector<std::string> damaged;
    const auto name = [&](store::Damage&& damage) { damaged.push_back(store::name_of(damage)); };
    const auto read = env->each(add, name);
    return read ? Result<std::vector<std::string>>(std::move(damaged))
                : std::unexpected(read.error());
}

} // namespace

Exit run_dump(const Context& context, const Arguments& arguments) {
    const auto* const given = arguments.value("D");
    const std::string directory = given != nullptr ? *given : EGRESS_DB_DIR;
    if (arguments.has("x")) {
        return dump_damaged(context, directory);
    }
    const RowStyle style{!arguments.has("n"), arguments.has("r"), arguments.has("w"),
                         arguments.has("d")};
    const auto now = context.clock->wall();
    Listing listing(context, style, now);
    const auto walked = collect(directory, wanted_of(arguments), now, listing);
    const bool whole = walked && walked->empty();
    if (walked || listing.rows() > 0) {
        listing.write(context.out, whole);
    }
    if (!walked) {
        return complain(context, unreadable_database(walked.error()));
    }
    for (const auto& name : *walked) {
        print(context.err, "egressctl: damaged, left out: {}\n", printable(name));
    }
    if (!whole) {
        return complain(context, {Exit::unreachable,
                                  fmt::format("{} rows of the database in {} are damaged; egressd "
                                              "sets them aside when it starts",
                                              walked->size(), printable(directory))});
    }
    if (arguments.has("d")) {
        print(context.err, "egressctl: {} rows of {}\n", listing.rows(), printable(directory));
    }
    return Exit::ok;
}

} // namespace egress::ctl
