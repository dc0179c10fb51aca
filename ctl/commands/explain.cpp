// explain: which line of [egress] decides, and why no earlier line does.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/process.h"
#include "ctl/values.h"
#include "daemon/base/number.h"
#include "daemon/base/protocol.h"
#include "daemon/policy/egress/destination.h"
#include "daemon/policy/egress/domain.h"

namespace egress::ctl {

namespace {

/// The number in "mnt:[4026531841]", the target of a link in /proc/PID/ns.
std::optional<std::uint64_t> namespace_at(const std::string& link) {
    std::error_code code;
    const auto text = std::filesystem::read_symlink(link, code).string();
    const auto open = text.find('[');
    std::uint64_t number = 0;
    if (code || open == std::string::npos ||
        std::from_chars(text.data() + open + 1, text.data() + text.size(), number).ec !=
            std::errc{}) {
        return std::nullopt;
    }
    return number;
}

/// The first number of a line of /proc/PID/status: the real id.
std::optional<std::uint32_t> id_in(const std::string& file, std::string_view key) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
        std::istringstream fields(line);
        std::string word;
        std::uint32_t number = 0;
        if (fields >> word >> number && word == key) {
            return number;
        }
    }
    return std::nullopt;
}

/// Reads /proc of a process, which the daemon may not be able to see.
Outcome<Json> running(const std::string& text) {
    const auto pid = parse_decimal<std::uint32_t>(text).value_or(0);
    if (pid == 0) {
        return fail(Exit::usage,
                    fmt::format("--pid: '{}' is not a process' number", printable(text)));
    }
    const auto at = fmt::format("/proc/{}/", pid);
    const auto uid = id_in(at + "status", "Uid:");
    const auto gid = id_in(at + "status", "Gid:");
    const auto start = start_of(at + "stat");
    if (!uid || !gid || !start) {
        return fail(Exit::no, fmt::format("there is no process {}, or you may not see it", pid));
    }
    Json body = {{"pid", pid}, {"uid", *uid}, {"gid", *gid}, {"started", *start}};
    std::ifstream name(at + "comm");
    if (std::string command; std::getline(name, command)) {
        body["command"] = command;
    }
    if (const auto cgroup = cgroup_in(at + "cgroup"); !cgroup.empty()) {
        body["cgroup"] = cgroup;
    }
    if (const auto pids = namespace_at(at + "ns/pid")) {
        body["pid_namespace"] = *pids;
    }
    const auto mounts = namespace_at(at + "ns/mnt");
    const auto users = namespace_at(at + "ns/user");
    std::error_code code;
    const auto root = std::filesystem::read_symlink(at + "root", code);
    if (!code && mounts && users) {
        constexpr std::uint64_t first_users = 0xeffffffd; // PROC_USER_INIT_INO
        body["mount_namespace"] = *users == first_users && root == "/" ? *mounts : 0;
    }
    return body;
}

Outcome<Json> who(const Arguments& arguments) {
    const auto* const pid = arguments.value("pid");
    const auto* const exe = arguments.value("exe");
    if ((pid == nullptr) == (exe == nullptr)) {
        return fail(Exit::usage, "'explain' needs --pid, --exe or --report, and only one of them");
    }
    if (pid != nullptr && (arguments.has("command") || arguments.has("parent"))) {
        return fail(Exit::usage, "--command and --parent go with --exe, not with --pid");
    }
    if (pid != nullptr) {
        return running(*pid);
    }
    Json body = {{"exe", *exe}};
    if (const auto* const command = arguments.value("command")) {
        body["command"] = *command;
    }
    for (const auto& parent : arguments.each("parent")) {
        body["parents"].push_back(parent);
    }
    return body;
}

Outcome<void> add_owner(const Arguments& arguments, Json& body) {
    if (const auto* const text = arguments.value("uid")) {
        const auto user = parse_user(*text);
        if (!user) {
            return std::unexpected(about("--uid", user.error()));
        }
        body["uid"] = user->uid;
        if (user->gid) {
            body["gid"] = *user->gid;
        }
    }
    if (const auto* const text = arguments.value("gid")) {
        const auto group = parse_group(*text);
        if (!group) {
            return std::unexpected(about("--gid", group.error()));
        }
        body["gid"] = *group;
    }
    return {};
}

