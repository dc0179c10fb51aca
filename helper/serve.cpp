#include "helper/serve.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <iterator>
#include <utility>

#include <egress-paths.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "helper/kill.h"
#include "helper/memory.h"

namespace egress::helper {

namespace {

constexpr std::size_t output_limit = 64 * 1024; ///< written before it grows further

constexpr std::int64_t say_again_ms = 100; ///< others may change the table very often

} // namespace

int Server::run() {
    bool more = true;
    while (more && !mute_ && !refused_) {
        // All available requests go into one transaction, committed once there are no more.
        const Ready ready = wait();
        if (ready.notifications) {
            changed_ = table_.hear() || changed_;
        }
        if (ready.input) {
            more = take_input();
        }
        // During a long sync there always is more to read, or to do: changes do not wait for it.
        if (!ready.input || table_.rebuilding() || !syncs_.empty()) {
            commit_changes();
        }
        if (table_.rebuilding()) {
            rebuild();
        }
        say_changed();
        if (changes_.empty()) {
            flush_output();
        }
    }
    commit_changes();
    finish_rebuild();
    flush_output();
    return refused_ ? 1 : 0;
}

/// What can be read, input or notifications. Waits unless there is work to do.
Server::Ready Server::wait() const {
    const auto pause = std::max<std::int64_t>(say_at_ - kernel_now(), 0);
    const bool busy = !changes_.empty() || table_.rebuilding();
    const int patience = busy ? 0 : changed_ ? static_cast<int>(pause) : -1;
    std::array<pollfd, 2> poll_for{{{in_, POLLIN, 0}, {table_.notices(), POLLIN, 0}}};
    while (::poll(poll_for.data(), poll_for.size(), patience) < 0 && errno == EINTR) {
    }
    return {poll_for[0].revents != 0, poll_for[1].revents != 0};
}

/// Tells the peer, unasked, that another program has changed our table.
void Server::say_changed() {
    const auto now = kernel_now();
    changed_ = table_.missed() || changed_;
    if (changed_ && now >= say_at_) {
        output_ += "0 changed\n";
        changed_ = false;
        say_at_ = now + say_again_ms;
    }
}

/// Reads once; false at the end of the input. A last line without '\n' is incomplete and ignored.
bool Server::take_input() {
    std::array<char, 64 * 1024> buffer;
    const auto count = ::read(in_, buffer.data(), buffer.size());
    if (count <= 0) {
        return count < 0 && (errno == EINTR || errno == EAGAIN);
    }
    reader_.feed({buffer.data(), static_cast<std::size_t>(count)},
                 [this](std::string_view text) { line(text); });
    return true;
}

void Server::line(std::string_view text) {
    if (refused_) {
        return;
    }
    if (!greeted_) {
        return greet(text);
    }
    auto parsed = parse_request(text);
    if (parsed) {
        request(std::move(*parsed));
    } else {
        bad_line(text, parsed.error());
    }
    if (output_.size() >= output_limit) {
        flush_output();
    }
}

/// Answers with the peer's version, or with ours if that is older: the peer decides whether it
/// supports that.
void Server::greet(std::string_view text) {
    if (!text.starts_with(hello) || text.size() == hello.size() || text.size() >= max_line) {
        output_ += error_line(0, fmt::format("expected {}{}", hello, newest_version));
        refused_ = true;
        return;
    }
    const auto asked = text.substr(hello.size());
    const bool first = asked == "1" || asked.starts_with("1 ");
    output_ +=
        fmt::format("{}{} egress-nftables/{}\n", hello, first ? 1 : newest_version, EGRESS_VERSION);
    greeted_ = true;
    if (first) {
        return;
    }
    // Without notifications the peer finds changes at its next comparison.
    if (const auto listening = table_.listen(); !listening) {
        fmt::print(stderr, "{}\n", listening.error().text);
    }
}

void Server::bad_line(std::string_view text, const Error& error) {
    const auto id = parse_id(text);
    const auto open = id ? syncs_.find(*id) : syncs_.end();
    if (open == syncs_.end()) {
        refuse(id.value_or(0), error);
        return;
    }
    // One reply per id: a sync gets its reply at its end.
    ++open->second.lines;
    if (open->second.error.empty()) {
        open->second.error = fmt::format("line {} of the sync: {}", open->second.lines, error.text);
    }
}

void Server::request(Request request) {
    switch (request.verb) {
    case Verb::add:
    case Verb::rem:
        changes_.push_back(
            Change{request.verb == Verb::add, std::move(request.name), request.block});
        ids_.push_back(request.id);
        if (changes_.size() >= max_batch) {
            commit_changes();
        }
        return;
    case Verb::sync:
        return begin_sync(request);
    case Verb::exempt:
        return begin_sync(request);
    case Verb::elem:
    case Verb::pass:
    case Verb::hold:
        return element(request);
    default:
        break;
    }
    // The other verbs must see the effect of all earlier requests.
    commit_changes();
    if (request.verb != Verb::ping && request.verb != Verb::kill) {
        finish_rebuild();
    }
    switch (request.verb) {
    case Verb::end:
        return end_sync(request.id);
    case Verb::flush:
        return answer(request.id, table_.flush(request.name));
    case Verb::list:
        return list(request);
    case Verb::names:
        return names(request);
    case Verb::kill:
        if (const auto killed = kill_sockets(request.block.target, table_.exemptions()); killed) {
            fmt::format_to(std::back_inserter(output_), "{} ok {}\n", request.id, *killed);
        } else {
            refuse(request.id, killed.error());
        }
        return;
    default:
        return answer(request.id, {}); // ping
    }
}

void Server::begin_sync(Request& request) {
    if (syncs_.contains(request.id)) {
        return bad_line(fmt::format("{} {}", request.id, verb_name(request.verb)),
                        Error{"a sync with this id is open already", 0});
    }
    if (syncs_.size() >= max_syncs) {
        return refuse(request.id, Error{fmt::format("{} syncs are open already", max_syncs), 0});
    }
    OpenSync& opened = syncs_[request.id];
    opened.exempts = request.verb == Verb::exempt;
    opened.name = std::move(request.name);
}

void Server::element(const Request& request) {
    const auto open = syncs_.find(request.id);
    if (open == syncs_.end()) {
        return refuse(request.id,
                      Error{fmt::format("{} outside a sync", verb_name(request.verb)), 0});
    }
    OpenSync& sync = open->second;
    ++sync.lines;
    if (elements_ >= max_elements && sync.error.empty()) {
        sync.error = fmt::format("more than {} elements", max_elements);
    }
    if (sync.exempts == (request.verb == Verb::elem) && sync.error.empty()) {
        sync.error = fmt::format("line {} of the sync: no {} belongs there", sync.lines,
                                 verb_name(request.verb));
    }
    if (!sync.error.empty()) {
        return;
    }
    if (sync.exempts) {
        sync.exemptions.push_back({request.block.target, request.verb == Verb::pass});
    } else {
        sync.wanted.push_back(request.block);
    }
    ++elements_;
}

void Server::end_sync(std::uint64_t id) {
    auto ended = syncs_.extract(id);
    if (ended.empty()) {
        return refuse(id, Error{"end outside a sync", 0});
    }
    OpenSync& sync = ended.mapped();
    elements_ -= sync.wanted.size() + sync.exemptions.size();
    if (!sync.error.empty()) {
        return refuse(id, Error{sync.error, 0});
    }
    if (sync.exempts) {
        return end_exempt(id, sync);
    }
    if (table_.large(sync.name, sync.wanted.size())) {
        rebuild_id_ = id;
        return table_.begin_rebuild(sync.name, sync.wanted);
    }
    const auto synced = table_.sync(sync.name, sync.wanted);
    if (!synced) {
        return refuse(id, synced.error());
    }
    fmt::format_to(std::back_inserter(output_), "{} ok {} {}\n", id, synced->added,
                   synced->removed);
}

/// Does a piece of the sync, and answers after the last one.
void Server::rebuild() {
    const auto step = table_.rebuild_step();
    if (!step) {
        refuse(rebuild_id_, step.error());
    } else if (*step) {
        fmt::format_to(std::back_inserter(output_), "{} ok {} {}\n", rebuild_id_, (*step)->added,
                       (*step)->removed);
    }
}

void Server::finish_rebuild() {
    while (table_.rebuilding()) {
        changed_ = table_.hear() || changed_;
        rebuild();
    }
}

void Server::end_exempt(std::uint64_t id, OpenSync& sync) {
    const auto passing = table_.exempt(Exemptions(std::move(sync.exemptions)));
    if (!passing) {
        return refuse(id, passing.error());
    }
    fmt::format_to(std::back_inserter(output_), "{} ok {}\n", id, *passing);
}

/// Writes items as it reads them: a large set takes seconds, and the peer sees that the helper
/// works.
void Server::list(const Request& request) {
    const auto shown = table_.list(request.name, [&](const Element& element) {
        fmt::format_to(std::back_inserter(output_), "{} item ", request.id);
        append(output_, element);
        output_ += '\n';
        if (output_.size() >= output_limit) {
            flush_output();
        }
    });
    if (!shown) {
        return refuse(request.id, shown.error());
    }
    fmt::format_to(std::back_inserter(output_), "{} ok {}\n", request.id, *shown);
}

void Server::names(const Request& request) {
    const auto found = table_.names();
    if (!found) {
        return refuse(request.id, found.error());
    }
    for (const std::string& name : *found) {
        fmt::format_to(std::back_inserter(output_), "{} name {}\n", request.id, name);
    }
    fmt::format_to(std::back_inserter(output_), "{} ok {}\n", request.id, found->size());
}

void Server::commit_changes() {
    if (changes_.empty()) {
        return;
    }
    const auto results = table_.apply(changes_);
    for (std::size_t i = 0; i < results.size(); ++i) {
        answer(ids_[i], results[i]);
    }
    changes_.clear();
    ids_.clear();
}

void Server::answer(std::uint64_t id, const Result<>& result) {
    if (result) {
        fmt::format_to(std::back_inserter(output_), "{} ok\n", id);
    } else {
        refuse(id, result.error());
    }
}

void Server::refuse(std::uint64_t id, const Error& error) {
    output_ += error_line(id, error.text);
}

void Server::flush_output() {
    std::string_view left = output_;
    while (!left.empty() && !mute_) {
        const auto count = ::write(out_, left.data(), left.size());
        if (count >= 0) {
            left.remove_prefix(static_cast<std::size_t>(count));
        } else if (errno == EAGAIN) {
            pollfd poll_for{out_, POLLOUT, 0}; // the peer made it non-blocking
            ::poll(&poll_for, 1, -1);
        } else if (errno != EINTR) {
            mute_ = true; // the peer is gone, and with it any further request
        }
    }
    output_.clear();
}

} // namespace egress::helper
