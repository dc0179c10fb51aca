// One command line from words to exit status.
#include "ctl/out.h"
#include "ctl/table.h"
#include "ctl/values.h"
#include "egress-paths.h"

namespace egress::ctl {

namespace {

Outcome<Context> with_globals(Context context, const Arguments& arguments) {
    if (const auto* const socket = arguments.value("socket")) {
        context.socket = *socket;
    }
    context.json = context.json || arguments.has("json");
    if (const auto* const text = arguments.value("timeout")) {
        const auto timeout = parse_timeout(*text);
        if (!timeout) {
            return fail(Exit::usage, "--timeout: " + timeout.error().text);
        }
        context.timeout_ms = *timeout;
    }
    return context;
}

Exit dispatch(const Context& context, const Line& line) {
    if (line.arguments.has("version")) {
        print(context.out, "egressctl {}\n", EGRESS_VERSION);
        return Exit::ok;
    }
    if (line.arguments.has("help")) {
        print(context.out, "{}", line.command == nullptr ? help_text() : help_text(*line.command));
        return Exit::ok;
    }
    return line.command->handler(context, line.arguments);
}

} // namespace

Exit run(Context context, std::span<const std::string> words) {
    const auto line = parse_line(words);
    if (!line) {
        return complain(context, line.error());
    }
    const auto set = with_globals(context, line->arguments);
    if (!set) {
        return complain(context, set.error());
    }
    const auto status = dispatch(*set, *line);
    // A list truncated by a full disk must not seem complete.
    if (std::fflush(context.out) != 0 || std::ferror(context.out) != 0) {
        return complain(context, {Exit::unreachable, "cannot write the output; it is incomplete"});
    }
    return status;
}

} // namespace egress::ctl
