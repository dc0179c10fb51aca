// pam_egress.so inside a PAM application of our own: private configuration, real TCP sockets.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <security/pam_appl.h>

#include <doctest/doctest.h>

#include "lib/api.h"
#include "lib/pam/service_socket.h"
#include "test/unit/lib_listener.h"

using namespace egress;
using namespace egress::test;

namespace {

/// A service with its own PAM configuration; the module reports to `path`.
struct Service {
    TempDir dir;
    std::string path = dir.path() + "/report.sock";
    Listener listener{path};
    std::string module = dir.path() + "/pam_egress.so"; // where any user can read it
    Service() { REQUIRE(std::system(("cp " MODULE " " + module).c_str()) == 0); }

    /// The stack of the manual page; what decides (pam_permit, pam_deny) comes first in it.
    void configure(const std::string& decides, const std::string& arguments = "") const {
        const std::string line = module + " socket=" + path + " " + arguments + "\n";
        std::ofstream file(dir.path() + "/test");
        file << "auth [success=2 default=ignore] " << decides << ".so\n"
             << "auth [default=ignore] " << line << "auth requisite pam_deny.so\n"
             << "auth required pam_permit.so\n"
             << "account required pam_permit.so\naccount optional " << line
             << "session required pam_permit.so\nsession optional " << line;
    }
};

int no_talk(int, const pam_message**, pam_response**, void*) {
    return PAM_CONV_ERR;
}

/// One log-in.
class Login {
  public:
    Login(const Service& service, const char* user, const char* rhost) {
        const pam_conv conversation{no_talk, nullptr};
        REQUIRE(pam_start_confdir("test", user, &conversation, service.dir.path().c_str(),
                                  &pamh_) == PAM_SUCCESS);
        if (rhost != nullptr) {
            REQUIRE(pam_set_item(pamh_, PAM_RHOST, rhost) == PAM_SUCCESS);
        }
    }
    ~Login() { pam_end(pamh_, PAM_SUCCESS); }
    Login(const Login&) = delete;
    Login& operator=(const Login&) = delete;
    pam_handle_t* get() const { return pamh_; }
    int authenticate() const { return pam_authenticate(pamh_, 0); }

  private:
    pam_handle_t* pamh_ = nullptr;
};

sockaddr_in loopback(std::uint8_t last, std::uint16_t port) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    in.sin_addr.s_addr = htonl(0x7f000000u + last);
    return in;
}

bool bind_to(int fd, const sockaddr_in& to) {
    return bind(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
}

/// A TCP server on 127.0.0.1, on a port below the ephemeral ones unless told otherwise.
struct Server {
    explicit Server(bool ephemeral = false, bool reuse = true) {
        fd.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const int on = reuse ? 1 : 0;
        REQUIRE(setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        bool bound = ephemeral && bind_to(fd.get(), loopback(1, 0));
        for (std::uint16_t port = 20'000; !bound && port < 30'000; ++port) {
            bound = bind_to(fd.get(), loopback(1, port));
        }
        REQUIRE(bound);
        REQUIRE(listen(fd.get(), 8) == 0);
    }
    struct Pair {
        Fd client;
        Fd served;
    };
    /// A client from 127.0.0.`last`.
    Pair connect_from(std::uint8_t last) const {
        Pair pair;
        pair.client.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(bind_to(pair.client.get(), loopback(last, 0)));
        sockaddr_in here{};
        socklen_t length = sizeof here;
        REQUIRE(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&here), &length) == 0);
        REQUIRE(connect(pair.client.get(), reinterpret_cast<sockaddr*>(&here), length) == 0);
        pair.served.reset(accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
        REQUIRE(pair.served);
        return pair;
    }
    Fd fd;
};

bool proves(const Received& got, const Fd& socket) {
    return got.fds.size() == 1 && same_file(got.fds[0].get(), socket.get());
}

std::string address_of(const Received& got) {
    char text[INET6_ADDRSTRLEN] = "none";
    if (got.record.remote_length == sizeof(sockaddr_in)) {
        inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(got.record.remote).sin_addr, text,
                  sizeof text);
    } else if (got.record.remote_length == sizeof(sockaddr_in6)) {
        inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(got.record.remote).sin6_addr,
                  text, sizeof text);
    }
    return text;
}

} // namespace

TEST_CASE("a failed log-in is reported with the service's socket, and stays failed") {
    const Service service;
    service.configure("pam_deny", "debug");
    const Server server;
    const auto connection = server.connect_from(1);
    CHECK(Login(service, "root", "127.0.0.1").authenticate() == PAM_AUTH_ERR);
    const Received got = service.listener.one();
    REQUIRE(got.fault == wire::Fault::none);
    CHECK(got.record.action == EGRESS_AUTH_FAIL);
    CHECK(got.record.message == "test: user root");
    CHECK(address_of(got) == "127.0.0.1"); // for the case that the client hangs up meanwhile
    CHECK(proves(got, connection.served));
    CHECK_FALSE(service.listener.has_connection());
}

