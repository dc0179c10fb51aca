// reload and rules: has the daemon read its rules, and prints those in force.
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"

namespace egress::ctl {

namespace {

void print_each(const Context& context, const Json* list) {
    if (list == nullptr || !list->is_array()) {
        return;
    }
    for (const auto& item : *list) {
        if (item.is_string()) {
            print(context.err, "{}\n", printable(item.get_ref<const std::string&>()));
        }
    }
}

} // namespace

Exit run_reload(const Context& context, const Arguments& arguments) {
    const auto reply =
        exchange(patient(context, arguments.has("timeout")),
                 {"POST", arguments.has("force") ? "/v1/reload?force=1" : "/v1/reload"});
    if (!reply) {
        return complain(context, reply.error());
    }
    const auto body = parse_json(reply->body);
    const bool good = reply->status >= 200 && reply->status <= 299;
    if (context.json && body && (good || reply->status == 422 || reply->status == 409)) {
        print(context.out, "{}\n", to_text(*body));
    }
    if (!good) {
        if (body && !context.json) {
            // Errors, or the lockouts that caused the refusal.
            print_each(context, member(*body, "errors"));
            print_each(context, member(*body, "warnings"));
        }
        return complain(context, refusal(*reply));
    }
    if (!body) {
        return complain(context, {Exit::unreachable, "egressd's answer is not JSON"});
    }
    if (!context.json) {
        print_each(context, member(*body, "warnings"));
        print(context.out, "rules reloaded\n");
    }
    return Exit::ok;
}

Exit run_rules(const Context& context, const Arguments&) {
    const auto rules = call(context, {"GET", "/v1/rules"});
    if (!rules) {
        return complain(context, rules.error());
    }
    const auto* const text = member(*rules, "text");
    if (text == nullptr || !text->is_string()) {
        return complain(context, {Exit::unreachable, "egressd's answer has no rules"});
    }
    print(context.out, "{}",
          context.json ? to_text(*rules) + "\n"
                       : printable_lines(text->get_ref<const std::string&>()));
    return Exit::ok;
}

} // namespace egress::ctl
