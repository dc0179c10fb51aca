#include "daemon/firewall/firewall.h"

#include <algorithm>
#include <ctime>

#include "daemon/base/log.h"
#include "daemon/base/number.h"
#include "daemon/base/set_name.h"
#include "daemon/firewall/lines.h"

namespace egress {

namespace {

constexpr std::int64_t serve_again_ms = 600'000;
constexpr std::size_t most_names = 4096;
constexpr int most_failed_lists = 3;
constexpr std::int64_t first_backoff_ms = 250;
constexpr std::int64_t most_backoff_ms = 30'000;
constexpr std::int64_t same_change_ms = 1000;
constexpr int most_changes = 50; ///< that a helper may report in a second; ours reports ten
constexpr std::size_t most_ahead = 256 * 1024; // bytes of a sync that a new block must wait for
constexpr std::size_t most_first = 4096;       // blocks
constexpr RowId rows_per_turn = 10'000;        // to confirm
// Beyond it a list takes the kernel seconds, in a time that grows with the square of the size.
constexpr std::size_t most_listed = 50'000;
constexpr std::size_t rows_per_interval = 10'000; // beyond it, comparisons get rarer in proportion

} // namespace

Firewall::Firewall(sd_event* event, Reaper& reaper, Ledger& ledger, const Clock& clock,
                   Options options)
    : event_(event), ledger_(ledger), feed_(ledger.follow_blocks()), clock_(clock),
      options_(std::move(options)),
      serve_(event, reaper,
             {[this](const std::string& implementation) { on_ready(implementation); },
              [this](const Request& request, std::string_view verb, std::string_view rest) {
                  on_part(request, verb, rest);
              },
              [this](const Request& request, bool ok, std::string_view rest) {
                  on_answer(request, ok, rest);
              },
              [this] { on_changed(); }, [this](const std::string& why) { on_broken(why); }}),
      per_event_(event, reaper, options_.helper,
                 {[this](const Request& request, bool ok, std::string_view text) {
                      changed(request, ok, text);
                  },
                  [this](const Key& key) { feed_.add(key); }}) {}

Firewall::~Firewall() = default;

std::string_view Firewall::text(State state) {
    switch (state) {
    case State::off:
        return "off";
    case State::starting:
        return "starting";
    case State::listing:
    case State::syncing:
    case State::serving:
        return "serving";
    case State::per_event:
        return "per-event";
    case State::backing_off:
        return "backing-off";
    }
    return "?";
}

void Firewall::enter(State state) {
    state_ = state;
    entered_ = now_ms();
}

void Firewall::start() {
    stop_serving();
    if (const auto started = serve_.start(options_.helper); !started) {
        complain(started.error().text);
        fail_over();
        return;
    }
    enter(State::starting);
}

void Firewall::stop_serving() {
    for (const auto& request : serve_.stop()) {
        if (request.changes_a_block()) {
            feed_.add(request.key);
        }
    }
    sync_ended_ = true;
    confirm_again_.reset();
    rejoin();
}

void Firewall::complain(const std::string& why) {
    errors_ += 1;
    last_error_ = escape(why);
    log::error("helper", "helper {}: {}", options_.helper, last_error_);
}

void Firewall::on_broken(const std::string& why) {
    if (!serve_.shaken()) {
        // It does not know `serve`: blocklistd's contract, a process per event.
        log::info("per-event",
                  "the helper does not answer the handshake ({}); one process per event", why);
        become_per_event();
        return;
    }
    complain(why);
    fail_over();
}

void Firewall::become_per_event() {
    stop_serving();
    enter(State::per_event);
    implementation_.clear();
    warn_of_exemptions();
    // A sync that did not come to its end was going to carry these.
    ledger_.add_pending(feed_);
}

void Firewall::fail_over() {
    stop_serving();
    back_off();
    restarts_ += 1;
    enter(State::backing_off);
}

// --- the helper that serves ---

void Firewall::on_ready(const std::string& implementation) {
    implementation_ = implementation;
    log::info("helper-ready", "helper {} serves ({})", options_.helper, implementation_);
    list_names();
}

void Firewall::on_part(const Request& request, std::string_view verb, std::string_view rest) {
    if (verb == "name" && request.kind == Request::Kind::names) {
        const std::string name(lines::word(rest));
        if (names_.size() >= most_names) {
            on_broken("names more sets than there can be");
        } else if (is_set_name(name) && std::ranges::find(names_, name) == names_.end()) {
            names_.push_back(name);
        }
        return;
    }
    const bool adopts = !listed_all_; // else nothing was to be listed
    if (verb != "item" || request.kind != Request::Kind::list || !adopts) {
        return;
    }
    if (const auto found = lines::element(request.name, rest)) {
        ledger_.adopt(*found);
    } else {
        on_broken(fmt::format("listed no element: \"{}\"", escape(rest, 80)));
    }
}

void Firewall::on_answer(const Request& request, bool ok, std::string_view rest) {
    using Kind = Request::Kind;
    if (!ok) {
        complain(fmt::format("cannot {} {}: {}", request.kind == Kind::rem ? "remove" : "do",
                             request.name.empty() ? request.key.prefix().text() : request.name,
                             rest));
    }
    switch (request.kind) {
    case Kind::add:
    case Kind::rem:
        changed(request, ok, ok ? handle_of(rest) : rest);
        break;
    case Kind::names:
    case Kind::list:
        // What was not listed would be deleted by the sync: better not to sync yet.
        if (!ok && !listed_all_ && ++failed_lists_ < most_failed_lists) {
            fail_over();
            return;
        }
        list_next();
        break;
    case Kind::sync:
        if (!ok) { // one name must not stop the others
            sync_failed_ = true;
            next_sync();
            return;
        }
        if (const auto added = parse_decimal<std::uint64_t>(lines::word(rest))) {
            reconciled_ += listed_all_ ? *added : 0;
        }
        synced();
        break;
    case Kind::exempt:
        sync_failed_ = sync_failed_ || !ok; // then all of it is tried again
        break;
    case Kind::kill:
    case Kind::flush:
        break;
    }
}

/// Another program emptied the table, or deleted or added something: everything is compared at
/// once. Until that has ended, no block is sent, so that it ends soon.
void Firewall::on_changed() {
    const std::int64_t now = now_ms();
    if (changes_.count(now) > most_changes) {
        on_broken("reports changes without end; it is killed and started anew");
        return;
    }
    if (changed_at_ == 0) {
        changed_at_ = now;
        reconciled_then_ = reconciled_;
    }
    reconcile_wanted_ = true;
}

void Firewall::end_reconciling() {
    if (changed_at_ == 0 || reconcile_wanted_) {
        return;
    }
    // The helper may hear of one change in two parts: the second comparison finds nothing to do.
    const std::uint64_t back = reconciled_ - reconciled_then_;
    const std::int64_t now = now_ms();
    if (back > 0 || now - changed_logged_at_ > same_change_ms) {
        log::warning("firewall-changed",
                     "another program changed or emptied the firewall's table: {} blocks were put "
                     "back within {} ms",
                     back, now - changed_at_);
        changed_logged_at_ = now;
    }
    changed_at_ = 0;
}

void Firewall::send_exemptions() {
    sent_passes_ = ledger_.pass_number();
    if (serve_.version() < 2) {
        warn_of_exemptions();
        return;
    }
    const auto id = serve_.send({Request::Kind::exempt, {}, {}, 0}, "exempt");
    std::string chunk;
    for (const auto& each : ledger_.pass_list()) {
        const Element at{{}, each.source, each.protocol, each.port, forever, false, {}};
        fmt::format_to(std::back_inserter(chunk), "{} {} {}\n", id, each.passes ? "pass" : "hold",
                       lines::where(at));
    }
    fmt::format_to(std::back_inserter(chunk), "{} end\n", id);
    serve_.write(chunk);
}

void Firewall::warn_of_exemptions() const {
    if (!ledger_.pass_list().empty()) {
        log::warning("exemptions",
                     "helper {} cannot let exempt addresses through a wider block (it does not "
                     "speak version 2 of serve): lines of [remote] without a limit protect only "
                     "from blocks of their own",
                     options_.helper);
    }
}

/// The end of a change, by either contract.
void Firewall::changed(const Request& request, bool ok, std::string_view text) {
    if (state_ == State::per_event && !ok) {
        complain(std::string(text));
    }
    if (ok) {
        if (request.changes_a_block()) {
            ledger_.confirm(request.key, request.kind == Request::Kind::add, text);
        }
        went_well();
    } else if (request.changes_a_block()) {
        if (state_ != State::per_event && request.kind == Request::Kind::add) {
            ledger_.deny(request.key);
        }
        retry_later(request.key);
    }
}

void Firewall::list_names() {
    enter(State::listing);
    names_.clear();
    listed_ = 0;
    serve_.send({Request::Kind::names, {}, {}, 0}, "names");
}

/// After the names, each set is listed once at the first start, so that what only the firewall
/// remembers is adopted before anything is compared.
void Firewall::list_next() {
    if (state_ != State::listing) {
        return;
    }
    for (const auto& name : ledger_.names()) {
        if (std::ranges::find(names_, name) == names_.end()) {
            names_.push_back(name);
        }
    }
    bool adopts = options_.adopt && !options_.flush && !ledger_.monitor();
    if (adopts && !listed_all_ && ledger_.blocked() > most_listed) {
        log::info("not-listed",
                  "{} blocks: what the firewall has is replaced by them and not read back, which "
                  "would take long",
                  ledger_.blocked());
        adopts = false;
    }
    if (listed_all_ || !adopts || listed_ == names_.size()) {
        listed_all_ = true;
        begin_sync();
        return;
    }
    const std::string& name = names_[listed_++];
    serve_.send({Request::Kind::list, {}, name, 0}, "list " + name);
}

void Firewall::begin_sync() {
    enter(State::syncing);
    reconcile_wanted_ = false;
    sync_failed_ = false;
    choose_first();
    apart_.clear();
    apart_rows_.clear();
    send_exemptions();
    next_sync();
}

/// The sync sends everything. Beside many blocks the few that came since the start do not wait for
/// that: they stay in the feed.
void Firewall::choose_first() {
    std::vector<Key> few;
    while (ledger_.blocked() > rows_per_interval && few.size() < most_first) {
        const auto key = feed_.next();
        if (!key) {
            break;
        }
        few.push_back(*key);
    }
    if (few.size() == most_first) {
        few.clear();
    }
    feed_.drop();
    for (const Key& key : few) {
        feed_.add(key);
    }
}

void Firewall::next_sync() {
    if (names_.empty()) {
        rejoin();
        enter(State::serving);
        const auto factor = static_cast<std::int64_t>(1 + ledger_.blocked() / rows_per_interval);
        if (sync_failed_) {
            back_off();
        } else {
            went_well();
            end_reconciling();
        }
        reconcile_at_ =
            now_ms() + (sync_failed_ ? backoff_ms_ : options_.reconcile * 1000 * factor);
        return;
    }
    sync_name_ = names_.front();
    names_.pop_front();
    sync_row_ = 0;
    sync_ended_ = false;
    sync_id_ = serve_.send({Request::Kind::sync, {}, sync_name_, 0}, "sync " + sync_name_);
    stream_sync();
}

void Firewall::stream_sync() {
    if (sync_ended_ || !serve_.running()) {
        return;
    }
    const Table& table = ledger_.table();
    Element element;
    std::string chunk;
    for (; sync_row_ < table.rows_end(); ++sync_row_) {
        if (serve_.queued() + chunk.size() > most_ahead) {
            serve_.write(chunk);
            return;
        }
        if (ledger_.wanted(sync_row_, element) && element.name == sync_name_) {
            fmt::format_to(std::back_inserter(chunk), "{} elem {} {}\n", sync_id_,
                           lines::where(element), lines::how(element));
        }
    }
    fmt::format_to(std::back_inserter(chunk), "{} end\n", sync_id_);
    sync_ended_ = true;
    serve_.write(chunk);
}

void Firewall::synced() {
    confirm_row_ = 0;
    confirm_some();
}

/// Confirms what the sync sent, in pieces: a million rows take long.
void Firewall::confirm_some() {
    const Table& table = ledger_.table();
    const RowId end = std::min(confirm_row_ + rows_per_turn, static_cast<RowId>(table.rows_end()));
    for (; confirm_row_ < end; ++confirm_row_) {
        const TableRow& row = table[confirm_row_];
        // What changed meanwhile gets its own request and its own confirmation.
        if (row.used && !feed_.holds(row) && !apart_rows_.contains(confirm_row_) &&
            row.state != store::State::counting && ledger_.name_text(row.key.name) == sync_name_) {
            ledger_.confirm(Key(row.key), row.state == store::State::blocked, {});
        }
    }
    if (confirm_row_ >= table.rows_end()) {
        confirm_again_.reset();
        return next_sync();
    }
    auto again = call_after(
        event_, 0, [this] { confirm_some(); }, 1);
    if (again) {
        confirm_again_ = std::move(*again);
    } else {
        on_broken(again.error().text);
    }
}

/// The removals that waited for the end of the sync.
void Firewall::rejoin() {
    for (const Key& key : std::exchange(apart_, {})) {
        feed_.add(key);
    }
    apart_rows_.clear();
}

void Firewall::reconcile() {
    reconcile_wanted_ = true;
}

// --- both ways ---

void Firewall::pump() {
    per_event_.tidy();
    if (state_ == State::serving) {
        pump_serving();
    } else if (state_ == State::syncing) {
        pump_beside_sync();
        stream_sync();
    } else if (state_ == State::per_event) {
        pump_per_event();
    }
    serve_.flush();
}

void Firewall::pump_serving() {
    if (reconcile_wanted_ && changed_at_ != 0) {
        if (serve_.in_flight() == 0) {
            list_names();
        }
        return;
    }
    if (sent_passes_ != ledger_.pass_number()) {
        send_exemptions();
    }
    while (serve_.has_room()) {
        const auto key = feed_.next();
        if (!key) {
            break;
        }
        if (const auto element = ledger_.wanted(*key)) {
            send_add(*key, *element);
        } else {
            const Element gone = ledger_.element(*key);
            serve_.send({Request::Kind::rem, *key, {}, 0},
                        fmt::format("rem {} {}", gone.name, lines::where(gone)));
        }
    }
    while (feed_.empty() && serve_.has_room()) {
        const auto key = ledger_.next_kill();
        if (!key) {
            break;
        }
        serve_.send({Request::Kind::kill, *key, {}, 0},
                    "kill " + lines::where(ledger_.element(*key)));
    }
}

void Firewall::send_add(const Key& key, const Element& element) {
    serve_.send(
        {Request::Kind::add, key, {}, 0},
        fmt::format("add {} {} {}", element.name, lines::where(element), lines::how(element)));
}

/// A large sync takes seconds: new blocks do not wait for its end.
void Firewall::pump_beside_sync() {
    std::string also;
    while (serve_.has_room()) {
        const auto key = feed_.next();
        if (!key) {
            break;
        }
        const auto element = ledger_.wanted(*key);
        if (!element) {
            apart_.push_back(*key);
        } else {
            send_add(*key, *element);
            if (!sync_ended_ && element->name == sync_name_) { // else the sync would remove it
                fmt::format_to(std::back_inserter(also), "{} elem {} {}\n", sync_id_,
                               lines::where(*element), lines::how(*element));
            }
        }
        apart_rows_.insert(ledger_.table().find(*key));
    }
    if (!also.empty()) {
        serve_.write(also);
    }
}

void Firewall::pump_per_event() {
    if (std::exchange(options_.flush, false)) {
        for (const auto& name : ledger_.names()) {
            per_event_.flush(name);
        }
    }
    while (per_event_.has_room() && (retry_.empty() || now_ms() >= retry_at_)) {
        const auto key = feed_.next();
        if (!key) {
            return;
        }
        if (per_event_.defer(*key)) {
            continue;
        }
        if (auto element = ledger_.wanted(*key)) {
            element->id = ledger_.element(*key).id;
            per_event_.add(*key, *element);
        } else {
            per_event_.remove(*key, ledger_.element(*key));
        }
    }
}

void Firewall::retry_later(const Key& key) {
    retry_.push_back(key);
    if (retry_.size() == 1) {
        back_off();
        retry_at_ = now_ms() + backoff_ms_;
    }
}

void Firewall::back_off() {
    backoff_ms_ = std::clamp(backoff_ms_ * 2, first_backoff_ms, most_backoff_ms);
}

void Firewall::went_well() {
    if (retry_.empty() && !sync_failed_) {
        last_error_.clear();
        backoff_ms_ = 0;
    }
}

void Firewall::tick() {
    const std::int64_t now = now_ms();
    serve_.tidy();
    // Reading a set back takes the kernel time that grows with the square of its size.
    const auto thousands = static_cast<std::int64_t>(ledger_.blocked() / 1000);
    if (serve_.hangs(thousands * thousands)) {
        on_broken(serve_.shaken() ? "does not answer; it is killed and started anew"
                                  : "no answer within 10 seconds");
    }
    if (state_ == State::backing_off && now - entered_ >= backoff_ms_) {
        start();
    }
    per_event_.tick();
    retry_due(now);
    if (state_ == State::per_event && per_event_.empty() && now - entered_ > serve_again_ms) {
        start();
    }
    if (state_ == State::serving && serve_.in_flight() == 0 &&
        (reconcile_wanted_ || now >= reconcile_at_)) {
        list_names();
    }
    pump();
}

void Firewall::retry_due(std::int64_t now) {
    if (retry_.empty() || now < retry_at_) {
        return;
    }
    for (const Key& key : std::exchange(retry_, {})) {
        feed_.add(key);
    }
    if (state_ == State::per_event && per_event_.empty()) {
        start(); // the helper may be another one by now
    }
}

Firewall::Status Firewall::status() const {
    return {state_,
            implementation_,
            serve_.in_flight() + per_event_.size() + retry_.size(),
            serve_.requests() + per_event_.requests(),
            errors_,
            restarts_,
            reconciled_,
            last_error_};
}

} // namespace egress
