#include "ctl/trial.h"

#include <chrono>
#include <thread>

#include <fmt/format.h>
#include <unistd.h>

#include "ctl/http.h"
#include "ctl/out.h"

namespace egress::ctl {

namespace {

constexpr Seconds more = 15; ///< for a daemon that is late or restarted

/// Canonical text of the rules in force.
Outcome<std::string> rules_in_force(const Context& context) {
    const auto rules = call(context, {"GET", "/v1/rules"});
    if (!rules) {
        return std::unexpected(rules.error());
    }
    const auto* const text = member(*rules, "text");
    return text != nullptr && text->is_string() ? text->get<std::string>() : std::string();
}

void report_end(const Context& context, bool kept) {
    if (context.json) {
        print(context.out, "{}\n", to_text({{"confirmed", kept}}, -1));
    } else {
        print(context.out, "{}\n",
              kept ? "the trial has ended: its rules were kept"
                   : "the trial has ended: the previous rules are in force");
    }
    std::fflush(context.out);
}

Failure lost(const Failure& why) {
    return {
        Exit::unreachable,
        fmt::format("egressd does not answer during the trial ({}). Until it is started "
                    "(systemctl start egressd) the trial does not end: the kernel goes on with the "
                    "[egress] on trial. Started in time, egressd continues the "
                    "trial, later it starts with the rules of its files; \"egressctl detach\" "
                    "removes [egress] from the kernel without it",
                    why.text)};
}

} // namespace

std::string left_in_kernel(const Context& context) {
    if (access((context.pins + "/config").c_str(), F_OK) != 0) {
        return {};
    }
    return "the kernel goes on with the last [egress] in force, even one on trial; "
           "start egressd (systemctl start egressd), which ends a trial whose time is over, or "
           "remove it with \"egressctl detach\"";
}

Exit wait_for_end(const Context& context, Seconds seconds) {
    using Clock = std::chrono::steady_clock;
    const auto tried = rules_in_force(context);
    const auto end = Clock::now() + std::chrono::seconds(seconds + more);
    bool reported = false;
    for (;;) {
        const auto reply = exchange(context, {"GET", "/v1/trial"});
        if (reply && reply->status == 404) {
            const auto now = rules_in_force(context);
            if (tried && now) {
                report_end(context, *now == *tried);
                return *now == *tried ? Exit::ok : Exit::no;
            }
        }
        if (reply) {
            reported = false;
        } else if (!std::exchange(reported, true)) {
            complain(context, lost(reply.error()));
        }
        if (Clock::now() >= end) {
            return reported
                       ? Exit::unreachable
                       : complain(context, {Exit::unreachable, "the trial does not end; "
                                                               "\"egressctl status\" shows more"});
        }
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}

} // namespace egress::ctl
