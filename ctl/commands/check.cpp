// check: the rules as the daemon would read them, without a daemon.
#include <filesystem>

#include "ctl/commands/commands.h"
#include "ctl/out.h"
#include "ctl/rules_file.h"
#include "daemon/bpf/tables/lockout.h"
#include "daemon/bpf/tables/world.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "egress-paths.h"

namespace egress::ctl {

namespace {

/// Uses the daemon's own functions, so that both report the same.
Outcome<policy::Parsed> parse(const Context& context, const Arguments& arguments) {
    const std::string path = arguments.operands.empty() ? EGRESS_CONF : arguments.operands[0];
    const bool piped = path == "-";
    // A file that cannot be read is no wrong rule.
    const auto text = read_rules(context, path);
    if (!text) {
        return std::unexpected(text.error());
    }
    std::error_code code;
    if (!piped && std::filesystem::is_regular_file(path, code)) {
        return policy::parse_files(path, path + ".d");
    }
    // From a pipe: replaces the installed file, as in apply.
    return policy::parse_instead(*text, piped ? "stdin" : path, EGRESS_CONF, EGRESS_CONF_DIR);
}

bool is_error(const policy::Diagnostic& diagnostic) {
    return diagnostic.severity == policy::Diagnostic::Severity::error;
}

Json diagnostic_json(const policy::Diagnostic& diagnostic) {
    Json json;
    json["severity"] = is_error(diagnostic) ? "error" : "warning";
    json["file"] = diagnostic.place.file;
    json["line"] = diagnostic.place.line;
    if (diagnostic.place.column != 0) {
        json["column"] = diagnostic.place.column;
    }
    json["text"] = diagnostic.text;
    if (!diagnostic.hint.empty()) {
        json["hint"] = diagnostic.hint;
    }
    return json;
}

void print_json(const Context& context, const policy::Parsed& parsed, bool with_text) {
    Json json;
    json["ok"] = parsed.ok();
    json["diagnostics"] = Json::array();
    for (const auto& diagnostic : parsed.diagnostics) {
        json["diagnostics"].push_back(diagnostic_json(diagnostic));
    }
    if (with_text && parsed.ok()) {
        json["text"] = policy::print(parsed.policy);
    }
    print(context.out, "{}\n", to_text(json));
}

void print_text(const Context& context, const policy::Parsed& parsed, bool with_text) {
    for (const auto& diagnostic : parsed.diagnostics) {
        print(context.err, "{}\n", printable(diagnostic.message()));
    }
    if (!parsed.ok()) {
        return;
    }
    if (with_text) {
        print(context.out, "{}", printable_lines(policy::print(parsed.policy)));
        return;
    }
    print(context.out, "ok: {} local, {} remote, {} trusted, {} egress lines\n",
          parsed.policy.local.size(), parsed.policy.remote.size(), parsed.policy.trusted.size(),
          parsed.policy.egress.size());
}

} // namespace

Exit run_check(const Context& context, const Arguments& arguments) {
    auto parsed = parse(context, arguments);
    if (!parsed) {
        return complain(context, parsed.error());
    }
    if (parsed->ok()) {
        for (auto& warning : bpf::check_system(parsed->policy)) {
            parsed->diagnostics.push_back(std::move(warning));
        }
        for (auto& lockout : bpf::lockouts(parsed->policy, {bpf::root_shell()}, *context.clock)) {
            parsed->diagnostics.push_back(std::move(lockout));
        }
    }
    const bool with_text = arguments.has("print");
    if (context.json) {
        print_json(context, *parsed, with_text);
    } else {
        print_text(context, *parsed, with_text);
    }
    return parsed->ok() ? Exit::ok : Exit::no;
}

} // namespace egress::ctl
