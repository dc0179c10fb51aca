#include "daemon/explain.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <filesystem>

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/address.h"
#include "daemon/bpf/guard.h"
#include "daemon/bpf/native.h"
#include "daemon/event.h"
#include "daemon/log.h"
#include "daemon/policy/print.h"

namespace egress {

namespace {

using nlohmann::json;

constexpr std::size_t most_earlier = 20;
constexpr std::size_t most_path = 4096;
constexpr std::uint64_t second = 1'000'000'000;

/// Reads fields of the body; remembers the first that is wrong.
class Fields {
  public:
    explicit Fields(const json& body) : body_(body) {}

    template <typename T>
    std::optional<T> number(const char* key, std::uint64_t most) {
        const auto found = body_.find(key);
        if (found == body_.end()) {
            return std::nullopt;
        }
        if (!found->is_number_unsigned() || found->get<std::uint64_t>() > most) {
            wrong(key, fmt::format("is not a number up to {}", most));
            return std::nullopt;
        }
        return static_cast<T>(found->get<std::uint64_t>());
    }
    std::string text(const char* key, bool is_path) {
        const auto found = body_.find(key);
        return found == body_.end() ? std::string() : checked(key, *found, is_path);
    }
    std::vector<std::string> paths(const char* key, std::size_t most) {
        std::vector<std::string> out;
        const auto found = body_.find(key);
        if (found == body_.end()) {
            return out;
        }
        if (!found->is_array() || found->size() > most) {
            wrong(key, fmt::format("is not a list of at most {}", most));
            return out;
        }
        for (const auto& each : *found) {
            out.push_back(checked(key, each, true));
        }
        return out;
    }
    std::optional<bool> flag(const char* key) {
        const auto found = body_.find(key);
        if (found == body_.end()) {
            return std::nullopt;
        }
        if (!found->is_boolean()) {
            wrong(key, "is neither true nor false");
            return std::nullopt;
        }
        return found->get<bool>();
    }
    void wrong(std::string_view key, std::string_view what) {
        if (error_.empty()) {
            error_ = fmt::format("\"{}\" {}", key, what);
        }
    }
    const std::string& error() const { return error_; }

  private:
    std::string checked(const char* key, const json& value, bool is_path) {
        if (!value.is_string()) {
            wrong(key, "is not a text");
            return {};
        }
        const auto& text = value.get_ref<const std::string&>();
        if (text.size() > most_path || text.find('\0') != std::string::npos ||
            (is_path && !text.starts_with('/'))) {
            wrong(key, is_path ? "is no absolute path" : "is too long");
            return {};
        }
        return text;
    }

