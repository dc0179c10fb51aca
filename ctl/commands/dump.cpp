// dump: the rows of the database, in blocklistctl's columns. Reads the files, without the daemon.
#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>
#include <vector>

#include <fmt/ranges.h>

#include "ctl/commands/commands.h"
#include "ctl/out.h"
#include "ctl/row.h"
#include "ctl/row_source.h"
#include "ctl/spool.h"
#include "ctl/values.h"
#include "daemon/base/boot.h"
#include "daemon/base/clock.h"
#include "daemon/store/env.h"
#include "daemon/store/epoch.h"
#include "daemon/store/json.h"
#include "egress-paths.h"

namespace egress::ctl {

namespace {

constexpr std::string_view row_states[] = {"counting", "wanted", "blocked", "monitored",
                                           "releasing"};

/// Selects rows by what the command line names.
class Selection {
  public:
    static Outcome<Selection> of(const Arguments& arguments);
    /// `row` as of now.
    bool wants(const store::Row& row, std::int64_t now) const;

  private:
    enum class Kind { counting, blocked, all };
    Kind kind_ = Kind::counting;
    std::optional<Target> target_;
    std::vector<std::string> names_;
    std::vector<std::uint16_t> ports_;
    std::vector<std::string> states_;
};

Outcome<Selection> Selection::of(const Arguments& arguments) {
    Selection selection;
    // A question about one address or state is about all that is known of it.
    const bool narrowed = !arguments.operands.empty() || arguments.has("state");
    selection.kind_ = arguments.has("a")   ? Kind::all
                      : arguments.has("b") ? Kind::blocked
                      : narrowed           ? Kind::all
                                           : Kind::counting;
    if (!arguments.operands.empty()) {
        auto target = parse_target(arguments.operands[0]);
        if (!target) {
            return std::unexpected(target.error());
        }
        selection.target_ = std::move(*target);
    }
    for (const auto& text : arguments.each("name")) {
        auto name = parse_name(text);
        if (!name) {
            return fail(Exit::usage, "--name: " + name.error().text);
        }
        selection.names_.push_back(std::move(*name));
    }
    for (const auto& text : arguments.each("port")) {
        const auto port = parse_target("0.0.0.0:" + text);
        if (!port || (!port->port && text != "*")) {
            return fail(Exit::usage, fmt::format("--port: '{}' is no number from 1 to 65535, no "
                                                 "service's name and not *",
                                                 printable(text)));
        }
        selection.ports_.push_back(port->port.value_or(0));
    }
    for (const auto& state : arguments.each("state")) {
        if (std::ranges::find(row_states, state) == std::end(row_states)) {
            return fail(Exit::usage, fmt::format("--state: '{}' is not a state; write {}",
                                                 printable(state), fmt::join(row_states, ", ")));
        }
        selection.states_.push_back(state);
    }
    return selection;
}

bool Selection::wants(const store::Row& row, std::int64_t now) const {
    const auto one_of = [](const auto& wanted, const auto& value) {
        return wanted.empty() || std::ranges::find(wanted, value) != wanted.end();
    };
    if ((kind_ == Kind::blocked && row.state != store::State::blocked) ||
        (kind_ == Kind::counting &&
         (row.state != store::State::counting || is_forgotten(row, now)))) {
        return false;
    }
    if (target_) {
        const auto& wanted = target_->prefix;
        const bool related = wanted.length <= row.address.length
                                 ? wanted.contains(row.address.base)
                                 : row.address.contains(wanted.base);
        if (!related || (target_->port && row.port != 0 && row.port != *target_->port)) {
            return false;
        }
    }
    return one_of(names_, row.name) && one_of(ports_, row.port) &&
           one_of(states_, store::state_name(row));
}

/// Collects the text of the rows. Writes nothing while the database is open: a waiting pager would
/// hold LMDB's reader, and the daemon's file would grow meanwhile; nor while the daemon answers: it
/// drops those who do not read.
class Listing {
  public:
    Listing(const Context& context, const RowStyle& style, std::int64_t now)
        : json_(context.json), style_(style), now_(now) {
        if (!json_ && style.header) {
            text_.add(row_header(style) + "\n");
        }
    }

    void add(const store::Row& row) {
        if (json_) {
            text_.add(rows_ == 0 ? "[\n" : ",\n");
            text_.add(to_text(store::row_json(row), -1));
        } else {
            text_.add(row_line(row, style_, now_) + "\n");
        }
        ++rows_;
    }

    /// `whole` false: a JSON list that ends early must not parse as a complete one.
    Outcome<void> write(std::FILE* to, bool whole) {
        if (json_ && whole) {
            text_.add(rows_ == 0 ? "[]\n" : "\n]\n");
        }
        return text_.write(to);
    }

    std::size_t rows() const { return rows_; }

  private:
    Spool text_;
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
Result<std::vector<std::string>> collect(const std::string& directory, const Selection& wanted,
                                         const Clock& clock, Listing& listing) {
    const auto env = open_to_read(directory);
    if (!env) {
        return std::unexpected(env.error());
    }
    const auto text = env->meta(store::Epoch::key);
    const auto epoch = text ? store::Epoch::parse(*text) : std::nullopt;
    const auto shift = epoch ? epoch->to_wall(boot_id(), clock.at_boot()) : 0;
    const auto now = clock.wall();
    const auto add = [&](store::Row&& stored) {
        store::shift_times(stored, shift);
        const auto row = as_of(std::move(stored), now);
        if (wanted.wants(row, now)) {
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

/// Members of the daemon's group may not read its files, but may ask it.
Exit dump_from_daemon(const Context& context, const Selection& selection, Listing& listing,
                      std::int64_t now, const Error& refused) {
    const auto told = rows_of_daemon(context, [&](store::Row&& stored) {
        const auto row = as_of(std::move(stored), now);
        if (selection.wants(row, now)) {
            listing.add(row);
        }
    });
    if (!told) {
        auto failure = unreadable_database(refused);
        failure.text += "; " + told.error().text;
        return complain(context, failure);
    }
    const auto written = listing.write(context.out, true);
    return written ? Exit::ok : complain(context, written.error());
}

bool is_forbidden(const Error& error) {
    return error.code == EACCES || error.code == EPERM;
}

} // namespace

Exit run_dump(const Context& context, const Arguments& arguments) {
    const auto* const given = arguments.value("D");
    const std::string directory = given != nullptr ? *given : EGRESS_DB_DIR;
    if (arguments.has("x")) {
        return dump_damaged(context, directory);
    }
    const auto selection = Selection::of(arguments);
    if (!selection) {
        return complain(context, selection.error());
    }
    const RowStyle style{!arguments.has("n"), arguments.has("r"), arguments.has("w"),
                         arguments.has("d")};
    const auto now = context.clock->wall();
    Listing listing(context, style, now);
    const auto walked = collect(directory, *selection, *context.clock, listing);
    if (!walked && given == nullptr && is_forbidden(walked.error())) {
        return dump_from_daemon(context, *selection, listing, now, walked.error());
    }
    const bool whole = walked && walked->empty();
    if (walked || listing.rows() > 0) {
        if (const auto written = listing.write(context.out, whole); !written) {
            return complain(context, written.error());
        }
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