TEST_CASE("a user who does not exist is reported as that") {
    const Service service;
    service.configure("pam_deny");
    CHECK(Login(service, "no-such-user-here", "192.0.2.9").authenticate() == PAM_AUTH_ERR);
    CHECK(service.listener.one().record.action == EGRESS_BAD_USER);
}

TEST_CASE("a successful log-in is reported once, by account or session, and not as a failure") {
    const Service service;
    service.configure("pam_permit");
    const Server server;
    const auto connection = server.connect_from(1);
    {
        const Login login(service, "root", "::ffff:127.0.0.1");
        CHECK(login.authenticate() == PAM_SUCCESS);
        CHECK(pam_setcred(login.get(), PAM_ESTABLISH_CRED) == PAM_SUCCESS);
        CHECK_FALSE(service.listener.has_connection());
        CHECK(pam_acct_mgmt(login.get(), 0) == PAM_SUCCESS);
        const Received got = service.listener.one();
        CHECK(got.record.action == EGRESS_AUTH_OK);
        CHECK(proves(got, connection.served));
        CHECK(pam_open_session(login.get(), 0) == PAM_SUCCESS);
        CHECK(pam_close_session(login.get(), 0) == PAM_SUCCESS);
        CHECK_FALSE(service.listener.has_connection());
    }
    const Login second(service, "root", "127.0.0.1");
    CHECK(pam_open_session(second.get(), 0) == PAM_SUCCESS);
    CHECK(service.listener.one().record.action == EGRESS_AUTH_OK);
}

TEST_CASE("a numeric address without a socket is reported as an address") {
    const Service service;
    service.configure("pam_deny");
    const Server server;
    const auto other = server.connect_from(3);
    for (const char* text : {"192.0.2.9", "2001:db8::9"}) {
        CAPTURE(text);
        CHECK(Login(service, "root", text).authenticate() == PAM_AUTH_ERR);
        const Received got = service.listener.one();
        CHECK(got.fds.empty());
        CHECK(address_of(got) == text);
    }
    CHECK(Login(service, "root", "::ffff:192.0.2.8").authenticate() == PAM_AUTH_ERR);
    CHECK(address_of(service.listener.one()) == "192.0.2.8");
}

