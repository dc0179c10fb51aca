// The sources of the event loop (sd-event's) and their handlers; every source is made here.
//
// A Source owns the event source and its handler: destroying it ends the calls. A handler may
// destroy its own Source. It runs on the loop's thread and must not wait.
#pragma once

#include <concepts>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string_view>
#include <utility>

#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include "daemon/base/result.h"

namespace egress {

struct UnrefSource {
    void operator()(sd_event_source* source) const { sd_event_source_disable_unref(source); }
};
using Source = std::unique_ptr<sd_event_source, UnrefSource>;

struct UnrefEvent {
    void operator()(sd_event* event) const { sd_event_unref(event); }
};
using Event = std::unique_ptr<sd_event, UnrefEvent>;

namespace loop_detail {

/// Attaches the handler to the source, or returns the failure.
template <typename Handler>
Result<Source> keep(int code, sd_event_source* raw, std::unique_ptr<Handler> handler) {
    if (code < 0) {
        return fail_errno("cannot add a source to the event loop", -code);
    }
    sd_event_source_set_destroy_callback(raw,
                                         [](void* held) { delete static_cast<Handler*>(held); });
    handler.release(); // NOLINT: the source's destroy callback owns it
    return Source(raw);
}

template <typename Handler>
int call(void* held) {
    (*static_cast<Handler*>(held))();
    return 0;
}

} // namespace loop_detail

/// Calls handler(EPOLL events) whenever `fd`, which must outlive the Source, has one of `events`;
/// hang-ups and errors always count.
template <std::invocable<std::uint32_t> Handler>
Result<Source> watch(sd_event* event, int fd, std::uint32_t events, Handler handler) {
    auto held = std::make_unique<Handler>(std::move(handler));
    sd_event_source* raw = nullptr;
    const auto call = [](sd_event_source*, int, std::uint32_t ready, void* self) {
        (*static_cast<Handler*>(self))(ready);
        return 0;
    };
    const int code = sd_event_add_io(event, &raw, fd, events, call, held.get());
    return loop_detail::keep(code, raw, std::move(held));
}

/// Calls handler() once, `usec` microseconds from now, and again after each call_again(). Accuracy
/// 0 lets the loop delay the call by up to a quarter of a second, to join it with other wake-ups.
template <std::invocable Handler>
Result<Source> call_after(sd_event* event, std::uint64_t usec, Handler handler,
                          std::uint64_t accuracy_usec = 0) {
    auto held = std::make_unique<Handler>(std::move(handler));
    sd_event_source* raw = nullptr;
    const auto call = [](sd_event_source*, std::uint64_t, void* self) {
        return loop_detail::call<Handler>(self);
    };
    const int code = sd_event_add_time_relative(event, &raw, CLOCK_MONOTONIC, usec, accuracy_usec,
                                                call, held.get());
    return loop_detail::keep(code, raw, std::move(held));
}

inline void call_again(const Source& timer, std::uint64_t usec) {
    sd_event_source_set_time_relative(timer.get(), usec);
    sd_event_source_set_enabled(timer.get(), SD_EVENT_ONESHOT);
}

/// Calls handler() for a signal, which every thread must block.
template <std::invocable Handler>
Result<Source> watch_signal(sd_event* event, int signal, Handler handler) {
    auto held = std::make_unique<Handler>(std::move(handler));
    sd_event_source* raw = nullptr;
    const auto call = [](sd_event_source*, const signalfd_siginfo*, void* self) {
        return loop_detail::call<Handler>(self);
    };
    const int code = sd_event_add_signal(event, &raw, signal, call, held.get());
    return loop_detail::keep(code, raw, std::move(held));
}

/// Calls handler() at the end of each turn of the loop in which another source was called.
template <std::invocable Handler>
Result<Source> watch_turns(sd_event* event, Handler handler) {
    auto held = std::make_unique<Handler>(std::move(handler));
    sd_event_source* raw = nullptr;
    const auto call = [](sd_event_source*, void* self) { return loop_detail::call<Handler>(self); };
    const int code = sd_event_add_post(event, &raw, call, held.get());
    return loop_detail::keep(code, raw, std::move(held));
}

} // namespace egress
