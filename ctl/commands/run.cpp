// run: a command, and all that it starts, behind rules of its own.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/commands/commands.h"
#include "ctl/file.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/process.h"
#include "ctl/rules_file.h"
#include "ctl/run_child.h"
#include "daemon/policy/parser.h"
#include "lib/fd.h"

namespace egress::ctl {

namespace {

constexpr auto own_failure = static_cast<Exit>(not_prepared);

/// The lines for one --allow: TCP and UDP, as the option names no protocol.
Outcome<std::string> lines_of(const std::string& destination) {
    for (const char c : destination) {
        if (c <= ' ' || c == '#' || c == '\\' || c == 0x7f) {
            return fail(Exit::usage, fmt::format("--allow: '{}' is not one destination; write "
                                                 "--allow again for another",
                                                 printable(destination)));
        }
    }
    const auto lines =
        fmt::format("{0} stream tcp * * allow\n{0} dgram udp * * allow\n", destination);
    const auto parsed = policy::parse_text("[egress]\n" + lines, "");
    for (const auto& each : parsed.diagnostics) {
        if (each.severity == policy::Diagnostic::Severity::error) {
            return fail(Exit::usage, fmt::format("--allow: {}{}", each.text,
                                                 each.hint.empty() ? "" : "; " + each.hint));
        }
    }
    return lines;
}

constexpr std::string_view of_unix = "unix:";

/// The sockets of each --allow unix:..., as egressd takes them.
Outcome<std::vector<std::string>> sockets_of(const Arguments& arguments) {
    std::vector<std::string> out;
    for (const auto& destination : arguments.each("allow")) {
        if (!destination.starts_with(of_unix)) {
            continue;
        }
        auto name = destination.substr(of_unix.size());
        const bool is_named = name.size() > 1 && (name[0] == '/' || name[0] == '@');
        if (name != "*" && !is_named) {
            return fail(Exit::usage,
                        fmt::format("--allow: '{}' is no socket of AF_UNIX; write unix:/path, "
                                    "unix:@name for an abstract one, or unix:*",
                                    printable(destination)));
        }
        if (printable(name) != name) {
            return fail(Exit::usage, fmt::format("--allow: '{}' has bytes that cannot be listed; "
                                                 "only unix:* allows it",
                                                 printable(destination)));
        }
        out.push_back(std::move(name));
    }
    return out;
}

Outcome<std::string> rules_of(const Context& context, const Arguments& arguments) {
    std::string out;
    for (const auto& destination : arguments.each("allow")) {
        if (destination.starts_with(of_unix)) {
            continue;
        }
        auto lines = lines_of(destination);
        if (!lines) {
            return lines;
        }
        out += *lines;
    }
    if (const auto* const file = arguments.value("rules")) {
        auto text = read_rules(context, *file);
        if (!text) {
            return text;
        }
        const auto parsed = policy::parse_text("[egress]\n" + *text, *file);
        for (auto each : parsed.diagnostics) {
            each.place.line -= 1;
            if (each.severity == policy::Diagnostic::Severity::error) {
                return fail(Exit::no, each.message());
            }
        }
        out += *text;
    }
    return out;
}

/// Asks egressd, in the process that will be the command.
bool ask(const Context& context, const std::string& rules, const std::vector<std::string>& sockets,
         bool learn, std::string& told) {
    const auto started = start_of("/proc/self/stat");
    if (!started) {
        told = "cannot read /proc/self/stat";
        return false;
    }
    Json body = {{"started", *started}, {"rules", rules}};
    if (!sockets.empty()) {
        body["sockets"] = sockets;
    }
    if (learn) {
        body["learn"] = true;
    }
    const auto begun = call(context, {"POST", "/v1/runs", to_text(body, -1)});
    if (!begun) {
        told = begun.error().text;
        return false;
    }
    told = to_text(*begun, -1);
    return true;
}

std::string destination_text(const Json& each) {
    const auto name = text_at(each, "domain");
    const auto address = name.empty() ? text_at(each, "addr") : name;
    const auto port = number_at(each, "port").value_or(0);
    const bool v6 = address.find(':') != std::string::npos;
    return port == 0 ? (v6 ? fmt::format("[{}]", address) : address)
                     : fmt::format(fmt::runtime(v6 ? "[{}]:{}" : "{}:{}"), address, port);
}

/// The --allow list that would have let everything through.
void print_lessons(const Context& context, const Json& report) {
    const auto* const all = member(report, "destinations");
    std::vector<std::string> told;
    for (const auto& each : all != nullptr ? *all : Json::array()) {
        const auto protocol = text_at(each, "protocol");
        const bool listed = protocol == "tcp" || protocol == "udp";
        auto line =
            protocol == "unix" ? fmt::format("  --allow {}{}", of_unix, text_at(each, "addr"))
            : listed && each.contains("addr")
                ? fmt::format("  --allow {}", destination_text(each))
                : fmt::format("  # {} {}: a line of --rules", text_at(each, "type"), protocol);
        if (std::ranges::find(told, line) == told.end()) {
            told.push_back(std::move(line));
        }
    }
    if (!told.empty()) {
        ctl::print(context.err, "egressctl run: it needs\n{}\n", fmt::join(told, "\n"));
    }
}

void print_end(const Context& context, const Json& report, bool learn) {
    const auto refused = number_at(report, "refused").value_or(0);
    const auto processes = number_at(report, "processes").value_or(0);
    const auto* const all = member(report, "destinations");
    const auto count = all != nullptr ? all->size() : 0;
    const bool more = number_at(report, "more").value_or(0) > 0;
    print(context.err, "egressctl run: {} connection{} {}refused", refused, refused == 1 ? "" : "s",
          learn ? "would have been " : "");
    if (refused > 0) {
        print(context.err, " ({}{} destination{})", more ? "more than " : "", count,
              count == 1 && !more ? "" : "s");
    }
    if (processes > 0) {
        print(context.err, "; {} process{} of it go{} on, with its rules", processes,
              processes == 1 ? "" : "es", processes == 1 ? "es" : "");
    }
    print(context.err, "\n");
}

/// The command may have been able to write the directory: what it put there is not written to.
Result<File> open_report(const std::string& path) {
    Fd made(open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                 0666));
    struct stat status {};
    if (!made || fstat(made.get(), &status) < 0) {
        return egress::fail(errno == ELOOP ? "it is a link" : std::strerror(errno));
    }
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || status.st_nlink != 1) {
        return egress::fail("it is there, and is no file of yours with one name");
    }
    if (ftruncate(made.get(), 0) < 0) {
        return egress::fail(std::strerror(errno));
    }
    File file(fdopen(made.get(), "w"));
    if (!file) {
        return egress::fail(std::strerror(errno));
    }
    made.release();
    return file;
}

