// explain --report: which lines of [local] and [remote] would count a report about an address.
#include "ctl/block_text.h"
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/values.h"
#include "daemon/base/protocol.h"
#include "daemon/policy/text/number.h"

namespace egress::ctl {

namespace {

/// The service: "2222" or "ssh", or with the local address in front, as "10.66.0.1:2222".
Outcome<Json> service_of(const std::string& word) {
    const bool only_port = word.find_first_of(":/.[") == std::string::npos;
    const auto target = parse_target(only_port ? "0.0.0.0:" + word : word);
    if (!target || !target->port || !target->prefix.is_host()) {
        return fail(Exit::usage, fmt::format("'{}' is no service of this host; write its port, or "
                                             "ADDR:PORT of its socket",
                                             printable(word)));
    }
    Json body;
    if (!only_port) {
        body["local"] = target->prefix.base.text();
    }
    body["port"] = *target->port;
    return body;
}

Outcome<void> add_report_options(const Arguments& arguments, Json& body) {
    for (const auto* const option :
         {"pid", "exe", "command", "parent", "gid", "cgroup", "container", "host"}) {
        if (arguments.has(option)) {
            return fail(
                Exit::usage,
                fmt::format("--{} does not go with --report, which is about log-ins", option));
        }
    }
    if (const auto* const text = arguments.value("uid")) {
        const auto user = parse_user(*text);
        if (!user) {
            return std::unexpected(about("--uid", user.error()));
        }
        body["uid"] = user->uid;
    }
    if (const auto* const text = arguments.value("proto")) {
        const auto protocol = parse_protocol(*text);
        if (!protocol) {
            return std::unexpected(about("--proto", protocol.error()));
        }
        if (!protocol->empty()) {
            body["protocol"] = protocol_of(*protocol).value_or(0);
        }
    }
    if (const auto* const type = arguments.value("type")) {
        if (*type != "stream" && *type != "dgram") {
            return fail(Exit::usage,
                        fmt::format("--type: '{}' is not a type of log-ins; write stream "
                                    "or dgram",
                                    printable(*type)));
        }
        body["type"] = *type;
    }
    return {};
}

Outcome<Json> report_body(const Arguments& arguments) {
    const auto& word = *arguments.value("report");
    const auto remote = parse_target(word);
    if (!remote) {
        return std::unexpected(about("--report", remote.error()));
    }
    if (!remote->prefix.is_host() || remote->port) {
        return fail(Exit::usage, fmt::format("--report: '{}' is not one address without a port",
                                             printable(word)));
    }
    auto body = service_of(arguments.operands[0]);
    if (!body) {
        return body;
    }
    (*body)["addr"] = remote->prefix.base.text();
    if (const auto added = add_report_options(arguments, *body); !added) {
        return std::unexpected(added.error());
    }
    return body;
}

void print_line(const Context& context, const char* label, const Json* line) {
    if (line != nullptr) {
        print(context.out, "{:<9} {}: {}\n", label, text_at(*line, "rule"), text_at(*line, "text"));
    }
}

void print_explanation(const Context& context, const Json& answer) {
    const auto action = text_at(answer, "action");
    if (action == "ignored") {
        print(context.out, "ignored: no line of [local] matches\n");
    } else if (action == "exempt") {
        print(context.out, "never blocked\n");
    } else {
        const auto seconds = number_at(answer, "seconds");
        print(context.out, "counted as {} in {}: {} failures block it for {}\n",
              text_at(answer, "counted"), text_at(answer, "name"),
              number_at(answer, "nfail").value_or(0),
              seconds ? policy::print_duration(*seconds) : "ever");
    }
    print_line(context, "[local]", member(answer, "local"));
    print_line(context, "[remote]", member(answer, "remote"));
    if (const auto* const row = member(answer, "row")) {
        print(context.out, "now       {}: {} of {} failures, {}\n", block_text(*row),
              number_at(*row, "count").value_or(0), limit_text(*row), text_at(*row, "state"));
    }
    if (true_at(answer, "depends_on_local")) {
        print(context.out, "another line may decide for an address or interface of this host: "
                           "write ADDR:PORT\n");
    }
}

} // namespace

Exit explain_report(const Context& context, const Arguments& arguments) {
    const auto body = report_body(arguments);
    if (!body) {
        return complain(context, body.error());
    }
    const auto answer = call(context, {"POST", "/v1/explain/report", to_text(*body, -1)});
    if (!answer) {
        return complain(context, answer.error());
    }
    if (context.json) {
        print(context.out, "{}\n", to_text(*answer));
    } else {
        print_explanation(context, *answer);
    }
    return text_at(*answer, "action") == "ignored" ? Exit::no : Exit::ok;
}

} // namespace egress::ctl
