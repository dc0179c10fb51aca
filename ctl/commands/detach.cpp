// detach: removes the kernel side, by the daemon or, if none runs, directly.
#include <cerrno>

#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "daemon/bpf/pins.h"

namespace egress::ctl {

namespace {

Exit print_answer(const Context& context, std::int64_t removed, bool by_daemon) {
    if (context.json) {
        print(context.out, "{}\n", to_text({{"removed", removed}, {"daemon", by_daemon}}));
        return Exit::ok;
    }
    if (removed == 0) {
        print(context.out, "nothing was attached\n");
    } else {
        print(context.out, "detached: hooks and tables are gone ({} pins removed)\n", removed);
    }
    if (by_daemon) {
        print(context.out, "egressd goes on without [egress] until its next reload or restart\n");
    }
    return Exit::ok;
}

/// Removes the pins without a daemon.
Exit by_hand(const Context& context) {
    if (bpf::pins_held(context.pins)) {
        return complain(context, {Exit::unreachable,
                                  fmt::format("no egressd listens at {}, but one runs and uses {}; "
                                              "name its socket with -S, or stop it first",
                                              printable(context.socket), printable(context.pins))});
    }
    const auto removed = bpf::remove_pins(context.pins);
    if (!removed) {
        const bool no_right = removed.error().code == EACCES || removed.error().code == EPERM;
        return complain(context,
                        {Exit::unreachable,
                         fmt::format("no egressd runs, and {}{}", printable(removed.error().text),
                                     no_right ? "; you must be root" : "")});
    }
    return print_answer(context, static_cast<std::int64_t>(*removed), false);
}

} // namespace

Exit run_detach(const Context& context, const Arguments&) {
    const auto answer = call(context, {"DELETE", "/v1/egress"});
    if (!answer && answer.error().no_daemon) {
        return by_hand(context);
    }
    if (!answer) {
        return complain(context, answer.error());
    }
    const auto removed = number_at(*answer, "removed");
    if (!removed) {
        return complain(context, {Exit::unreachable, "egressd's answer is not understood"});
    }
    return print_answer(context, *removed, true);
}

} // namespace egress::ctl