    const json& body_;
    std::string error_;
};

/// The address as the hooks see it: the kernel connects the unspecified one to itself.
std::array<std::uint8_t, 16> seen_address(const Address& address) {
    return (!address.is_unspecified() ? address
            : address.is_v4()         ? *Address::parse("127.0.0.1")
                                      : *Address::parse("::1"))
        .raw();
}

void read_flow(Fields& fields, egress_flow& flow) {
    if (const auto address = Address::parse(fields.text("addr", false))) {
        const auto bytes = seen_address(*address);
        std::ranges::copy(bytes, flow.address);
    } else {
        fields.wrong("addr", "is missing, or no address");
    }
    flow.port = fields.number<std::uint16_t>("port", 65535).value_or(0);
    flow.uid = fields.number<std::uint32_t>("uid", 0xfffffffe).value_or(0);
    flow.gid = fields.number<std::uint32_t>("gid", 0xfffffffe).value_or(0);
    const auto type = fields.text("type", false);
    const auto protocol = fields.number<std::uint8_t>("protocol", 255);
    if (type.empty()) {
        flow.type = protocol == IPPROTO_UDP                ? SOCK_DGRAM
                    : !protocol || protocol == IPPROTO_TCP ? SOCK_STREAM
                                                           : SOCK_RAW;
    } else if (type == "stream" || type == "dgram" || type == "raw") {
        flow.type = type == "stream" ? SOCK_STREAM : type == "dgram" ? SOCK_DGRAM : SOCK_RAW;
    } else {
        fields.wrong("type", "is not stream, dgram or raw");
    }
    flow.protocol = protocol.value_or(flow.type == SOCK_STREAM  ? IPPROTO_TCP
                                      : flow.type == SOCK_DGRAM ? IPPROTO_UDP
                                                                : IPPROTO_RAW);
}

std::uint64_t boot_time() {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * second +
           static_cast<std::uint64_t>(now.tv_nsec);
}

/// The kernel's entry of a process. The number is the one that this side shows, which is not the
/// kernel's own within a pid namespace; when it started tells then which it is.
std::optional<egress_process> entry_of(const Question& question, const bpf::Loader& loader) {
    const auto ticks = static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
    const auto same = [&](const egress_process& process) {
        return !question.started || process.started / (second / ticks) == *question.started;
    };
    auto process = loader.process(question.pid);
    if ((process && same(*process)) || !question.started) {
        return process;
    }
    std::optional<egress_process> found;
    std::size_t count = 0;
    loader.each_process([&](const egress_process& each) {
        if (same(each) && (question.command.empty() || question.command == each.command)) {
            found = each;
            ++count;
        }
    });
    return count == 1 ? found : std::nullopt;
}

/// What exec would have made of the program.
Result<egress_process> imagined(const Question& question, const bpf::Loader& loader) {
    std::error_code code;
    const auto real = std::filesystem::canonical(question.exe, code);
    const std::string command = question.command.empty()
                                    ? question.exe.substr(question.exe.rfind('/') + 1)
                                    : question.command;
    std::vector<bpf::Insider> insiders(1);
    insiders[0].path = code ? question.exe : real.string();
    for (const auto& parent : question.parents) {
        insiders.emplace_back().path = parent;
        insiders.back().descends = true;
    }
    if (auto named = bpf::name_programs(insiders, [&] { return loader.name_files(); }); !named) {
        return std::unexpected(named.error());
    }
    egress_process process = insiders[0].process;
    command.copy(process.command, sizeof process.command - 1);
    if (question.container.value_or(false)) {
        process.flags &= ~static_cast<std::uint32_t>(EGRESS_PROCESS_HOST_PATH);
    }
    return process;
}

bool in_container(const Question& question, const egress_process& process,
                  const bpf::Loader& loader) {
    if (question.container) {
        return *question.container;
    }
    if (bpf::is_in_container(question.cgroup)) {
        return true;
    }
    const auto settings = loader.settings();
    if (question.mount_space && question.pid_space) {
        return question.mount_space != settings.mount_namespace ||
               question.pid_space != settings.pid_namespace;
    }
    return (process.flags & EGRESS_PROCESS_HOST_PATH) == 0;
}

bool in(const egress_vector& set, std::size_t rule) {
    return (set.words[rule / 64] >> rule % 64 & 1) != 0;
}

const char* subject_name(const policy::EgressRule& rule) {
    const bool program = rule.program.kind != policy::Program::Kind::any;
    const bool lineage = !rule.options.parent.empty() || !rule.options.under.empty();
    return !lineage ? "program" : program ? "program or ancestry" : "ancestry";
}

/// Each dimension's part in one rule, in the order of the columns.
std::vector<std::pair<const char*, bool>> parts_of(const bpf::Decision& decision,
                                                   const policy::EgressRule& rule, std::size_t i,
                                                   bool timely) {
    return {{"destination", in(decision.destination, i)},
            {"port", in(decision.port, i)},
            {"protocol", in(decision.protocol, i)},
            {"user", in(decision.uid, i)},
            {"group", in(decision.gid, i)},
            {subject_name(rule), in(decision.subject, i)},
            {"place", in(decision.place, i)},
            {"cgroup", in(decision.cgroup, i)},
            {"time", timely}};
}

const char* action_of(const policy::EgressRule& rule, bool monitor) {
    if (rule.options.audit) {
        return "MONITOR";
    }
    return rule.verdict.kind == policy::Verdict::Kind::allow ? "ALLOWED"
           : monitor                                         ? "MONITOR"
                                                             : "BLOCKED";
}

const char* verdict_of(const policy::EgressRule& rule) {
    return rule.verdict.kind == policy::Verdict::Kind::allow    ? "allow"
           : rule.verdict.kind == policy::Verdict::Kind::reject ? "reject"
                                                                : "deny";
}

json process_json(const Question& question, const egress_process& process,
                  const bpf::Loader& loader, const egress_flow& flow) {
    json out = {{"uid", flow.uid}, {"gid", flow.gid}, {"container", flow.in_container != 0}};
    const std::string path(process.path.path, strnlen(process.path.path, sizeof process.path.path));
    if (question.pid != 0) {
        out["pid"] = question.pid;
    }
    if (!path.empty()) {
        out["exe"] = path;
    }
    out["comm"] = std::string(process.command, strnlen(process.command, sizeof process.command));
    if (!question.cgroup.empty()) {
        out["cgroup"] = question.cgroup;
    }
    json ancestors = json::array();
    for (std::uint32_t i = 0; i < process.ancestors_used && i < EGRESS_MAX_ANCESTORS; ++i) {
        ancestors.push_back(i < question.parents.size() ? question.parents[i]
                                                        : loader.path_of(process.ancestors[i]));
    }
    out["ancestors"] = std::move(ancestors);
    return out;
}

} // namespace

Result<Question> question_of(const json& body) {
    Fields fields(body);
    Question question;
    question.pid = fields.number<std::uint32_t>("pid", 0x7fffffff).value_or(0);
    question.started = fields.number<std::uint64_t>("started", ~std::uint64_t{0});
    question.mount_space = fields.number<std::uint32_t>("mount_namespace", 0xffffffff);
    question.pid_space = fields.number<std::uint32_t>("pid_namespace", 0xffffffff);
    question.exe = fields.text("exe", true);
    question.command = fields.text("command", false);
    question.parents = fields.paths("parents", EGRESS_MAX_ANCESTORS);
    question.cgroup = fields.text("cgroup", true);
    question.container = fields.flag("container");
    read_flow(fields, question.flow);
    if ((question.pid == 0) == question.exe.empty()) {
        fields.wrong("pid", "or \"exe\" has to be given, and not both");
    }
    if (!fields.error().empty()) {
        return fail(fields.error());
    }
    return question;
}

Result<json> explain(const Question& question, const bpf::Loader& loader,
                     const policy::Policy& policy, const bpf::Tables& tables) {
    std::optional<egress_process> known;
    if (question.pid != 0) {
        known = entry_of(question, loader);
    } else if (auto made = imagined(question, loader)) {
        known = *made;
    } else {
        return std::unexpected(made.error());
    }
    if (!known) {
        return fail(fmt::format("the kernel half knows no process {}", question.pid), ESRCH);
    }
    const auto settings = loader.settings();
    egress_flow flow = question.flow;
    flow.in_container = in_container(question, *known, loader) ? 1 : 0;
    const auto now = boot_time();
    const auto decision =
        bpf::native_decide(tables, *known, flow, question.cgroup, now, settings.week_at_boot);
    if (decision.rule == EGRESS_BROKEN) {
        return fail("the tables do not hang together");
    }
    const bool matched = decision.rule < policy.egress.size();
    json out = {{"action", "ALLOWED"},
                {"generation", tables.base->generation},
                {"process", process_json(question, *known, loader, flow)}};
    const std::size_t end = matched ? decision.rule : policy.egress.size();
    if (matched) {
        const auto& rule = policy.egress[decision.rule];
        out["action"] = action_of(rule, settings.monitor != 0);
        out["verdict"] = verdict_of(rule);
        out["rule"] = rule.place.text();
        out["text"] = policy::print(rule);
        json parts = json::object();
        for (const auto& [name, holds] : parts_of(decision, rule, decision.rule, true)) {
            parts[name] = holds;
        }
        out["dimensions"] = std::move(parts);
    }
    json earlier = json::array();
    for (std::size_t i = 0; i < std::min(end, most_earlier); ++i) {
        const auto& rule = policy.egress[i];
        json failed = json::array();
        for (const auto& [name, holds] : parts_of(decision, rule, i, true)) {
            if (!holds) {
                failed.push_back(name);
            }
        }
        if (failed.empty()) {
            failed.push_back("time"); // everything else holds, and yet it was passed over
        }
        earlier.push_back(
            {{"rule", rule.place.text()}, {"text", policy::print(rule)}, {"because", failed}});
    }
    out["earlier"] = std::move(earlier);
    out["earlier_left_off"] = end - std::min(end, most_earlier);
    return out;
}

} // namespace egress
