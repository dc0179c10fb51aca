// What keeps answers of resolvers from the hooks, from files below a root of the test's own.
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/bpf/tables/hidden.h"
#include "lib/fd.h"

namespace egress::bpf {

namespace {

class Root {
  public:
    Root() : path_("/tmp/hidden_test." + std::to_string(getpid())) {
        std::filesystem::create_directories(path_);
        write("/etc/resolv.conf", "nameserver 192.0.2.1\n");
    }
    ~Root() { std::filesystem::remove_all(path_); }
    void write(const std::string& file, const std::string& text) const {
        std::filesystem::create_directories(std::filesystem::path(path_ + file).parent_path());
        std::ofstream(path_ + file, std::ios::binary) << text;
    }
    void make_socket(const std::string& file) const {
        std::filesystem::create_directories(std::filesystem::path(path_ + file).parent_path());
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        (path_ + file).copy(address.sun_path, sizeof address.sun_path - 1);
        const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    }
    /// What is found, one line each.
    std::string find(const std::vector<std::string>& approved,
                     const std::vector<std::string>& names = {}) const {
        policy::Policy policy;
        for (const auto& name : names) {
            policy.egress.emplace_back();
            policy.egress.back().destination.kind = policy::Destination::Kind::name;
            policy.egress.back().destination.text = name;
        }
        std::vector<Endpoint> resolvers;
        for (const auto& each : approved) {
            resolvers.push_back({*Address::parse(each), 53});
        }
        std::string out;
        for (const auto& each : hidden_answers(policy, resolvers, path_)) {
            out += each.what + "|" + each.advice + "\n";
        }
        return out;
    }

  private:
    std::string path_;
};

bool has(const std::string& text, std::string_view what) {
    return text.find(what) != std::string::npos;
}

} // namespace

TEST_CASE("hidden: no resolver, and resolvers that are asked but not approved") {
    const Root root;
    CHECK(root.find({"192.0.2.1"}) == "");
    CHECK(has(root.find({}), "no resolver is approved"));
    const auto other = root.find({"198.51.100.1"});
    CHECK(has(other, "/etc/resolv.conf has 192.0.2.1|write \"resolver 192.0.2.1\""));
    std::filesystem::remove("/tmp/hidden_test." + std::to_string(getpid()) + "/etc/resolv.conf");
    CHECK(root.find({"192.0.2.1"}) == "");
}

TEST_CASE("hidden: systemd-resolved over AF_UNIX, and what it asks") {
    const Root root;
    root.write("/etc/nsswitch.conf",
               "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns # x\n");
    root.write("/run/systemd/resolve/resolv.conf",
               "nameserver 198.51.100.7\nnameserver 2001:db8::7\n");
    CHECK(root.find({"192.0.2.1"}) == ""); // it does not run
    root.make_socket("/run/systemd/resolve/io.systemd.Resolve");
    const auto found = root.find({"192.0.2.1"});
    CHECK(has(found, "not approved: 198.51.100.7, 2001:db8::7|write \"resolver 198.51.100.7\""));
    CHECK(root.find({"192.0.2.1", "198.51.100.7", "2001:db8::7"}) == "");
    root.write("/etc/systemd/resolved.conf", "[Resolve]\nDNSOverTLS = opportunistic\n");
    CHECK(has(root.find({"192.0.2.1", "198.51.100.7", "2001:db8::7"}), "over TLS"));
    root.write("/etc/systemd/resolved.conf.d/50-a.conf", "[Resolve]\nDNSOverTLS=no\n");
    CHECK(root.find({"192.0.2.1", "198.51.100.7", "2001:db8::7"}) == "");
    root.write("/usr/lib/systemd/resolved.conf.d/50-a.conf",
               "[Resolve]\nDNSOverTLS=yes\n"); // hidden by /etc
    CHECK(root.find({"192.0.2.1", "198.51.100.7", "2001:db8::7"}) == "");
    root.write("/run/systemd/resolved.conf.d/60-b.conf",
               "[Resolve]\n#DNSOverTLS=no\nDNSOverTLS=yes\n");
    CHECK(has(root.find({"192.0.2.1", "198.51.100.7", "2001:db8::7"}), "over TLS"));
    root.write("/etc/nsswitch.conf", "hosts: files dns # resolve\n");
    CHECK(root.find({"192.0.2.1"}) == "");
}

TEST_CASE("hidden: nscd, and names of lines in /etc/hosts") {
    const Root root;
    root.write("/etc/hosts",
               "127.0.0.1 localhost\n192.0.2.9\tFiles.example other.example # more.example\n");
    CHECK(root.find({"192.0.2.1"}, {"more.example", "some.example"}) == "");
    CHECK(has(root.find({"192.0.2.1"}, {"files.example", "some.example"}),
              "names of lines: files.example|"));
    root.make_socket("/run/nscd/socket");
    CHECK(has(root.find({"192.0.2.1"}), "nscd -i hosts"));
}

} // namespace egress::bpf
