#include "daemon/firewall/firewall.h"

#include <algorithm>
#include <ctime>

#include "daemon/base/log.h"
#include "daemon/base/set_name.h"
#include "daemon/firewall/job.h"
#include "daemon/firewall/lines.h"

namespace egress {

namespace {

constexpr std::size_t most_in_flight = 4096;
constexpr std::size_t most_queued_bytes = 1 << 20;
constexpr std::int64_t handshake_ms = 3'000;
constexpr std::int64_t hang_ms = 10'000; // without a sign of life, something being asked
constexpr std::int64_t slow_ms = 60'000; // for one answer, whatever else it says meanwhile
constexpr std::int64_t serve_again_ms = 600'000;
constexpr std::size_t most_names = 4096;
constexpr int most_failed_looks = 3;
constexpr std::int64_t first_backoff_ms = 250;
constexpr std::int64_t most_backoff_ms = 30'000;
constexpr std::size_t rows_per_interval = 10'000; // beyond it, comparisons get rarer in proportion

} // namespace

Firewall::Firewall(sd_event* event, Reaper& reaper, Ledger& ledger, const Clock& clock,
                   Options options)
    : event_(event), reaper_(reaper), ledger_(ledger), clock_(clock), options_(std::move(options)) {
}

Firewall::~Firewall() = default;

std::string_view Firewall::text(State state) {
    switch (state) {
    case State::off:
        return "off";
    case State::starting:
        return "starting";
    case State::looking:
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
    entered_ = last_sign_ = now_ms();
}

void Firewall::start() {
    stop_child();
    auto child = Child::spawn(event_, reaper_, {options_.helper, "serve"}, {},
                              {[this](std::string_view line) { on_line(line); },
                               [this](const std::string& why) { broken(why); },
                               [this](int status) { broken(end_of(status)); }});
    if (!child) {
        complain(child.error().text);
        fail_over();
        return;
    }
    child_ = std::move(*child);
    enter(State::starting);
    child_->write(fmt::format("{}\n", lines::hello));
    child_->flush();
}

void Firewall::stop_child() {
    // A handler of the child may be running right now, so it goes at the next tick.
    if (child_) {
        child_->abandon();
        dead_ = std::move(child_);
    }
    for (const auto& [id, request] : in_flight_) {
        if (request.kind == Request::Kind::add || request.kind == Request::Kind::rem) {
            ledger_.touch_again(request.key);
        }
    }
    in_flight_.clear();
    sync_ended_ = true;
}

void Firewall::complain(const std::string& why) {
    errors_ += 1;
    last_error_ = escape(why);
    log::error("helper", "helper {}: {}", options_.helper, last_error_);
}

void Firewall::broken(const std::string& why) {
    if (!child_) {
        return;
    }
    if (state_ == State::starting) {
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
    stop_child();
    enter(State::per_event);
    implementation_.clear();
    // A sync that did not come to its end was going to carry these.
    ledger_.touch_pending();
}

void Firewall::fail_over() {
    stop_child();
    back_off();
    restarts_ += 1;
    enter(State::backing_off);
}

// --- the co-process ---

std::uint32_t Firewall::send(Request request, std::string_view words) {
    const std::uint32_t id = next_id_++;
    request.asked_at = now_ms();
    if (in_flight_.empty()) {
        last_sign_ = request.asked_at;
    }
    in_flight_.emplace(id, std::move(request));
    requests_ += 1;
    child_->write(fmt::format("{} {}\n", id, words));
    return id;
}

void Firewall::on_line(std::string_view line) {
    last_sign_ = now_ms();
    if (state_ == State::starting) {
        on_hello(line);
        return;
    }
    if (!child_) {
        return;
    }
    std::string_view rest = line;
    const auto id = parse_decimal<std::uint32_t>(lines::word(rest));
    const auto found = id ? in_flight_.find(*id) : in_flight_.end();
    if (found == in_flight_.end()) {
        broken(fmt::format("answered what was not asked: \"{}\"", escape(line, 80)));
        return;
    }
    const auto verb = lines::word(rest);
    if (verb == "item" || verb == "name") {
        on_reply(found->second, *id, verb, rest);
        return;
    }
    if (verb != "ok" && verb != "err") {
        broken(fmt::format("answered with no known word: \"{}\"", escape(line, 80)));
        return;
    }
    const Request request = std::move(found->second);
    in_flight_.erase(found);
    finish(request, verb == "ok", rest);
}

void Firewall::on_hello(std::string_view line) {
    if (!line.starts_with(lines::hello)) {
        broken(fmt::format("answered \"{}\"", escape(line, 80)));
        return;
    }
    implementation_ = escape(line.substr(std::min(line.size(), lines::hello.size() + 1)), 64);
    log::info("helper-ready", "helper {} serves ({})", options_.helper, implementation_);
    look();
}

void Firewall::on_reply(Request& request, std::uint32_t, std::string_view verb,
                        std::string_view rest) {
    if (verb == "item" && request.kind == Request::Kind::list) {
        on_item(request, rest);
    } else if (verb == "name" && request.kind == Request::Kind::names) {
        const std::string name(lines::word(rest));
        if (names_.size() >= most_names) {
            broken("names more sets than there can be");
        } else if (is_set_name(name) && std::ranges::find(names_, name) == names_.end()) {
            names_.push_back(name);
        }
    }
}

void Firewall::on_item(const Request& request, std::string_view rest) {
    if (looked_ || !options_.adopt || options_.flush || ledger_.monitor()) {
        return;
    }
    if (const auto found = lines::element(request.name, rest)) {
        ledger_.adopt(*found);
    } else {
        broken(fmt::format("listed no element: \"{}\"", escape(rest, 80)));
    }
}

void Firewall::finish(const Request& request, bool ok, std::string_view rest) {
    using Kind = Request::Kind;
    if (!ok) {
        complain(fmt::format("cannot {} {}: {}", request.kind == Kind::rem ? "remove" : "do",
                             request.name.empty() ? request.key.prefix().text() : request.name,
                             rest));
    }
    switch (request.kind) {
    case Kind::add:
    case Kind::rem:
        if (ok) {
            ledger_.confirm(request.key, request.kind == Kind::add, handle_of(rest));
            went_well();
        } else {
            if (request.kind == Kind::add) {
                ledger_.deny(request.key);
            }
            retry_later(request.key);
        }
        break;
    case Kind::names:
    case Kind::list:
        // What was not listed would be deleted by the sync: better not to sync yet.
        if (!ok && !looked_ && ++failed_looks_ < most_failed_looks) {
            fail_over();
            return;
        }
        next_look();
        break;
    case Kind::sync:
        if (!ok) { // one name must not stop the others
            sync_failed_ = true;
            next_sync();
            return;
        }
        if (const auto added = parse_decimal<std::uint64_t>(lines::word(rest))) {
            reconciled_ += looked_ ? *added : 0;
        }
        synced(request.name);
        break;
    case Kind::kill:
    case Kind::flush:
        break;
    }
}

void Firewall::look() {
    enter(State::looking);
    names_.clear();
    listed_ = 0;
    send({Request::Kind::names, {}, {}, 0}, "names");
}

/// After the names, each set is listed once at the first start, so that what only the firewall
/// remembers is adopted before anything is compared.
void Firewall::next_look() {
    if (state_ != State::looking) {
        return;
    }
    for (const auto& name : ledger_.names()) {
        if (std::ranges::find(names_, name) == names_.end()) {
            names_.push_back(name);
        }
    }
    if (looked_ || listed_ == names_.size()) {
        looked_ = true;
        begin_sync();
        return;
    }
    const std::string& name = names_[listed_++];
    send({Request::Kind::list, {}, name, 0}, "list " + name);
}

void Firewall::begin_sync() {
    enter(State::syncing);
    reconcile_wanted_ = false;
    sync_failed_ = false;
    // Everything is about to be sent: what was touched until now needs no request of its own.
    ledger_.drop_touched();
    next_sync();
}

void Firewall::next_sync() {
    if (names_.empty()) {
        enter(State::serving);
        const auto factor = static_cast<std::int64_t>(1 + ledger_.blocked() / rows_per_interval);
        if (sync_failed_) {
            back_off();
        } else {
            went_well();
        }
        reconcile_at_ =
            now_ms() + (sync_failed_ ? backoff_ms_ : options_.reconcile * 1000 * factor);
        return;
    }
    sync_name_ = names_.front();
    names_.pop_front();
    sync_row_ = 0;
    sync_ended_ = false;
    sync_id_ = send({Request::Kind::sync, {}, sync_name_, 0}, "sync " + sync_name_);
    stream_sync();
}

void Firewall::stream_sync() {
    if (sync_ended_ || !child_) {
        return;
    }
    const Table& table = ledger_.table();
    Element element;
    std::string chunk;
    for (; sync_row_ < table.rows_end(); ++sync_row_) {
        if (child_->queued() + chunk.size() > most_queued_bytes) {
            child_->write(chunk);
            return;
        }
        if (ledger_.wanted(sync_row_, element) && element.name == sync_name_) {
            fmt::format_to(std::back_inserter(chunk), "{} elem {} {}\n", sync_id_,
                           lines::where(element), lines::how(element));
        }
    }
    fmt::format_to(std::back_inserter(chunk), "{} end\n", sync_id_);
    sync_ended_ = true;
    child_->write(chunk);
}

void Firewall::synced(const std::string& name) {
    // What was touched meanwhile gets its own request and its own confirmation.
    const Table& table = ledger_.table();
    for (RowId id = 0; id < table.rows_end(); ++id) {
        const TableRow& row = table[id];
        if (row.used && !row.touched && row.state != store::State::counting &&
            ledger_.name_text(row.key.name) == name) {
            ledger_.confirm(Key(row.key), row.state == store::State::blocked, {});
        }
    }
    next_sync();
}

void Firewall::reconcile() {
    reconcile_wanted_ = true;
}

// --- both ways ---

void Firewall::pump() {
    done_.clear();
    if (state_ == State::serving) {
        pump_serving();
    } else if (state_ == State::syncing) {
        stream_sync();
    } else if (state_ == State::per_event) {
        pump_events();
    }
    if (child_ && child_->queued() > 0) {
        child_->flush();
    }
}

void Firewall::pump_serving() {
    while (child_ && in_flight_.size() < most_in_flight && child_->queued() < most_queued_bytes) {
        const auto key = ledger_.next_touched();
        if (!key) {
            break;
        }
        if (const auto element = ledger_.wanted(*key)) {
            send({Request::Kind::add, *key, {}, 0},
                 fmt::format("add {} {} {}", element->name, lines::where(*element),
                             lines::how(*element)));
        } else {
            const Element gone = ledger_.element(*key);
            send({Request::Kind::rem, *key, {}, 0},
                 fmt::format("rem {} {}", gone.name, lines::where(gone)));
        }
    }
    while (child_ && !ledger_.touched() && in_flight_.size() < most_in_flight) {
        const auto key = ledger_.next_kill();
        if (!key) {
            break;
        }
        send({Request::Kind::kill, *key, {}, 0}, "kill " + lines::where(ledger_.element(*key)));
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
    dead_.reset();
    if (state_ == State::starting && now - entered_ > handshake_ms) {
        broken("no answer within 3 seconds");
    }
    // Reading a set back takes the kernel time that grows with the square of its size.
    const auto thousands = static_cast<std::int64_t>(ledger_.blocked() / 1000);
    const std::int64_t grace = thousands * thousands;
    const bool silent = !in_flight_.empty() && now - last_sign_ > hang_ms + grace;
    const bool slow =
        !in_flight_.empty() && now - in_flight_.begin()->second.asked_at > slow_ms + grace;
    if ((silent || slow) && child_) {
        complain("does not answer; it is killed and started anew");
        fail_over();
    }
    if (state_ == State::backing_off && now - entered_ >= backoff_ms_) {
        start();
    }
    for (auto it = jobs_.begin(); it != jobs_.end();) {
        const auto current = it++;
        if (now - current->second->started > hang_ms) {
            current->second->child.reset();
            complain("does not end; it is killed");
            retry_later(current->second->key);
            jobs_.erase(current);
        }
    }
    if (!retry_.empty() && now >= retry_at_) {
        for (const Key& key : std::exchange(retry_, {})) {
            ledger_.touch_again(key);
        }
        if (state_ == State::per_event && jobs_.empty()) {
            start(); // the helper may be another one by now
        }
    }
    if (state_ == State::per_event && jobs_.empty() && now - entered_ > serve_again_ms) {
        start();
    }
    if (state_ == State::serving && in_flight_.empty() &&
        (reconcile_wanted_ || now >= reconcile_at_)) {
        look();
    }
    pump();
}

Firewall::Status Firewall::status() const {
    return {state_,      implementation_, in_flight_.size() + jobs_.size() + retry_.size(),
            requests_,   errors_,         restarts_,
            reconciled_, last_error_};
}

} // namespace egress
