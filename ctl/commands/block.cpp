// block and unblock: answered when the change is durable.
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/values.h"

namespace egress::ctl {

namespace {

Failure about(std::string_view option, Failure failure) {
    failure.text = fmt::format("{}: {}", option, failure.text);
    return failure;
}

/// The parts that block and unblock share: addr, port, protocol, name.
Outcome<Json> selection(const Arguments& arguments) {
    const auto target = parse_target(arguments.operands[0]);
    if (!target) {
        return std::unexpected(target.error());
    }
    Json body;
    body["addr"] = fmt::format("{}/{}", target->prefix.base.text(), target->prefix.length);
    if (target->port) {
        body["port"] = *target->port;
    }
    if (const auto* const text = arguments.value("proto")) {
        const auto protocol = parse_protocol(*text);
        if (!protocol) {
            return std::unexpected(about("--proto", protocol.error()));
        }
        if (!protocol->empty()) {
            body["protocol"] = *protocol;
        }
    }
    if (const auto* const text = arguments.value("name")) {
        const auto name = parse_name(*text);
        if (!name) {
            return std::unexpected(about("--name", name.error()));
        }
        body["name"] = *name;
    }
    return body;
}

Outcome<Json> block_body(const Arguments& arguments) {
    auto body = selection(arguments);
    if (!body) {
        return body;
    }
    if (const auto* const text = arguments.value("for")) {
        const auto seconds = parse_time(*text);
        if (!seconds) {
            return std::unexpected(about("--for", seconds.error()));
        }
        if (*seconds != forever) {
            (*body)["seconds"] = *seconds;
        }
    }
    if (const auto* const text = arguments.value("reason")) {
        const auto reason = parse_reason(*text);
        if (!reason) {
            return std::unexpected(about("--reason", reason.error()));
        }
        if (!reason->empty()) {
            (*body)["reason"] = *reason;
        }
    }
    return body;
}

void print_blocked(const Context& context, const Json& row) {
    const auto port = number_at(row, "port").value_or(0);
    const auto protocol = text_at(row, "protocol");
    const auto until = text_at(row, "until");
    print(context.out, "blocked {}/{}{}{} in {} {}\n", text_at(row, "addr"),
          number_at(row, "prefixlen").value_or(0), port != 0 ? fmt::format(" port {}", port) : "",
          protocol.empty() ? "" : " " + protocol, text_at(row, "name"),
          until.empty() ? "for ever" : "until " + until);
    if (text_at(row, "state") == "wanted") {
        print(context.out,
              "durable; the firewall has yet to confirm it ('egressctl status' shows it)\n");
    }
}

} // namespace

Exit run_block(const Context& context, const Arguments& arguments) {
    const auto body = block_body(arguments);
    if (!body) {
        return complain(context, body.error());
    }
    const auto row = call(context, {"POST", "/v1/blocks", to_text(*body, -1)});
    if (!row) {
        return complain(context, row.error());
    }
    if (context.json) {
        print(context.out, "{}\n", to_text(*row));
    } else {
        print_blocked(context, *row);
    }
    return Exit::ok;
}

Exit run_unblock(const Context& context, const Arguments& arguments) {
    const auto body = selection(arguments);
    if (!body) {
        return complain(context, body.error());
    }
    const auto answer = call(context, {"DELETE", "/v1/blocks", to_text(*body, -1)});
    if (!answer) {
        return complain(context, answer.error());
    }
    const auto removed = number_at(*answer, "removed");
    if (!removed) {
        return complain(context, {Exit::unreachable, "egressd's answer does not say how many "
                                                     "blocks it lifted"});
    }
    if (context.json) {
        print(context.out, "{}\n", to_text(*answer));
    } else if (*removed > 0) {
        print(context.out, "lifted {} {}\n", *removed, *removed == 1 ? "block" : "blocks");
    }
    if (*removed > 0) {
        return Exit::ok;
    }
    return complain(context, {Exit::no, fmt::format("no block stands at exactly {}; "
                                                    "'egressctl dump -b' lists them",
                                                    printable(arguments.operands[0]))});
}

} // namespace egress::ctl
