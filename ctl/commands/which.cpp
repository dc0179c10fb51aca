// which and forget: what the daemon knows of an address, and how to have it forgotten.
#include "ctl/block_text.h"
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/query.h"
#include "ctl/values.h"

namespace egress::ctl {

namespace {

/// Calls `each` for every object of the list at `key`; returns how many there are.
template <typename Each>
std::size_t each_of(const Json& answer, const char* key, const Each& each) {
    const auto* const list = member(answer, key);
    std::size_t number = 0;
    for (std::size_t i = 0; list != nullptr && list->is_array() && i < list->size(); ++i) {
        each((*list)[i]);
        ++number;
    }
    return number;
}

std::size_t print_found(const Context& context, const Json& answer) {
    std::size_t found = each_of(answer, "exemptions", [&](const Json& line) {
        print(context.out, "exempt   {}: {}\n", text_at(line, "rule"), text_at(line, "text"));
    });
    found += each_of(answer, "blocks", [&](const Json& row) {
        print(context.out, "{:<8} {} {}: {}\n", text_at(row, "state"), block_text(row),
              until_text(row), text_at(row, "reason"));
    });
    each_of(answer, "counts", [&](const Json& row) {
        print(context.out, "counted  {}: {} of {} failures\n", block_text(row),
              number_at(row, "count").value_or(0), limit_text(row));
    });
    return found;
}

} // namespace

Exit run_which(const Context& context, const Arguments& arguments) {
    const auto& word = arguments.operands[0];
    const auto target = parse_target(word);
    if (!target) {
        return complain(context, target.error());
    }
    if (target->port) {
        return complain(context, {Exit::usage, fmt::format("'{}' has a port; leave it out, every "
                                                           "port is shown",
                                                           printable(word))});
    }
    Query query;
    query.add("addr", target->prefix.text());
    const auto answer = call(context, {"GET", "/v1/which" + query.text()});
    if (!answer) {
        return complain(context, answer.error());
    }
    std::size_t found = 0;
    if (context.json) {
        print(context.out, "{}\n", to_text(*answer));
        found = each_of(*answer, "exemptions", [](const Json&) {}) +
                each_of(*answer, "blocks", [](const Json&) {});
    } else {
        found = print_found(context, *answer);
    }
    return found > 0
               ? Exit::ok
               : complain(context, {Exit::no, fmt::format("no block and no exemption covers {}",
                                                          printable(word))});
}

Exit run_forget(const Context& context, const Arguments& arguments) {
    const auto body = selection_of(arguments);
    if (!body) {
        return complain(context, body.error());
    }
    const auto answer = call(patient(context, false), {"POST", "/v1/forget", to_text(*body, -1)});
    if (!answer) {
        return complain(context, answer.error());
    }
    const auto forgotten = number_at(*answer, "forgotten").value_or(0);
    const auto lifted = number_at(*answer, "lifted").value_or(0);
    if (context.json) {
        print(context.out, "{}\n", to_text(*answer));
    } else if (forgotten > 0) {
        print(context.out, "forgot {} {}, lifted {} {}\n", forgotten,
              forgotten == 1 ? "row" : "rows", lifted, lifted == 1 ? "block" : "blocks");
    }
    return forgotten > 0
               ? Exit::ok
               : complain(context,
                          {Exit::no, fmt::format("nothing is known of {}; 'egressctl which' "
                                                 "shows the networks that cover it",
                                                 printable(arguments.operands[0]))});
}

} // namespace egress::ctl