/// "NAME" or "NAME:PORT"; nullopt: the word is an address, or is meant to be one.
std::optional<Outcome<Json>> named_destination(const std::string& word) {
    const auto colon = word.find(':');
    const auto domain = policy::parse_domain(word.substr(0, colon));
    const bool letters = std::ranges::any_of(
        word.substr(0, colon), [](unsigned char c) { return std::isalpha(c) || c == '*'; });
    if (!letters || word.find_first_of("/[") != std::string::npos ||
        word.find(':', colon + 1) < word.size()) {
        return std::nullopt;
    }
    if (!domain) {
        return fail(Exit::usage, fmt::format("'{}' {}", printable(word), domain.error().what));
    }
    if (domain->kind != policy::Destination::Kind::name) {
        return fail(Exit::usage,
                    fmt::format("'{}' is a pattern; write one of its names", printable(word)));
    }
    Json out = {{"name", domain->text}, {"port", 0}};
    if (colon != std::string::npos && word.substr(colon + 1) != "*") {
        const auto port = parse_target("0.0.0.0" + word.substr(colon));
        if (!port) {
            return std::unexpected(port.error());
        }
        out["port"] = port->port.value_or(0);
    }
    return out;
}

Outcome<void> add_destination(const std::string& word, Json& body) {
    constexpr std::string_view socket = "unix:";
    if (word.starts_with(socket)) {
        const auto name = word.substr(socket.size());
        const auto what =
            name == "*" ? "names all sockets; name one" : policy::socket_objection(name);
        if (!what.empty()) {
            return fail(Exit::usage, fmt::format("'{}' {}", printable(word), what));
        }
        body["socket"] = name;
        return {};
    }
    if (const auto named = named_destination(word)) {
        if (*named) {
            body.update(**named);
        }
        return *named ? Outcome<void>{} : std::unexpected(named->error());
    }
    const auto target = parse_target(word);
    if (!target) {
        return std::unexpected(target.error());
    }
    if (!target->prefix.is_host()) {
        return fail(Exit::usage,
                    fmt::format("'{}' is a network; name one address", printable(word)));
    }
    body["addr"] = target->prefix.base.text();
    body["port"] = target->port.value_or(0);
    return {};
}

