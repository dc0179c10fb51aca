#include "daemon/store/mend.h"

#include <algorithm>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/store/env.h"
#include "daemon/store/pages.h"

namespace egress::store {

namespace {

constexpr int most_kept = 9; // damaged files beside the good one

std::string_view text_of(View bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool is_readable(TableId table, View key, View body) {
    return table == TableId::rows     ? decode(key, body).has_value()
           : table == TableId::events ? decode_event(key, body).has_value()
           : is_journal(table)        ? is_piece(body)
                                      : true;
}

constexpr std::array every_table = {TableId::rows, TableId::events, TableId::meta,
                                    TableId::journal_a, TableId::journal_b};

/// Copies the old file into one transaction of the new one.
class Copy {
  public:
    Copy(const Env& from, const Env& to) : from_(from), txn_(to.handle(), to.handles()) {}

    Result<> run() {
        note(txn_.begin());
        for (const auto table : every_table) {
            if (auto copied = copy(table); !copied) {
                return copied;
            }
        }
        note(txn_.put_text(TableId::meta, "format", format_journaled));
        const auto kept = from_.each_damaged([&](Damage&& damage) { set_aside(damage); });
        if (!kept) {
            return kept;
        }
        for (const auto& damage : damages_) {
            set_aside(damage);
        }
        if (code_ == 0) {
            note(txn_.commit());
        }
        return code_ == 0 ? Result<>() : fail_lmdb("it cannot be written anew", code_);
    }

  private:
    void note(int code) { code_ = code_ == 0 ? code : code_; }
    void set_aside(const Damage& damage) {
        if (code_ == 0) {
            note(txn_.set_aside(damage));
        }
    }
    Result<> copy(TableId table) {
        Bytes value;
        const auto put = [&](View key, View body) {
            if (!is_readable(table, key, body)) {
                return Seen::no_row;
            }
            value.assign(body.begin(), body.end());
            append_checksum(key, value);
            if (code_ == 0) {
                note(txn_.put(table, key, value));
            }
            return Seen::next;
        };
        const auto keep = [&](Damage&& damage) { damages_.push_back(std::move(damage)); };
        const auto read = from_.walk(table, {put, keep});
        return read ? Result<>() : std::unexpected(read.error());
    }

    const Env& from_;
    Transaction txn_;
    std::vector<Damage> damages_;
    int code_ = 0;
};

/// A free name for a damaged file; empty: there are too many already.
std::string free_name(const std::string& file) {
    for (int number = 1; number <= most_kept; ++number) {
        auto name = fmt::format("{}.damaged.{}", file, number);
        if (access(name.c_str(), F_OK) != 0) {
            return name;
        }
    }
    return {};
}

void sync_directory(const std::string& path) {
    const Fd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory) {
        fsync(directory.get());
    }
}

} // namespace

void Findings::note(std::string text) {
    if (notes.size() < most_notes) {
        notes.push_back(std::move(text));
    }
}

std::string name_of(const Damage& damage) {
    if (std::ranges::any_of(journals, [&](TableId table) { return damage.table == name(table); })) {
        return fmt::format(
            "part of the table \"{}\" with the key \"{}\", so some rows are those of "
            "before",
            damage.table, escape(text_of(damage.key), 96));
    }
    const auto meaning = damage.table == name(TableId::rows) ? key_text(damage.key) : std::string();
    return fmt::format("row of the table \"{}\" with the key \"{}\"{}{}", escape(damage.table, 32),
                       escape(text_of(damage.key), 96), meaning.empty() ? "" : ", ", meaning);
}

Result<std::optional<Seal>> read_seal(MDB_txn* txn, MDB_dbi main, std::size_t newest) {
    MDB_val key = value_of(seal_key);
    MDB_val value{};
    const int code = mdb_get(txn, main, &key, &value);
    if (code != 0 && code != MDB_NOTFOUND) {
        return fail_lmdb("its seal cannot be read", code);
    }
    auto seal = code == 0 ? decode_seal(view_of(value)) : std::nullopt;
    // mdb_copy -c always gives its copy the number 1.
    if (seal && seal->transaction != newest && newest != 1) {
        return fail(fmt::format("its newest state is number {}, and number {} was written last",
                                newest, seal->transaction));
    }
    return seal;
}

Result<Findings> inspect(const Env& env) {
    Findings found;
    found.upgraded = env.format() == Format::plain;
    for (const auto table : every_table) {
        const auto readable = [table](View key, View body) {
            return is_readable(table, key, body) ? Seen::next : Seen::no_row;
        };
        const auto damaged = [&](Damage&& damage) {
            ++found.damaged;
            found.note(fmt::format("a damaged {} is set aside", name_of(damage)));
        };
        const auto read = env.walk(table, {readable, damaged});
        if (!read) {
            return std::unexpected(read.error());
        }
        if (!read->sealed && env.format() != Format::plain && table == every_table.front()) {
            found.note("the seal is damaged, and nothing else can say whether a row is missing; "
                       "it is written anew");
        }
        if (!read->index_whole && read->damaged == 0) {
            found.note(fmt::format("the order of the table \"{}\" is damaged, no row is; it is "
                                   "written anew",
                                   table_names[static_cast<std::size_t>(table)]));
        }
    }
    if (const auto pages = page_damage(env.directory() + "/data.mdb"); pages && found.sound()) {
        found.note(*pages + "; no row is damaged, and all is written anew");
    }
    return found;
}

Result<> rebuild(const Env& env, Findings& findings) {
    const std::string& directory = env.directory();
    const std::string file = directory + "/data.mdb";
    const std::string apart = directory + "/mend";
    std::error_code ignored;
    std::filesystem::remove_all(apart, ignored);
    {
        const auto made = Env::open(apart, Env::Mode::read_write);
        if (!made) {
            return std::unexpected(made.error());
        }
        MDB_envinfo info{};
        mdb_env_info(env.handle(), &info);
        mdb_env_set_mapsize(made->handle(), info.me_mapsize * 4); // address space only
        if (auto copied = Copy(env, *made).run(); !copied) {
            std::filesystem::remove_all(apart, ignored);
            return std::unexpected(copied.error());
        }
    }
    if (findings.damaged > 0 || !findings.notes.empty()) {
        findings.kept = free_name(file);
        if (!findings.kept.empty() && link(file.c_str(), findings.kept.c_str()) != 0) {
            return fail_errno("cannot keep the damaged database as " + findings.kept);
        }
    }
    // So readers of the old file keep a reader table of their own.
    unlink((directory + "/lock.mdb").c_str());
    if (rename((apart + "/data.mdb").c_str(), file.c_str()) != 0) {
        return fail_errno("cannot put the mended database in the place of " + file);
    }
    std::filesystem::remove_all(apart, ignored);
    sync_directory(directory);
    return {};
}

} // namespace egress::store
