// block and unblock: answered when the change is durable.
#include "ctl/block_text.h"
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/session.h"
#include "ctl/target_list.h"
#include "ctl/values.h"

namespace egress::ctl {

namespace {

/// Most bytes of one request; the daemon takes 16 MiB. A longer list goes in several.
constexpr std::size_t request_bytes = 15u << 20u;

/// The body for one target, with the options that all of them share.
Json body_of(const Target& target, const Json& options) {
    Json body;
    body["addr"] = fmt::format("{}/{}", target.prefix.base.text(), target.prefix.length);
    if (target.port) {
        body["port"] = *target.port;
    }
    body.update(options);
    return body;
}

/// What block and unblock share beside the address: protocol and name.
Outcome<Json> selection(const Arguments& arguments) {
    Json body = Json::object();
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

Outcome<Json> block_options(const Arguments& arguments) {
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

/// The route with what the daemon needs to know of the asker.
std::string block_path(const Arguments& arguments) {
    std::string path = "/v1/blocks";
    char mark = '?';
    if (arguments.has("force")) {
        path += "?force=1";
        mark = '&';
    }
    if (const auto session = own_session()) {
        path += fmt::format("{}session={}&session_port={}", mark, session->remote.address.text(),
                            session->local.port);
    }
    return path;
}

/// An address, --from or --all: exactly one of them says what is meant.
Outcome<void> check_words(std::string_view command, const Arguments& arguments) {
    const auto given = static_cast<int>(arguments.operands.size()) +
                       (arguments.has("from") ? 1 : 0) + (arguments.has("all") ? 1 : 0);
    const auto* const all = command == "unblock" ? ", --from FILE or --all" : " or --from FILE";
    if (given == 1) {
        return {};
    }
    return fail(Exit::usage, fmt::format("'{}' needs {}ADDR[/LEN][:PORT]{}", command,
                                         given == 0 ? "" : "exactly one of ", all));
}

/// Sends the targets with the same options in as few requests as their size allows, and adds up
/// the number at `key` of the answers.
Outcome<std::int64_t> send_list(const Context& context, std::string_view method,
                                const std::string& path, const std::vector<Target>& targets,
                                const Json& options, const char* key) {
    std::int64_t sum = 0;
    std::string body;
    for (std::size_t i = 0; i < targets.size(); ++i) {
        body += (body.empty() ? "[" : ",\n") + to_text(body_of(targets[i], options), -1);
        if (body.size() < request_bytes && i + 1 < targets.size()) {
            continue;
        }
        const auto answer = call(patient(context, false), {std::string(method), path, body + "]"});
        const auto number = answer ? number_at(*answer, key) : std::nullopt;
        if (!number) {
            auto failure = answer ? Failure{Exit::unreachable, "egressd's answer has no number"}
                                  : answer.error();
            failure.text += sum == 0 ? "" : fmt::format("; {} went well before that", sum);
            return std::unexpected(failure);
        }
        sum += *number;
        body.clear();
    }
    return sum;
}

Outcome<std::int64_t> send_file(const Context& context, std::string_view method,
                                const std::string& path, const std::string& file,
                                const Json& options, const char* key) {
    const auto targets = read_targets(context, file);
    return targets ? send_list(context, method, path, *targets, options, key)
                   : std::unexpected(targets.error());
}

void print_blocked(const Context& context, const Json& row) {
    print(context.out, "blocked {} {}\n", block_text(row), until_text(row));
    if (text_at(row, "state") == "wanted") {
        print(context.out,
              "durable; the firewall has yet to confirm it ('egressctl status' shows it)\n");
    }
}

Exit block_one(const Context& context, const Arguments& arguments, const Json& options) {
    const auto target = parse_target(arguments.operands[0]);
    if (!target) {
        return complain(context, target.error());
    }
    const auto body = to_text(body_of(*target, options), -1);
    const auto row = call(context, {"POST", block_path(arguments), body});
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

Exit block_list(const Context& context, const Arguments& arguments, const Json& options) {
    const auto blocked = send_file(context, "POST", block_path(arguments), *arguments.value("from"),
                                   options, "blocked");
    if (!blocked) {
        return complain(context, blocked.error());
    }
    if (context.json) {
        print(context.out, "{}\n", to_text(Json{{"blocked", *blocked}}));
    } else {
        print(context.out, "blocked {} {}\n", *blocked, *blocked == 1 ? "address" : "addresses");
    }
    return Exit::ok;
}

/// "10.0.0.0/24 port 22" for a row of the daemon's answer.
std::string where(const Json& row) {
    const auto port = number_at(row, "port").value_or(0);
    return fmt::format("{}/{}{}", text_at(row, "addr"), number_at(row, "prefixlen").value_or(0),
                       port != 0 ? fmt::format(" port {}", port) : "");
}

/// The blocks of wider prefixes that still shut the address out; empty: none does.
std::string wider_blocks(const Json& answer) {
    const auto* const rows = member(answer, "covered_by");
    std::vector<std::string> out;
    for (const auto& row : rows != nullptr && rows->is_array() ? *rows : Json::array()) {
        out.push_back(where(row));
    }
    return fmt::format("{}", fmt::join(out, ", "));
}

/// What an answer says of lifted blocks.
struct Lifted {
    std::int64_t removed = 0;
    std::string wider; ///< blocks that still shut the address out
};

Outcome<Lifted> unblock_one(const Context& context, const Json& body) {
    const auto answer = call(patient(context, false), {"DELETE", "/v1/blocks", to_text(body, -1)});
    if (!answer) {
        return std::unexpected(answer.error());
    }
    const auto removed = number_at(*answer, "removed");
    return removed ? Outcome<Lifted>({*removed, wider_blocks(*answer)})
                   : fail(Exit::unreachable, "egressd's answer does not say how many blocks it "
                                             "lifted");
}

/// Lifts what the words name.
Outcome<Lifted> lift(const Context& context, const Arguments& arguments, Json body) {
    if (const auto* const path = arguments.value("from")) {
        const auto removed = send_file(context, "DELETE", "/v1/blocks", *path, body, "removed");
        return removed ? Outcome<Lifted>({*removed, {}}) : std::unexpected(removed.error());
    }
    if (arguments.has("all")) {
        body["all"] = true;
        return unblock_one(context, body);
    }
    const auto target = parse_target(arguments.operands[0]);
    if (!target) {
        return std::unexpected(target.error());
    }
    return unblock_one(context, body_of(*target, body));
}

} // namespace

Outcome<Json> selection_of(const Arguments& arguments) {
    const auto target = parse_target(arguments.operands[0]);
    if (!target) {
        return std::unexpected(target.error());
    }
    const auto options = selection(arguments);
    return options ? body_of(*target, *options) : options;
}

Exit run_block(const Context& context, const Arguments& arguments) {
    if (const auto checked = check_words("block", arguments); !checked) {
        return complain(context, checked.error());
    }
    const auto body = block_options(arguments);
    if (!body) {
        return complain(context, body.error());
    }
    return arguments.has("from") ? block_list(context, arguments, *body)
                                 : block_one(context, arguments, *body);
}

Exit run_unblock(const Context& context, const Arguments& arguments) {
    if (const auto checked = check_words("unblock", arguments); !checked) {
        return complain(context, checked.error());
    }
    auto body = selection(arguments);
    const auto lifted = body ? lift(context, arguments, std::move(*body))
                             : Outcome<Lifted>(std::unexpected(body.error()));
    if (!lifted) {
        return complain(context, lifted.error());
    }
    const auto& [removed, wider] = *lifted;
    if (context.json) {
        print(context.out, "{}\n", to_text(Json{{"removed", removed}}));
    } else if (removed > 0) {
        print(context.out, "lifted {} {}\n", removed, removed == 1 ? "block" : "blocks");
    }
    if (!wider.empty()) {
        return complain(context, {Exit::no, fmt::format("{} is still shut out, by the block of {}; "
                                                        "'egressctl unblock' lifts that",
                                                        printable(arguments.operands[0]), wider)});
    }
    if (removed > 0) {
        return Exit::ok;
    }
    const auto which = arguments.has("all")    ? std::string("that is meant")
                       : arguments.has("from") ? std::string("at exactly one of these addresses")
                                               : "at exactly " + printable(arguments.operands[0]);
    return complain(context, {Exit::no, fmt::format("no block stands {}; 'egressctl dump -b' lists "
                                                    "them",
                                                    which)});
}

} // namespace egress::ctl