Outcome<void> add_flow(const Arguments& arguments, Json& body) {
    if (const auto added = add_destination(arguments.operands[0], body); !added) {
        return added;
    }
    if (const auto* const type = arguments.value("type")) {
        const std::string_view third = body.contains("socket") ? "seqpacket" : "raw";
        if (*type != "stream" && *type != "dgram" && *type != third) {
            return fail(Exit::usage,
                        fmt::format("--type: '{}' is not a type; write stream, dgram or {}",
                                    printable(*type), third));
        }
        body["type"] = *type;
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
    return {};
}

Outcome<Json> question(const Arguments& arguments) {
    if (arguments.has("container") && arguments.has("host")) {
        return fail(Exit::usage, "--container and --host exclude each other");
    }
    auto body = who(arguments);
    for (const auto step : {add_owner, add_flow}) {
        if (const auto done = body ? step(arguments, *body) : Outcome<void>{}; !done) {
            return std::unexpected(done.error());
        }
    }
    if (!body) {
        return body;
    }
    if (const auto* const cgroup = arguments.value("cgroup")) {
        (*body)["cgroup"] = *cgroup;
    }
    if (arguments.has("container") || arguments.has("host")) {
        (*body)["container"] = arguments.has("container");
    }
    return body;
}

std::string joined(const Json* words) {
    std::string text;
    for (std::size_t i = 0; words != nullptr && words->is_array() && i < words->size(); ++i) {
        const auto& word = (*words)[i];
        text += word.is_string()
                    ? (text.empty() ? "" : ", ") + printable(word.get_ref<const std::string&>())
                    : "";
    }
    return text;
}

void print_process(const Context& context, const Json& process) {
    std::string text = text_at(process, "exe");
    text = text.empty() ? "(" + text_at(process, "comm") + ")" : text;
    if (const auto pid = number_at(process, "pid")) {
        text += fmt::format("[{}]", *pid);
    }
    text +=
        fmt::format(", command {}, uid {}, gid {}, {}", text_at(process, "comm"),
                    number_at(process, "uid").value_or(0), number_at(process, "gid").value_or(0),
                    true_at(process, "container") ? "in a container" : "on the host");
    const auto cgroup = text_at(process, "cgroup");
    text += cgroup.empty() ? "" : ", cgroup " + cgroup;
    print(context.out, "process   {}\n", text);
    if (const auto ancestors = joined(member(process, "ancestors")); !ancestors.empty()) {
        print(context.out, "forked by {}\n", ancestors);
    }
}

/// "some.example.org by *.example.org, 42 seconds left"
std::string grant_text(const Json& grant) {
    const auto asked = text_at(grant, "asked");
    const auto name = text_at(grant, "name");
    auto text = asked.empty() ? name.empty() ? "a name that is not known any more" : name : asked;
    if (!asked.empty() && asked != name) {
        text += name.empty() ? " by \"resolved\"" : " by " + name;
    }
    return text + fmt::format(", {} seconds left", number_at(grant, "left").value_or(0));
}

/// By which name the line matches; else which names the address has.
void print_names(const Context& context, const Json& answer) {
    if (const auto* const by = member(answer, "by")) {
        print(context.out, "by name   {}\n", grant_text(*by));
        return;
    }
    const auto* const names = member(answer, "names");
    for (const auto& grant : names != nullptr && names->is_array() ? *names : Json::array()) {
        print(context.out, "has name  {}\n", grant_text(grant));
    }
}

void print_verdict(const Context& context, const Json& answer, const std::string& where) {
    const auto rule = text_at(answer, "rule");
    if (const auto others = text_at(answer, "others"); !others.empty()) {
        print(context.out, "{}{}: by \"others {}\" of [dns]: no resolver is approved there{}\n",
              where, text_at(answer, "action"), others,
              rule.empty() ? "" : ", and no port is named by " + rule);
    } else if (!text_at(answer, "queries").empty()) {
        print(context.out,
              "{}{}: by \"queries listed\" of [dns]: questions over TLS cannot be read{}\n", where,
              text_at(answer, "action"), rule.empty() ? "" : ", and no port is named by " + rule);
    } else if (rule.empty()) {
        print(context.out, "{}{}: no line matches\n", where, text_at(answer, "action"));
    } else {
        print(context.out, "{}{}: {}: {}\n", where, text_at(answer, "action"), rule,
              text_at(answer, "text"));
    }
    print_names(context, answer);
}

/// What is granted for a name, and what the rules say of each address.
void print_named(const Context& context, const Json& answer) {
    const auto name = text_at(answer, "name");
    const auto* const addresses = member(answer, "addresses");
    for (const auto& each : addresses->is_array() ? *addresses : Json::array()) {
        print_verdict(context, each, fmt::format("{} at {} ", name, text_at(each, "addr")));
    }
    if (const auto more = number_at(answer, "addresses_left_off").value_or(0); more > 0) {
        print(context.out, "and {} more addresses\n", more);
    }
    if (const auto advice = text_at(answer, "advice"); !advice.empty()) {
        print(context.out, "{}: nothing is granted: {}\n", name, advice);
    }
    const auto* const lines = member(answer, "lines");
    for (const auto& line : lines != nullptr && lines->is_array() ? *lines : Json::array()) {
        print(context.out, "named by  {}: {}\n", text_at(line, "rule"), text_at(line, "text"));
    }
    if (const auto more = number_at(answer, "lines_left_off").value_or(0); more > 0) {
        print(context.out, "named by  {} more lines\n", more);
    }
    if (const auto* const process = member(answer, "process")) {
        print_process(context, *process);
    }
}

void print_answer(const Context& context, const Json& answer) {
    print_verdict(context, answer, "");
    if (const auto* const process = member(answer, "process")) {
        print_process(context, *process);
    }
    if (const auto* const parts = member(answer, "dimensions"); parts && parts->is_object()) {
        std::string text;
        for (const auto& [name, holds] : parts->items()) {
            const bool good = holds.is_boolean() && holds.get<bool>();
            text += fmt::format("{}{}{}", text.empty() ? "" : ", ", printable(name),
                                good ? "" : " DOES NOT");
        }
        print(context.out, "holds     {}\n", text);
    }
    const auto* const earlier = member(answer, "earlier");
    if (earlier == nullptr || !earlier->is_array()) {
        return;
    }
    for (const auto& line : *earlier) {
        print(context.out, "not       {}: {} (fails: {})\n", text_at(line, "rule"),
              text_at(line, "text"), joined(member(line, "because")));
    }
    if (const auto more = number_at(answer, "earlier_left_off").value_or(0); more > 0) {
        print(context.out, "not       {} more lines\n", more);
    }
}

} // namespace

Exit run_explain(const Context& context, const Arguments& arguments) {
    if (arguments.has("report")) {
        return explain_report(context, arguments);
    }
    const auto body = question(arguments);
    if (!body) {
        return complain(context, body.error());
    }
    const auto answer = call(context, {"POST", "/v1/explain", to_text(*body, -1)});
    if (!answer) {
        return complain(context, answer.error());
    }
    const bool named = answer->is_object() && member(*answer, "addresses") != nullptr;
    if (!answer->is_object() || (!named && text_at(*answer, "action").empty())) {
        return complain(context, {Exit::unreachable, "egressd's answer is not understood"});
    }
    if (context.json) {
        print(context.out, "{}\n", to_text(*answer));
    } else {
        (named ? print_named : print_answer)(context, *answer);
    }
    return Exit::ok;
}

} // namespace egress::ctl