void write_report(const Context& context, const std::string& path, const Json& report) {
    const auto file = open_report(path);
    if (file) {
        print(file->get(), "{}\n", to_text(report));
    }
    if (!file || std::fflush(file->get()) != 0) {
        print(context.err, "egressctl run: cannot write {}: {}\n", printable(path),
              file ? std::strerror(errno) : file.error().text);
    }
}

/// What the run was refused. The command's status stays the command's.
void tell_end(const Context& context, const Arguments& arguments, std::int64_t run) {
    const auto report = call(context, {"GET", fmt::format("/v1/runs?run={}", run)});
    if (!report || !report->is_object()) {
        print(context.err, "egressctl run: what was refused is not known: {}\n",
              report ? "egressd's answer is not understood" : report.error().text);
        return;
    }
    const bool learn = arguments.has("learn");
    if (!arguments.has("q")) {
        print_end(context, *report, learn);
    }
    if (learn) {
        print_lessons(context, *report);
    }
    if (const auto* const path = arguments.value("report")) {
        write_report(context, *path, *report);
    }
}

} // namespace

Exit run_run(const Context& context, const Arguments& arguments) {
    const auto rules = rules_of(context, arguments);
    if (!rules) {
        complain(context, rules.error());
        return rules.error().status == Exit::usage ? Exit::usage : own_failure;
    }
    const auto sockets = sockets_of(arguments);
    if (!sockets) {
        complain(context, sockets.error());
        return sockets.error().status;
    }
    const bool learn = arguments.has("learn");
    const auto started = start_child(arguments.operands, [&](std::string& told) {
        return ask(context, *rules, *sockets, learn, told);
    });
    if (!started) {
        complain(context, {Exit::unreachable, started.error().text});
        return own_failure;
    }
    if (!started->ready) {
        wait_for_child(started->child);
        complain(context, {Exit::unreachable,
                           started->told.empty() ? "the child was ended" : started->told});
        return own_failure;
    }
    const auto begun = parse_json(started->told);
    if (begun && true_at(*begun, "monitor")) {
        print(context.err, "egressctl run: egressd runs with -m: nothing is refused\n");
    }
    if (begun && !true_at(*begun, "sockets") && !arguments.has("q")) {
        print(context.err,
              "egressctl run: this kernel has no hook for AF_UNIX sockets (Linux 6.7 has): the "
              "command may connect to any\n");
    }
    const int status = wait_for_child(started->child);
    if (const auto run = begun ? number_at(*begun, "run") : std::nullopt) {
        tell_end(context, arguments, *run);
    }
    return static_cast<Exit>(status);
}

} // namespace egress::ctl
