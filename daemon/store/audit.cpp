#include "daemon/store/audit.h"

#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "daemon/store/env.h"

namespace egress::store {

namespace {

struct CloseCursor {
    void operator()(MDB_cursor* cursor) const { mdb_cursor_close(cursor); }
};

class Auditor {
  public:
    Auditor(MDB_txn* txn, MDB_dbi table, std::string_view name, Format format,
            const Visitor& visitor)
        : txn_(txn), table_(table), name_(name), format_(format), visitor_(visitor) {}

    Result<Audit> run();

  private:
    void check_page(const MDB_val& key, const MDB_val& value);
    View within_page(const MDB_val& what) const;
    bool is_found(const MDB_val& key, const MDB_val& value) const;
    Result<Seen> check_row(const MDB_val& key, const MDB_val& value);
    void damaged(View key, View value);

    MDB_txn* txn_;
    MDB_dbi table_;
    std::string name_;
    Format format_;
    const Visitor& visitor_;
    Audit out_;
    std::size_t page_size_ = 4096;
    const std::uint8_t* page_ = nullptr; ///< of the previous row
    MDB_val last_key_{};
    MDB_val last_value_{};
    View last_whole_;
};

bool Auditor::is_found(const MDB_val& key, const MDB_val& value) const {
    MDB_val k = key;
    MDB_val v{};
    return mdb_get(txn_, table_, &k, &v) == 0 && v.mv_data == value.mv_data;
}

/// A damaged length may reach past the end of the file, where a read kills the process. Keys and
/// values that begin on a page end on it; large values begin on a page of their own.
View Auditor::within_page(const MDB_val& what) const {
    const View bytes = view_of(what);
    const auto offset = static_cast<std::size_t>(bytes.data() - page_);
    return offset <= page_size_ ? bytes.first(std::min(bytes.size(), page_size_ - offset)) : bytes;
}

/// LMDB finds rows within a page by their order, and pages by the branches. So the first and the
/// last row of each page show whether the branches are right.
void Auditor::check_page(const MDB_val& key, const MDB_val& value) {
    const auto at = reinterpret_cast<std::uintptr_t>(key.mv_data);
    const auto* const page = reinterpret_cast<const std::uint8_t*>(at - at % page_size_);
    if (page == page_) {
        return;
    }
    out_.index_whole = out_.index_whole && is_found(key, value) &&
                       (page_ == nullptr || is_found(last_key_, last_value_));
    page_ = page;
}

void Auditor::damaged(View key, View value) {
    ++out_.damaged;
    out_.index_whole = false;
    out_.all.add(checksum_of(value));
    if (!visitor_.damage) {
        return;
    }
    visitor_.damage({name_, {key.begin(), key.end()}, {value.begin(), value.end()}});
}

Result<Seen> Auditor::check_row(const MDB_val& raw_key, const MDB_val& raw_value) {
    const View key = within_page(raw_key);
    const View value = key.size() < raw_key.mv_size ? View() : within_page(raw_value);
    const bool cut = key.size() < raw_key.mv_size || value.size() < raw_value.mv_size;
    const auto body = cut                        ? std::nullopt
                      : format_ == Format::plain ? std::optional(value)
                                                 : checked(key, value);
    const Seen seen = body ? visitor_.row(key, *body) : Seen::no_row;
    if (seen == Seen::no_row) {
        damaged(key, value);
        return Seen::next;
    }
    if (last_whole_.data() != nullptr && !std::ranges::lexicographical_compare(last_whole_, key)) {
        return fail("its rows are out of order");
    }
    last_whole_ = key;
    out_.whole.add(checksum_of(value));
    out_.all.add(checksum_of(value));
    return seen;
}

Result<Audit> Auditor::run() {
    MDB_cursor* raw = nullptr;
    MDB_stat stat{};
    int code = mdb_stat(txn_, table_, &stat);
    code = code == 0 ? mdb_cursor_open(txn_, table_, &raw) : code;
    if (code != 0) {
        return fail_lmdb("it cannot be read", code);
    }
    const std::unique_ptr<MDB_cursor, CloseCursor> cursor(raw);
    page_size_ = stat.ms_psize;
    MDB_val key{};
    MDB_val value{};
    code = mdb_cursor_get(raw, &key, &value, MDB_FIRST);
    for (; code == 0; code = mdb_cursor_get(raw, &key, &value, MDB_NEXT)) {
        check_page(key, value);
        const auto seen = check_row(key, value);
        if (!seen) {
            return std::unexpected(seen.error());
        }
        if (*seen == Seen::stop) {
            out_.stopped = true;
            return out_;
        }
        last_key_ = key;
        last_value_ = value;
    }
    if (code != MDB_NOTFOUND) {
        return fail_lmdb("it cannot be read", code);
    }
    if (out_.all.count != stat.ms_entries ||
        (page_ != nullptr && !is_found(last_key_, last_value_))) {
        out_.index_whole = false;
    }
    return out_;
}

} // namespace

Result<Audit> audit(MDB_txn* txn, MDB_dbi table, std::string_view name, Format format,
                    const Visitor& visitor) {
    unsigned flags = 0;
    const int code = mdb_dbi_flags(txn, table, &flags);
    if (code != 0 || flags != 0) {
        return fail("its rows are of no kind that egressd writes");
    }
    return Auditor(txn, table, name, format, visitor).run();
}

Result<> compare(const Audit& found, const Sum& seal, std::string_view table) {
    const auto same = [&](const Sum& sum) {
        return sum.count == seal.count && sum.sum == seal.sum;
    };
    if (!seal.known || found.stopped || same(found.whole) || same(found.all)) {
        return {};
    }
    // The damage may be in the stored checksum of a row.
    if (found.damaged > 0 && found.all.count == seal.count) {
        return {};
    }
    return found.all.count == seal.count
               ? fail(fmt::format("rows of its table \"{}\" are older than the rest", table))
               : fail(fmt::format("its table \"{}\" has {} rows where {} were written", table,
                                  found.all.count, seal.count));
}

} // namespace egress::store
