#include "daemon/firewall/serve.h"

#include <utility>

#include "daemon/base/log.h"
#include "daemon/base/number.h"
#include "daemon/firewall/lines.h"

namespace egress {

namespace {

constexpr std::int64_t handshake_ms = 10'000; // a machine that boots is slow
constexpr std::int64_t slow_ms = 60'000;      // for one answer, whatever else it says meanwhile

} // namespace

Serve::Serve(sd_event* event, Reaper& reaper, Handlers handlers)
    : event_(event), reaper_(reaper), handlers_(std::move(handlers)) {}

Result<> Serve::start(const std::string& helper) {
    auto child = Child::spawn(event_, reaper_, {helper, "serve"}, helper_environment(),
                              {[this](std::string_view line) { on_line(line); },
                               [this](const std::string& why) { broken(why); },
                               [this](int status) { broken(end_of(status)); }});
    if (!child) {
        return std::unexpected(child.error());
    }
    child_ = std::move(*child);
    shaken_ = false;
    version_ = 0;
    last_sign_ = now_ms();
    child_->write(fmt::format("{}{}\n", lines::hello, lines::newest_version));
    child_->flush();
    return {};
}

std::vector<HelperRequest> Serve::stop() {
    // A handler of the child may be running right now, so it goes later: tidy().
    if (child_) {
        child_->abandon();
        dead_ = std::move(child_);
    }
    std::vector<HelperRequest> unanswered;
    for (auto& [id, request] : std::exchange(in_flight_, {})) {
        unanswered.push_back(std::move(request));
    }
    return unanswered;
}

bool Serve::has_room() const {
    return child_ && in_flight_.size() < most_in_flight && child_->queued() < most_queued;
}

std::uint32_t Serve::send(HelperRequest request, std::string_view words) {
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

void Serve::write(std::string_view lines) {
    child_->write(lines);
}

void Serve::flush() {
    if (child_ && child_->queued() > 0) {
        child_->flush();
    }
}

bool Serve::hangs(std::int64_t grace_ms) const {
    if (!child_) {
        return false;
    }
    const std::int64_t now = now_ms();
    if (!shaken_) {
        return now - last_sign_ > handshake_ms;
    }
    return !in_flight_.empty() && (now - last_sign_ > hang_ms + grace_ms ||
                                   now - in_flight_.begin()->second.asked_at > slow_ms + grace_ms);
}

void Serve::broken(const std::string& why) {
    if (child_) {
        handlers_.broken(why);
    }
}

void Serve::on_line(std::string_view line) {
    last_sign_ = now_ms();
    if (!child_) {
        return;
    }
    if (!shaken_) {
        on_hello(line);
        return;
    }
    if (line == "0 changed" && version_ >= 2) {
        handlers_.changed();
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
        handlers_.part(found->second, verb, rest);
        return;
    }
    if (verb != "ok" && verb != "err") {
        broken(fmt::format("answered with no known word: \"{}\"", escape(line, 80)));
        return;
    }
    const HelperRequest request = std::move(found->second);
    in_flight_.erase(found);
    handlers_.answered(request, verb == "ok", rest);
}

void Serve::on_hello(std::string_view line) {
    const bool greets = line.starts_with(lines::hello);
    std::string_view rest = line.substr(greets ? lines::hello.size() : 0);
    const auto version = parse_decimal<unsigned>(lines::word(rest));
    if (!greets || !version || *version == 0 || *version > lines::newest_version) {
        broken(fmt::format("answered \"{}\"", escape(line, 80)));
        return;
    }
    shaken_ = true;
    version_ = *version;
    handlers_.ready(escape(rest, 64));
}

} // namespace egress