TEST_CASE("of a client that has hung up the socket says which service, PAM_RHOST who it was") {
    const Service service;
    service.configure("pam_deny");
    const Server server;
    const Server another;
    auto gone = server.connect_from(2);
    const linger at_once{1, 0};
    REQUIRE(setsockopt(gone.client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    gone.client.reset();
    CHECK(Login(service, "root", "127.0.0.2").authenticate() == PAM_AUTH_ERR);
    const Received got = service.listener.one();
    CHECK(proves(got, gone.served));
    CHECK(address_of(got) == "127.0.0.2");
    // An IPv6 client cannot have come over this socket; without an address nobody is known.
    CHECK(Login(service, "root", "2001:db8::9").authenticate() == PAM_AUTH_ERR);
    CHECK(service.listener.one().fds.empty());
    CHECK(Login(service, "root", nullptr).authenticate() == PAM_AUTH_ERR);
    CHECK_FALSE(service.listener.has_connection());
    auto second = another.connect_from(3); // now it could have been either service
    REQUIRE(setsockopt(second.client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    second.client.reset();
    CHECK(Login(service, "root", "127.0.0.2").authenticate() == PAM_AUTH_ERR);
    CHECK(service.listener.one().fds.empty());
}

TEST_CASE("a connection that the service made is not taken for the client's") {
    const Service service;
    service.configure("pam_deny");
    const Server server; // stands for a directory server on this host
    auto outgoing = server.connect_from(1);
    outgoing.served.reset();
    CHECK(Login(service, "root", "127.0.0.1").authenticate() == PAM_AUTH_ERR);
    const Received got = service.listener.one();
    CHECK(got.fds.empty());
    CHECK(address_of(got) == "127.0.0.1");
    CHECK(Login(service, "root", nullptr).authenticate() == PAM_AUTH_ERR);
    CHECK(Login(service, "root", "directory.example.org").authenticate() == PAM_AUTH_ERR);
    CHECK_FALSE(service.listener.has_connection());
}

TEST_CASE("a server on an ephemeral port is known by SO_REUSEADDR") {
    const Service service;
    service.configure("pam_deny");
    for (const bool reuse : {true, false}) {
        CAPTURE(reuse);
        const Server server(true, reuse);
        const auto connection = server.connect_from(1);
        CHECK(Login(service, "root", "127.0.0.1").authenticate() == PAM_AUTH_ERR);
        CHECK(proves(service.listener.one(), connection.served) == reuse);
    }
}

TEST_CASE("without an address the only client's socket is taken, and none of two") {
    const Service service;
    service.configure("pam_deny");
    const Server server;
    const auto first = server.connect_from(2);
    for (const char* rhost : {static_cast<const char*>(nullptr), "", "client.example.org"}) {
        CHECK(Login(service, "root", rhost).authenticate() == PAM_AUTH_ERR);
        CHECK(proves(service.listener.one(), first.served));
    }
    const auto same = server.connect_from(2);
    CHECK(Login(service, "root", nullptr).authenticate() == PAM_AUTH_ERR);
    CHECK(service.listener.one().fds.size() == 1);
    const auto other = server.connect_from(3);
    CHECK(Login(service, "root", nullptr).authenticate() == PAM_AUTH_ERR);
    CHECK_FALSE(service.listener.has_connection());
    // The address, where there is one, tells them apart.
    CHECK(Login(service, "root", "127.0.0.3").authenticate() == PAM_AUTH_ERR);
    CHECK(proves(service.listener.one(), other.served));
}

TEST_CASE("without a daemon, and with a wrong argument, log-ins go on as before") {
    const Service service;
    service.configure("pam_permit", "socket=/nonexistent/report.sock debug sokcet=x");
    const Login login(service, "root", "192.0.2.9");
    CHECK(login.authenticate() == PAM_SUCCESS);
    CHECK(pam_acct_mgmt(login.get(), 0) == PAM_SUCCESS);
    CHECK_FALSE(service.listener.has_connection());
    service.configure("pam_deny", "socket=/nonexistent/report.sock");
    CHECK(Login(service, "root", "192.0.2.9").authenticate() == PAM_AUTH_ERR);
}

TEST_CASE("odd user names arrive as they are, cut to a length") {
    const Service service;
    service.configure("pam_deny", "debug");
    CHECK(Login(service, "a\nb\x1b[2J", "192.0.2.9").authenticate() == PAM_AUTH_ERR);
    CHECK(service.listener.one().record.message == "test: user a\nb\x1b[2J");
    CHECK(Login(service, std::string(4000, 'x').c_str(), "192.0.2.9").authenticate() ==
          PAM_AUTH_ERR);
    CHECK(service.listener.one().record.message == "test: user " + std::string(256, 'x'));
    CHECK(Login(service, "", "192.0.2.9").authenticate() == PAM_AUTH_ERR);
    CHECK(service.listener.one().record.action == EGRESS_AUTH_FAIL);
}

TEST_CASE("in a set-uid program inherited descriptors prove nothing about an unnamed client") {
    if (geteuid() != 0) {
        MESSAGE("SKIP: making a set-uid program needs root");
        return;
    }
    constexpr uid_t nobody = 65534;
    const Service service;
    service.configure("pam_deny");
    const Server server;
    const auto connection = server.connect_from(2);
    const std::string copy = service.dir.path() + "/probe";
    REQUIRE(std::system(("cp " PROBE " " + copy).c_str()) == 0);
    const auto run = [&](const char* rhost) {
        const pid_t child = fork();
        if (child == 0) {
            dup2(connection.served.get(), STDIN_FILENO);
            if (setgid(nobody) == 0 && setuid(nobody) == 0) {
                execl(copy.c_str(), copy.c_str(), service.dir.path().c_str(), rhost, nullptr);
            }
            _exit(9);
        }
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    };
    for (const mode_t mode : {0755, 04755}) {
        CAPTURE(mode);
        REQUIRE(chmod(copy.c_str(), mode) == 0);
        run(nullptr);
        REQUIRE(service.listener.has_connection() == (mode == 0755));
        if (mode == 0755) {
            CHECK(proves(service.listener.one(), connection.served));
        }
        run("127.0.0.2"); // the service names its client: that counts
        CHECK(proves(service.listener.one(), connection.served));
    }
}

TEST_CASE("no descriptor is left behind") {
    const Service service;
    service.configure("pam_deny", "debug");
    const Server server;
    const auto connection = server.connect_from(1);
    CHECK(Login(service, "root", "127.0.0.1").authenticate() == PAM_AUTH_ERR);
    (void)service.listener.one();
    const std::size_t before = open_fds().size();
    for (int i = 0; i < 200; ++i) {
        CHECK(Login(service, "root", "127.0.0.1").authenticate() == PAM_AUTH_ERR);
        (void)service.listener.one();
    }
    CHECK(open_fds().size() <= before);
}

TEST_CASE("only numeric text is an address") {
    sockaddr_storage out;
    CHECK(parse_numeric("192.0.2.1", out) == sizeof(sockaddr_in));
    CHECK(parse_numeric("2001:db8::1", out) == sizeof(sockaddr_in6));
    CHECK(parse_numeric("fe80::1%lo", out) == sizeof(sockaddr_in6));
    CHECK(reinterpret_cast<sockaddr_in6&>(out).sin6_scope_id == 1);
    CHECK(parse_numeric("::ffff:192.0.2.1", out) == sizeof(sockaddr_in));
    CHECK(out.ss_family == AF_INET);
    for (const char* text :
         {"", "localhost", "1", "127.1", "0x7f000001", "192.0.2.1 ", "192.0.2", "2001:db8::1%",
          "fe80::1%nothere", "[2001:db8::1]", "192.0.2.256", "example.org", "%lo",
          "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd"}) {
        CAPTURE(text);
        CHECK(parse_numeric(text, out) == 0);
    }
}
