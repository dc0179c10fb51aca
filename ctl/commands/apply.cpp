// apply and confirm: other rules, for a trial or for good.
//
// The daemon runs the trial and goes back by itself; this command writes the file, as the daemon
// may have no right to.
#include <filesystem>

#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/rules_file.h"
#include "ctl/session.h"
#include "ctl/trial.h"
#include "ctl/values.h"
#include "daemon/bpf/tables/host.h"
#include "daemon/bpf/tables/lockout.h"

namespace egress::ctl {

namespace {

constexpr Seconds meanwhile = 60; ///< of the trial that precedes a permanent change
constexpr Seconds longest = 24 * 60 * 60;

/// A refusal with the list of errors, in the form of check.
Failure print_refusal(const Context& context, const Reply& reply) {
    const auto body = parse_json(reply.body);
    for (const char* key : {"errors", "warnings"}) {
        const auto* const list = body ? member(*body, key) : nullptr;
        for (const auto& item : list != nullptr && list->is_array() ? *list : Json::array()) {
            if (item.is_string()) {
                print(context.err, "{}\n", printable(item.get_ref<const std::string&>()));
            }
        }
    }
    return refusal(reply);
}

/// exchange(), which reports every refusal in full.
Outcome<Json> ask(const Context& context, const Request& request) {
    const auto reply = exchange(context, request);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->status < 200 || reply->status > 299) {
        return std::unexpected(print_refusal(context, *reply));
    }
    auto body = parse_json(reply->body);
    if (!body) {
        return fail(Exit::unreachable, "egressd's answer is not JSON");
    }
    return std::move(*body);
}

Outcome<Replacement> prepare(const std::string& path, const std::string& text) {
    auto made = Replacement::prepare(path, text);
    if (!made) {
        const bool no_right = made.error().code == EACCES || made.error().code == EPERM;
        return fail(Exit::unreachable,
                    printable(made.error().text) + (no_right ? "; you must be root" : ""));
    }
    return std::move(*made);
}

/// Writes the rules on trial to the file and keeps them in force.
Outcome<void> keep(const Context& context, Replacement& file) {
    if (const auto put = file.put(); !put) {
        return fail(Exit::unreachable, printable(put.error().text));
    }
    const auto kept = ask(context, {"POST", "/v1/trial"});
    if (kept) {
        return {};
    }
    // The trial ended meanwhile, or egressd did.
    auto failure = kept.error();
    const auto undone = file.undo();
    failure.text += undone ? fmt::format("; {} is as before", printable(file.path()))
                           : "; " + printable(undone.error().text);
    return std::unexpected(failure);
}

void print_kept(const Context& context, const Replacement& file) {
    if (context.json) {
        Json out = {{"confirmed", true}, {"file", file.path()}};
        if (!file.old().empty()) {
            out["old"] = file.old();
        }
        print(context.out, "{}\n", to_text(out));
        return;
    }
    print(context.out, "in force for good, written to {}{}{}\n", printable(file.path()),
          file.old().empty() ? "" : "; the previous rules are in ", printable(file.old()));
}

/// The daemon's rules.
struct Rules {
    std::string file;
    std::string text; ///< in force
};

Outcome<Rules> rules_of_daemon(const Context& context) {
    const auto rules = call(context, {"GET", "/v1/rules"});
    if (!rules) {
        return std::unexpected(rules.error());
    }
    const auto* const file = member(*rules, "file");
    const auto* const text = member(*rules, "text");
    if (file == nullptr || !file->is_string() || text == nullptr || !text->is_string()) {
        return fail(Exit::unreachable, "egressd did not report its rules");
    }
    return Rules{*file, *text};
}

Outcome<Request> request_of(const std::string& path, const std::string& text, Seconds seconds,
                            bool force) {
    std::error_code code;
    const auto whole = std::filesystem::absolute(path, code);
    Json body = {{"name", path == "-" ? "stdin"
                          : code      ? path
                                      : whole.lexically_normal().string()},
                 {"text", text},
                 {"seconds", seconds}};
    Request request{"PUT", force ? "/v1/trial?force=1" : "/v1/trial", to_text(body, -1)};
    const auto again = parse_json(request.body);
    if (!again || (*again)["text"] != text) {
        return fail(Exit::no,
                    fmt::format("{} is not UTF-8 throughout, which apply needs (a comment "
                                "in another character set?)",
                                printable(path)));
    }
    return request;
}

/// A permanent change: a trial that is confirmed as soon as it is in force.
Outcome<void> apply_for_good(const Context& context, const std::string& path,
                             const std::string& text, bool force) {
    const auto rules = rules_of_daemon(context);
    if (!rules) {
        return std::unexpected(rules.error());
    }
    auto file = prepare(rules->file, text);
    const auto request = request_of(path, text, meanwhile, force);
    if (!file || !request) {
        return std::unexpected(file ? request.error() : file.error());
    }
    const auto begun = ask(context, *request);
    if (!begun) {
        return std::unexpected(begun.error());
    }
    auto kept = keep(context, *file);
    if (!kept) {
        (void)exchange(context, {"DELETE", "/v1/trial"}); // else they return when the time is over
        return kept;
    }
    print_kept(context, *file);
    return {};
}

Outcome<void> apply_for(const Context& context, const std::string& path, const std::string& text,
                        Seconds seconds, bool force) {
    const auto request = request_of(path, text, seconds, force);
    if (!request) {
        return std::unexpected(request.error());
    }
    const auto begun = ask(context, *request);
    if (!begun) {
        return std::unexpected(begun.error());
    }
    if (context.json) {
        Json out = *begun;
        out["confirmed"] = false;
        out["seconds"] = seconds;
        print(context.out, "{}\n", to_text(out));
    } else {
        print(context.out,
              "in force for {} seconds; \"egressctl confirm\" keeps the rules, \"egressctl confirm "
              "--back\" ends the trial\n",
              seconds);
    }
    std::fflush(context.out); // the trial has begun, even if this process ends
    return {};
}

/// Rules that cut off what this session needs are not sent without --force.
Outcome<void> guard(const Context& context, const std::string& path, const std::string& text,
                    bool force) {
    const auto rules = rules_of_daemon(context);
    if (!rules) {
        return std::unexpected(rules.error());
    }
    const auto parsed =
        policy::parse_instead(text, path == "-" ? "stdin" : path, rules->file, rules->file + ".d");
    if (!parsed.ok()) {
        return {}; // the daemon says why
    }
    auto insiders = bpf::own_ancestry();
    insiders.push_back(bpf::root_shell());
    auto lockouts = bpf::lockouts(parsed.policy, insiders, *context.clock);
    if (const auto session = own_session()) {
        const auto before = policy::parse_text(rules->text, "before", {});
        for (auto& lost : exemptions_lost(*session, before.policy, parsed.policy)) {
            lockouts.push_back(std::move(lost));
        }
    }
    for (const auto& lockout : lockouts) {
        print(context.err, "{}\n", printable(lockout.message()));
    }
    if (lockouts.empty() || force) {
        return {};
    }
    return fail(Exit::no, "the rules would cut off what this session needs; --force applies them "
                          "nevertheless");
}

Outcome<std::optional<Seconds>> time_of(const Arguments& arguments) {
    const auto* const text = arguments.value("confirm");
    if (text == nullptr) {
        return std::nullopt;
    }
    const auto time = parse_time(*text);
    if (!time) {
        return fail(Exit::usage, "--confirm: " + time.error().text);
    }
    if (*time > longest) {
        return fail(Exit::usage, "--confirm: at most a day");
    }
    return *time;
}

/// The failure, and what remains in the kernel if no daemon answers.
Exit complain_with_rest(const Context& context, const Failure& failure) {
    const auto status = complain(context, failure);
    const auto left = status == Exit::unreachable ? left_in_kernel(context) : "";
    if (!left.empty() && failure.no_daemon) {
        print(context.err, "{}\n", left);
    } else if (!left.empty() && failure.cut) {
        print(context.err, "if it has ended, {}\n", left);
    }
    return status;
}

} // namespace

