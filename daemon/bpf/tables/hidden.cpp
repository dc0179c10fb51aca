#include "daemon/bpf/tables/hidden.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <sys/stat.h>

#include "daemon/base/resolv_conf.h"
#include "daemon/base/small_file.h"

namespace egress::bpf {

namespace {

constexpr std::uint16_t dns_port = 53;
constexpr std::size_t most_hosts = 8U << 20; // bytes of /etc/hosts, which may be a block list
constexpr std::size_t most_named = 8;        // names that one text has

std::string lower(std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) {
        return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    });
    return text;
}

bool is_socket(const std::string& path) {
    struct stat st {};
    return stat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode);
}

/// Those of a resolv.conf(5) that are not approved.
std::vector<Endpoint> strangers(const std::string& file, const std::vector<Endpoint>& approved) {
    std::vector<Endpoint> out;
    for (const auto& address : read_resolv_conf(file).nameservers) {
        const Endpoint one{address, dns_port};
        if (std::ranges::find(approved, one) == approved.end()) {
            out.push_back(one);
        }
    }
    return out;
}

/// The services of the line "hosts:" of nsswitch.conf(5).
std::set<std::string> services_of(const std::string& root) {
    std::set<std::string> out;
    std::istringstream lines(read_small_file(root + "/etc/nsswitch.conf"));
    for (std::string line; std::getline(lines, line);) {
        line.resize(std::min(line.find('#'), line.size()));
        std::istringstream words(line);
        std::string word;
        if (words >> word && word == "hosts:") {
            while (words >> word) {
                out.insert(word);
            }
        }
    }
    return out;
}

/// The last value of DNSOverTLS= in a file of resolved.conf(5), in lower case; "": it has none.
std::string over_tls_in(const std::string& path) {
    std::string out;
    std::istringstream lines(read_small_file(path));
    for (std::string line; std::getline(lines, line);) {
        std::erase_if(line, [](unsigned char c) { return std::isspace(c) != 0; });
        if (line.starts_with("DNSOverTLS=")) {
            out = lower(line.substr(line.find('=') + 1));
        }
    }
    return out;
}

/// Whether systemd-resolved asks over TLS, as far as its own files say so.
bool asks_over_tls(const std::string& root) {
    // A file's name is read from the first of these directories that has it, after the main file.
    std::map<std::string, std::string> files;
    for (const auto* const directory : {"/etc", "/run", "/usr/local/lib", "/usr/lib"}) {
        std::error_code code;
        const auto at = fmt::format("{}{}/systemd/resolved.conf.d", root, directory);
        for (auto each = std::filesystem::directory_iterator(at, code);
             !code && each != std::filesystem::directory_iterator(); each.increment(code)) {
            if (each->path().extension() == ".conf") {
                files.emplace(each->path().filename().string(), each->path().string());
            }
        }
    }
    auto value = over_tls_in(root + "/etc/systemd/resolved.conf");
    for (const auto& [name, path] : files) {
        const auto later = over_tls_in(path);
        value = later.empty() ? value : later;
    }
    return !std::set<std::string>{"", "no", "n", "false", "f", "off", "0"}.contains(value);
}

/// Programs that ask systemd-resolved over AF_UNIX get its answers where no hook can read them; its
/// own questions are what counts.
void find_resolved(const std::vector<Endpoint>& approved, const std::string& root,
                   std::vector<HiddenAnswers>& out) {
    if (!services_of(root).contains("resolve") ||
        !is_socket(root + "/run/systemd/resolve/io.systemd.Resolve")) {
        return;
    }
    constexpr auto way_out =
        "take \"resolve\" out of the line hosts: of /etc/nsswitch.conf, so that "
        "programs ask the resolvers of /etc/resolv.conf themselves";
    if (asks_over_tls(root)) {
        out.push_back(
            {"systemd-resolved asks over TLS (DNSOverTLS=), where its answers cannot be "
             "read, and programs get them over AF_UNIX",
             fmt::format("set DNSOverTLS=no in /etc/systemd/resolved.conf, or {}", way_out)});
    }
    const auto own = strangers(root + "/run/systemd/resolve/resolv.conf", approved);
    if (!own.empty()) {
        out.push_back(
            {fmt::format("programs ask systemd-resolved over AF_UNIX, and the resolvers "
                         "that it asks are not approved: {}",
                         text_of(own)),
             fmt::format("write \"resolver {}\" under [dns], or {}", text_of({own[0]}), way_out)});
    }
}

/// Names of lines to which /etc/hosts gives addresses, so that no resolver is asked.
void find_hosts(const policy::Policy& policy, const std::string& root,
                std::vector<HiddenAnswers>& out) {
    std::set<std::string> names;
    for (const auto& rule : policy.egress) {
        if (rule.destination.kind == policy::Destination::Kind::name) {
            names.insert(rule.destination.text);
        }
    }
    std::string found;
    std::size_t count = 0;
    std::istringstream lines(names.empty() ? "" : read_small_file(root + "/etc/hosts", most_hosts));
    for (std::string line; std::getline(lines, line);) {
        line.resize(std::min(line.find('#'), line.size()));
        std::istringstream words(line);
        std::string word;
        words >> word; // the address
        while (words >> word) {
            if (names.erase(lower(word)) > 0 && ++count <= most_named) {
                found += (found.empty() ? "" : ", ") + lower(word);
            }
        }
    }
    if (count > 0) {
        out.push_back(
            {fmt::format("/etc/hosts gives addresses to names of lines: {}{}", found,
                         count > most_named ? ", ..." : ""),
             "programs ask no resolver for them: write lines for those addresses, or take "
             "the names out of /etc/hosts"});
    }
}

} // namespace

std::string text_of(const std::vector<Endpoint>& resolvers) {
    std::string out;
    for (const auto& [address, port] : resolvers) {
        const auto host = address.is_v4() ? address.text() : fmt::format("[{}]", address.text());
        out += (out.empty() ? "" : ", ") +
               (port == dns_port ? address.text() : fmt::format("{}:{}", host, port));
    }
    return out;
}

std::vector<HiddenAnswers> hidden_answers(const policy::Policy& policy,
                                          const std::vector<Endpoint>& resolvers,
                                          const std::string& root) {
    std::vector<HiddenAnswers> out;
    if (resolvers.empty()) {
        out.push_back({"no resolver is approved, so that no name is granted anything",
                       "write \"resolver ADDRESS\" under [dns], or nameserver lines in "
                       "/etc/resolv.conf"});
    } else if (const auto asked = strangers(root + "/etc/resolv.conf", resolvers); !asked.empty()) {
        out.push_back({fmt::format("programs ask resolvers that are not approved: /etc/resolv.conf "
                                   "has {}",
                                   text_of(asked)),
                       fmt::format("write \"resolver {}\" under [dns], too, or take it out of "
                                   "/etc/resolv.conf",
                                   text_of({asked[0]}))});
    }
    find_resolved(resolvers, root, out);
    if (is_socket(root + "/run/nscd/socket")) {
        out.push_back({"nscd answers over AF_UNIX, and what it asked before these rules were in "
                       "force was not read",
                       "empty its cache once: nscd -i hosts; its later questions count"});
    }
    find_hosts(policy, root, out);
    return out;
}

} // namespace egress::bpf
