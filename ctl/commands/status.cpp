// status: prints problems first, then the rest by importance.
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/trial.h"
#include "daemon/base/words.h"
#include "daemon/policy/text/number.h"

namespace egress::ctl {

namespace {

constexpr int column = 14; ///< width of the first column

/// Writes "label  text" lines, without unknown values, and without zeros unless all are wanted.
class Page {
  public:
    Page(std::FILE* to, bool all) : to_(to), all_(all) {}
    void line(std::string_view label, const std::string& text) const {
        if (!text.empty()) {
            print(to_, "{:<{}}{}\n", label, column, text);
        }
    }
    /// "12 taken, 3 matched" in the order of the reply; the numbers of `object` with their names.
    std::string tally(const Json& object) const;
    /// "N what" pieces for the keys that the object has.
    std::string counts(const Json& object,
                       std::initializer_list<std::pair<const char*, const char*>> wanted) const;
    bool shows(std::int64_t number) const { return all_ || number != 0; }

  private:
    std::FILE* to_;
    bool all_;
};

const Json& part(const Json& object, const char* key) {
    static const Json nothing = Json::object();
    const auto* const found = member(object, key);
    return found != nullptr ? *found : nothing;
}

std::string Page::tally(const Json& object) const {
    std::string text;
    if (!object.is_object()) {
        return text;
    }
    for (const auto& [key, value] : object.items()) {
        if (value.is_number_integer() && shows(value.get<std::int64_t>())) {
            text += fmt::format("{}{} {}", text.empty() ? "" : ", ", value.get<std::int64_t>(),
                                printable(key));
        }
    }
    return text;
}

std::string Page::counts(const Json& object,
                         std::initializer_list<std::pair<const char*, const char*>> wanted) const {
    std::string text;
    for (const auto& [key, word] : wanted) {
        if (const auto number = number_at(object, key); number && shows(*number)) {
            text += (text.empty() ? "" : ", ") + counted(static_cast<std::uint64_t>(*number), word);
        }
    }
    return text;
}

std::string first_line(const Json& status) {
    auto text = "egressd " + text_at(status, "version");
    if (const auto pid = number_at(status, "pid")) {
        text += fmt::format(", pid {}", *pid);
    }
    if (const auto uptime = number_at(status, "uptime"); uptime && *uptime >= 0) {
        text += ", up " + policy::print_duration(*uptime);
    }
    if (true_at(status, "monitor")) {
        return text + ", MONITOR: blocks nothing";
    }
    return text + (text_at(part(status, "egress"), "state") == "not enforced" ? "" : ", enforcing");
}

/// How the kernel deviates from the rules of [egress].
void print_egress_troubles(const Page& page, const Json& status) {
    const auto& egress = part(status, "egress");
    const auto wanted = number_at(part(status, "rules"), "egress").value_or(0);
    const auto state = text_at(egress, "state");
    if (state == "not enforced" || (state == "detached" && wanted > 0)) {
        page.line("NOT ENFORCED",
                  fmt::format("{} of [egress]: {}",
                              counted(static_cast<std::uint64_t>(wanted), "rules"), state));
    }
    if (const auto broken = number_at(egress, "broken").value_or(0); broken > 0) {
        page.line("NOT ENFORCED",
                  fmt::format("{} checks found incomplete tables and passed", broken));
    }
    const auto& hidden = part(part(egress, "dns"), "hidden");
    for (const auto& each : hidden.is_array() ? hidden : Json::array()) {
        page.line("NOT READ",
                  fmt::format("{}; {}", text_at(each, "what"), text_at(each, "advice")));
    }
    const auto& hooks = part(egress, "hooks");
    for (const auto& [hook, how] : hooks.items()) {
        if (hooks.is_object() && how.is_string() && how != "attached") {
            page.line("NOT ATTACHED", fmt::format("{}: {}", printable(hook),
                                                  printable(how.get_ref<const std::string&>())));
        }
    }
}

/// The current problems, each with the part that it affects.
void print_troubles(const Page& page, const Json& status) {
    const auto waiting = number_at(status, "not_in_force").value_or(0);
    if (waiting > 0) {
        page.line("NOT IN FORCE", fmt::format("{} blocks are wanted that the firewall has not "
                                              "confirmed",
                                              waiting));
    }
    print_egress_troubles(page, status);
    const auto& sockets = part(status, "sockets");
    for (const auto& socket : sockets.is_array() ? sockets : Json::array()) {
        if (!true_at(socket, "listening")) {
            page.line("DEAF", fmt::format("no client can reach {}: {}", text_at(socket, "path"),
                                          text_at(socket, "last_error")));
        }
    }
    if (const auto damaged = number_at(part(status, "store"), "damaged").value_or(0); damaged > 0) {
        page.line("DAMAGED", fmt::format("{} rows of the database are set aside (egressctl dump -x "
                                         "lists them)",
                                         damaged));
    }
    if (true_at(part(status, "egress"), "other_version")) {
        page.line("NOT ALONE",
                  "hooks of another version of egressd judge by its rules of [egress]");
    }
    for (const auto* const name : {"helper", "store", "rules", "egress"}) {
        const auto error = text_at(part(status, name), "last_error");
        if (!error.empty()) {
            page.line("LAST ERROR", fmt::format("{}: {}", name, error));
        }
    }
}

void print_users(const Page& page, const Json& users) {
    if (!users.is_array()) {
        return;
    }
    for (const auto& user : users) {
        const auto uid = number_at(user, "uid");
        page.line("user", fmt::format("uid {}: {}", uid ? fmt::format("{}", *uid) : "unknown",
                                      page.counts(user, {{"connections", "connections"},
                                                         {"paused", "times paused"},
                                                         {"lanes_lost", "lanes lost"}})));
    }
}

std::string with_path(const Json& object, const std::string& rest) {
    const auto path = text_at(object, "path");
    return path.empty() ? rest : rest.empty() ? path : fmt::format("{}, {}", path, rest);
}

/// "egress-mail port 2223 tcp: 1 blocked, 2 failures"
void print_services(const Page& page, const Json& services) {
    if (!services.is_array()) {
        return;
    }
    for (const auto& service : services) {
        const auto port = number_at(service, "port").value_or(0);
        const auto protocol = text_at(service, "protocol");
        const auto numbers = page.counts(service, {{"blocked", "blocked"},
                                                   {"counting", "counting"},
                                                   {"releasing", "releasing"},
                                                   {"failures", "failures"},
                                                   {"successes", "successes"},
                                                   {"blocks", "blocks made"}});
        page.line("service",
                  fmt::format("{}{}{}: {}",
                              true_at(service, "others") ? "all others" : text_at(service, "name"),
                              port != 0 ? fmt::format(" port {}", port) : "",
                              protocol.empty() ? "" : " " + protocol, numbers));
    }
}

void print_helper(const Page& page, const Json& helper) {
    auto text = text_at(helper, "state");
    const auto implementation = text_at(helper, "implementation");
    text += implementation.empty() ? "" : fmt::format(" ({})", implementation);
    const auto more = page.counts(helper, {{"pending", "pending"},
                                           {"errors", "errors"},
                                           {"restarts", "restarts"},
                                           {"kills", "connections cut"},
                                           {"reconciled", "times reconciled"}});
    text += !text.empty() && !more.empty() ? ", " + more : more;
    page.line("helper", with_path(helper, text));
}

void print_rules(const Page& page, const Json& rules) {
    auto text = page.counts(
        rules,
        {{"local", "local"}, {"remote", "remote"}, {"trusted", "trusted"}, {"egress", "egress"}});
    if (number_at(rules, "reading").value_or(0) > 0) {
        text += ", new ones are being read";
    }
    const auto loaded = text_at(rules, "loaded");
    text += loaded.empty() ? "" : fmt::format("{}loaded {}", text.empty() ? "" : ", ", loaded);
    page.line("rules", text);
    if (const auto* const trial = member(rules, "trial"); trial != nullptr) {
        page.line("TRIED OUT",
                  fmt::format("{}, for {} more seconds unless \"egressctl confirm\" comes",
                              text_at(*trial, "name"), number_at(*trial, "seconds").value_or(0)));
    }
    const auto* const files = member(rules, "files");
    if (files == nullptr || !files->is_array()) {
        return;
    }
    for (const auto& file : *files) {
        if (file.is_string()) {
            page.line("  file", printable(file.get_ref<const std::string&>()));
        }
    }
}

/// Destinations by name.
void print_names(const Page& page, const Json& dns) {
    const auto grants = number_at(dns, "grants");
    if (!grants) {
        return;
    }
    std::string resolvers;
    const auto& all = part(dns, "resolvers");
    for (const auto& each : all.is_array() ? all : Json::array()) {
        resolvers += each.is_string() ? (resolvers.empty() ? "" : ", ") +
                                            printable(each.get_ref<const std::string&>())
                                      : "";
    }
    page.line("  resolvers", fmt::format("{} (of {})", resolvers.empty() ? "none" : resolvers,
                                         text_at(dns, "from")));
    page.line("  names", fmt::format("{} of {} grants in use, grace {}", *grants,
                                     number_at(dns, "grants_max").value_or(0),
                                     policy::print_duration(number_at(dns, "grace").value_or(0))));
    page.line("  answers", page.tally(part(dns, "outcomes")));
    page.line("  looked up", page.counts(part(dns, "lookups"), {{"names", "names"},
                                                                {"answered", "answered"},
                                                                {"silent", "silent"},
                                                                {"refused", "refused by lines"}}));
}

void print_egress(const Page& page, const Json& egress) {
    auto text = text_at(egress, "state");
    if (text.empty() || text == "off") {
        page.line("egress", text);
        return;
    }
    const auto more = page.counts(egress, {{"rules", "rules"}, {"prefixes", "prefixes"}});
    text += more.empty() ? "" : ", " + more;
    if (const auto generation = number_at(egress, "generation").value_or(0); generation > 0) {
        text += fmt::format(", generation {}", generation);
    }
    page.line("egress", text);
    page.line("  events",
              page.counts(part(egress, "events"), {{"made", "made"},
                                                   {"read", "read"},
                                                   {"lost", "lost"},
                                                   {"missed", "of them without a reader"},
                                                   {"watchers", "watchers"}}));
    page.line("  checks", page.tally(part(egress, "looks")));
    print_names(page, part(egress, "dns"));
    if (const auto lost = number_at(egress, "processes_lost").value_or(0); lost > 0) {
        page.line("  processes", fmt::format("{} found no room in the table", lost));
    }
    if (const auto lost = number_at(egress, "sockets_lost").value_or(0); lost > 0) {
        page.line("  sockets",
                  fmt::format("{} had no room for their owner and were refused", lost));
    }
    std::string uncovered;
    if (const auto& kinds = part(egress, "not_covered"); kinds.is_array()) {
        for (const auto& kind : kinds) {
            uncovered += kind.is_string() ? (uncovered.empty() ? "" : ", ") +
                                                printable(kind.get_ref<const std::string&>())
                                          : "";
        }
    }
    page.line("  not covered", uncovered);
}

void print_refused(const Page& page, const Json& refused) {
    if (!refused.is_object()) {
        return;
    }
    std::string_view label = "refused";
    for (const auto& [kind, number] : refused.items()) {
        if (number.is_number_integer() && page.shows(number.get<std::int64_t>())) {
            page.line(label, fmt::format("{} {}", number.get<std::int64_t>(), printable(kind)));
            label = "";
        }
    }
}

} // namespace

Exit run_status(const Context& context, const Arguments& arguments) {
    const auto status = call(context, {"GET", "/v1/status"});
    if (!status) {
        const auto left = status.error().no_daemon ? left_in_kernel(context) : "";
        const auto code = complain(context, status.error());
        print(context.err, "{}{}", left, left.empty() ? "" : "\n");
        return code;
    }
    if (context.json) {
        print(context.out, "{}\n", to_text(*status));
        return Exit::ok;
    }
    if (!status->is_object()) {
        return complain(context, {Exit::unreachable, "egressd's answer is no status"});
    }
    const Page page(context.out, arguments.has("v"));
    print(context.out, "{}\n", first_line(*status));
    print_troubles(page, *status);
    page.line("rows", page.counts(*status, {{"rows", "rows"},
                                            {"rows_max", "at most"},
                                            {"counting", "counting"},
                                            {"blocked", "blocked"},
                                            {"releasing", "releasing"},
                                            {"not_in_force", "not in force"},
                                            {"evicted", "evicted"}}));
    print_services(page, part(*status, "services"));
    print_helper(page, part(*status, "helper"));
    const auto& store = part(*status, "store");
    page.line("store", with_path(store, page.counts(store, {{"pending", "pending"},
                                                            {"commits", "commits"},
                                                            {"failures", "failures"}})));
    print_rules(page, part(*status, "rules"));
    print_egress(page, part(*status, "egress"));
    page.line("reports", page.tally(part(*status, "reports")));
    print_refused(page, part(*status, "refused"));
    if (const auto& control = part(*status, "control"); !control.empty()) {
        page.line("control", page.counts(control, {{"connections", "connections"},
                                                   {"turned_away", "turned away"},
                                                   {"timed_out", "timed out"}}));
    }
    page.line("lanes",
              page.counts(part(*status, "lanes"), {{"running", "running"},
                                                   {"busy", "busy"},
                                                   {"lost", "lost"},
                                                   {"given_up", "given up"},
                                                   {"closed_idle", "idle connections closed"}}));
    print_users(page, part(*status, "users"));
    return Exit::ok;
}

} // namespace egress::ctl