Exit run_apply(const Context& given, const Arguments& arguments) {
    const auto context = patient(given, arguments.has("timeout"));
    const auto& path = arguments.operands[0];
    const auto time = time_of(arguments);
    if (!time) {
        return complain(context, time.error());
    }
    const auto text = read_rules(context, path);
    if (!text) {
        return complain(context, text.error());
    }
    const bool force = arguments.has("force");
    const auto guarded = guard(context, path, *text, force);
    if (!guarded) {
        return complain(context, guarded.error());
    }
    if (!*time && arguments.has("wait")) {
        return complain(context, {Exit::usage, "--wait: only a trial ends; --confirm TIME makes "
                                               "one"});
    }
    const auto done = *time ? apply_for(context, path, *text, **time, force)
                            : apply_for_good(context, path, *text, force);
    if (!done) {
        return complain_with_rest(context, done.error());
    }
    return arguments.has("wait") ? wait_for_end(context, **time) : Exit::ok;
}

Exit run_confirm(const Context& given, const Arguments& arguments) {
    const auto context = patient(given, arguments.has("timeout"));
    if (arguments.has("back")) {
        const auto ended = ask(context, {"DELETE", "/v1/trial"});
        if (!ended) {
            return complain_with_rest(context, ended.error());
        }
        print(context.out, "{}\n",
              context.json ? to_text({{"confirmed", false}}) : "the previous rules are in force");
        return Exit::ok;
    }
    const auto trial = ask(context, {"GET", "/v1/trial"});
    if (!trial) {
        return complain_with_rest(context, trial.error());
    }
    const auto* const text = member(*trial, "text");
    const auto* const target = member(*trial, "file");
    if (text == nullptr || !text->is_string() || target == nullptr || !target->is_string()) {
        return complain(context, {Exit::unreachable, "egressd's answer is not understood"});
    }
    auto file = prepare(target->get<std::string>(), text->get<std::string>());
    if (!file) {
        return complain(context, file.error());
    }
    if (const auto kept = keep(context, *file); !kept) {
        return complain(context, kept.error());
    }
    print_kept(context, *file);
    return Exit::ok;
}

} // namespace egress::ctl
