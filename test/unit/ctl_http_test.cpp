// Commands that ask the daemon, against servers that behave and servers that do not.
#include "test/unit/ctl_test.h"

#include <algorithm>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/http.h"
#include "ctl/out.h"
#include "daemon/bpf/pins.h"

using namespace egress;
using namespace egress::ctl;
using namespace egress::test;

namespace {

constexpr const char* row = R"({"name":"egress","addr":"192.0.2.0","prefixlen":24,"port":22,)"
                            R"("protocol":"tcp","count":0,"state":"wanted",)"
                            R"("until":"2026-11-22T13:00:00Z"})";

constexpr const char* whole_status = R"({"version":"0.1.0","pid":7,"uptime":3600,"monitor":true,
"rows":12,"counting":9,"blocked":3,"releasing":0,"not_in_force":2,"evicted":1,
"reports":{"taken":40,"matched":30},"refused":{"too_short":5,"bad_magic":0},
"helper":{"state":"backing-off","path":"/h","implementation":"nft","pending":2,"errors":4,
"last_error":"exit status 1 \u001b[2J"},
"store":{"path":"/db","pending":0,"commits":9,"last_error":"no space"},
"rules":{"files":["/etc/egress.conf"],"local":2,"remote":1,"trusted":0,"egress":3,
"loaded":"2026-11-22T11:00:00Z","last_error":""},
"users":[{"uid":65534,"connections":3,"paused":8}]})";

} // namespace

TEST_CASE("block: what is asked, what is told") {
    const FakeServer server(FakeServer::says(201, row));
    const auto ran = run_words({"block", "192.0.2.0/24:22", "--for", "1h", "--name", "egress",
                                "--proto", "tcp", "--reason", "größe"},
                               server.path());
    CHECK(ran.status == 0);
    CHECK(has(ran.out, "blocked 192.0.2.0/24 port 22 tcp in egress until 2026-11-22T13:00:00Z"));
    CHECK(has(ran.out, "yet to confirm it"));
    CHECK(server.request().starts_with("POST /v1/blocks HTTP/1.1\r\n"));
    CHECK(Json::parse(server.body()) ==
          Json::parse(R"({"addr":"192.0.2.0/24","port":22,"protocol":"tcp","name":"egress",)"
                      R"("seconds":3600,"reason":"größe"})"));
    CHECK(run_words({"block", "::1", "--for", "*"}, server.path()).status == 0);
    CHECK(server.body() == R"({"addr":"::1/128"})");
    const auto json = run_words({"--json", "block", "::1"}, server.path());
    CHECK(Json::parse(json.out) == Json::parse(row));
}

TEST_CASE("unblock: found, not found") {
    {
        const FakeServer server(FakeServer::says(200, R"({"removed":2})"));
        const auto ran = run_words({"unblock", "192.0.2.1:22", "--name", "x"}, server.path());
        CHECK(ran.status == 0);
        CHECK(ran.out == "lifted 2 blocks\n");
        CHECK(server.request().starts_with("DELETE /v1/blocks HTTP/1.1\r\n"));
        CHECK(server.body() == R"({"addr":"192.0.2.1/32","port":22,"name":"x"})");
    }
    const FakeServer server(FakeServer::says(200, R"({"removed":0})"));
    const auto ran = run_words({"unblock", "192.0.2.1"}, server.path());
    CHECK(ran.status == 1);
    CHECK(has(ran.err, "no block stands at exactly 192.0.2.1;"));
    const auto json = run_words({"--json", "unblock", "192.0.2.1"}, server.path());
    CHECK(json.status == 1);
    CHECK(Json::parse(json.out)["removed"] == 0);
    const FakeServer vague(FakeServer::says(200, "{}"));
    CHECK(run_words({"unblock", "192.0.2.1"}, vague.path()).status == 3);
}

TEST_CASE("status: troubles above, every kind by name") {
    const FakeServer server(FakeServer::says(200, whole_status));
    const auto ran = run_words({"status", "-v"}, server.path());
    CHECK(ran.status == 0);
    CAPTURE(ran.out);
    CHECK(ran.out.starts_with("egressd 0.1.0, pid 7, up 1h, MONITOR: blocks nothing\n"
                              "NOT IN FORCE"));
    const auto rows = ran.out.find("12 rows, 9 counting, 3 blocked, 0 releasing, 2 not in force");
    CHECK(rows != std::string::npos);
    CHECK(ran.out.find("helper: exit status 1 \\x1b[2J") < rows);
    CHECK(ran.out.find("store: no space") < rows);
    for (const auto* const part :
         {"/h, backing-off (nft), 2 pending, 4 errors", "/db, 0 pending, 9 commits",
          "2 local, 1 remote, 0 trusted, 3 egress, loaded 2026-11-22T11:00:00Z", "/etc/egress.conf",
          "40 taken, 30 matched", "5 too_short", "0 bad_magic",
          "uid 65534: 3 connections, 8 times paused"}) {
        CHECK(has(ran.out, part));
    }
    const auto shorter = run_words({"status"}, server.path()).out;
    CHECK(has(shorter, "12 rows, 9 counting, 3 blocked, 2 not in force"));
    CHECK(has(shorter, "5 too_short"));
    CHECK(!has(shorter, "bad_magic"));
    const auto json = run_words({"status", "--json"}, server.path());
    CHECK(Json::parse(json.out) == Json::parse(whole_status));
    CHECK(!has(json.out, "\x1b"));
}

TEST_CASE("status: the kernel side") {
    const FakeServer server(FakeServer::says(200, R"({"rules":{"egress":2},"egress":{
"state":"not enforced","rules":2,"prefixes":9,"generation":4,"last_error":"no \u001b memory",
"hooks":{"egress_connect4":"attached","egress_fork":"Invalid\u0007 argument"},
"events":{"made":7,"read":6,"lost":1,"watchers":0},"looks":{"connect4":3},"processes_lost":5,"sockets_lost":6,
"broken":8,"not_covered":["AF_PACKET sockets","vsock"]}})"));
    const auto ran = run_words({"status", "-v"}, server.path());
    CHECK(ran.status == 0);
    CAPTURE(ran.out);
    for (const auto* const part :
         {"NOT ENFORCED  2 rules of [egress]: not enforced\n", "NOT ENFORCED  8 checks",
          "NOT ATTACHED  egress_fork: Invalid\\x07 argument\n", "egress: no \\x1b memory\n",
          "egress        not enforced, 2 rules, 9 prefixes, generation 4\n",
          "  events      7 made, 6 read, 1 lost, 0 watchers\n", "  checks      3 connect4\n",
          "  processes   5 found no room", "  sockets     6 had no room",
          "  not covered AF_PACKET sockets, vsock\n"}) {
        CHECK(has(ran.out, part));
    }
    CHECK(!has(ran.out, "egress_connect4"));
    CHECK(!has(run_words({"status"}, server.path()).out, "0 watchers"));
    const FakeServer off(FakeServer::says(200, R"({"egress":{"state":"off","hooks":[1]}})"));
    CHECK(has(run_words({"status"}, off.path()).out, "egress        off\n"));
}

TEST_CASE("explain: what is asked, what is told, what is wrong") {
    const FakeServer server(FakeServer::says(200, R"({"action":"BLOCKED","verdict":"deny",
"rule":"f:4:1","text":"10.0.0.1 * * * * deny","generation":3,
"dimensions":{"destination":true,"port":true},
"process":{"exe":"/bin/x\u001b","comm":"x","uid":5,"gid":6,"container":true,"cgroup":"/c",
"ancestors":["/bin/sh","/sbin/init"]},
"earlier":[{"rule":"f:3:1","text":"* tcp","because":["port","user"]}],"earlier_left_off":7})"));
    const auto ran = run_words({"explain", "--exe", "/bin/x", "--parent", "/bin/sh", "--parent",
                                "/sbin/init", "--uid", "5", "--gid", "6", "--proto", "udp",
                                "--type", "dgram", "--cgroup", "/c", "--container", "10.0.0.1:53"},
                               server.path());
    CHECK(ran.status == 0);
    CHECK(server.request().starts_with("POST /v1/explain HTTP/1.1\r\n"));
    auto asked = Json::parse(server.body());
    CHECK(asked["parents"] == Json::parse(R"(["/bin/sh","/sbin/init"])"));
    CHECK(asked["uid"] == 5);
    CHECK(asked["gid"] == 6);
    CHECK(asked["protocol"] == 17);
    CHECK(asked["port"] == 53);
    CHECK(asked["container"] == true);
    CHECK(ran.out == "BLOCKED: f:4:1: 10.0.0.1 * * * * deny\n"
                     "process   /bin/x\\x1b, command x, uid 5, gid 6, in a container, cgroup /c\n"
                     "forked by /bin/sh, /sbin/init\n"
                     "holds     destination, port\n"
                     "not       f:3:1: * tcp (fails: port, user)\n"
                     "not       7 more lines\n");
    CHECK(Json::parse(run_words({"explain", "--json", "--exe", "/x", "::1"}, server.path())
                          .out)["generation"] == 3);
    CHECK(
        run_words({"explain", "--pid", std::to_string(::getpid()), "::1"}, server.path()).status ==
        0);
    asked = Json::parse(server.body());
    CHECK(asked["pid"] == ::getpid());
    CHECK(asked["uid"] == ::getuid());
    CHECK(asked.contains("started"));
    for (const auto& wrong : std::vector<std::vector<std::string>>{
             {"explain", "::1"},
             {"explain", "--exe", "/x"},
             {"explain", "--exe", "/x", "--pid", "1", "::1"},
             {"explain", "--pid", "x", "::1"},
             {"explain", "--pid", "1", "--parent", "/x", "::1"},
             {"explain", "--exe", "/x", "10.0.0.0/8"},
             {"explain", "--exe", "/x", "--type", "none", "::1"},
             {"explain", "--exe", "/x", "--proto", "none", "::1"},
             {"explain", "--exe", "/x", "--uid", "no-such", "::1"},
             {"explain", "--exe", "/x", "--gid", "no-such", "::1"},
             {"explain", "--exe", "/x", "--host", "--container", "::1"}}) {
        CHECK(run_words(wrong, server.path()).status == 2);
    }
    CHECK(run_words({"explain", "--pid", "2147483647", "::1"}, server.path()).status == 1);
    const FakeServer none(FakeServer::says(409, R"({"error":"no rules"})"));
    CHECK(run_words({"explain", "--exe", "/x", "::1"}, none.path()).status == 1);
    CHECK(run_words({"explain", "--exe", "/x", "::1"}).status == 3);
}

TEST_CASE("status: fields that are absent or of another type cost only themselves") {
    for (const auto* const text :
         {"{}", R"({"version":7,"pid":"x","uptime":-1,"helper":[],"rules":{"files":{}},"users":1})",
          R"({"store":null,"refused":[1],"reports":{"a":"b"},"users":[1,{}]})"}) {
        const FakeServer server(FakeServer::says(200, text));
        CHECK(run_words({"status"}, server.path()).status == 0);
    }
    const FakeServer server(FakeServer::says(200, "[1]"));
    CHECK(run_words({"status"}, server.path()).status == 3);
}

TEST_CASE("reload: warnings, errors") {
    {
        const FakeServer server(
            FakeServer::says(200, R"({"warnings":["f:1:2: warning: shadowed"]})"));
        const auto ran = run_words({"reload"}, server.path());
        CHECK(ran.status == 0);
        CHECK(server.request().starts_with("POST /v1/reload HTTP/1.1\r\n"));
        CHECK(ran.out == "rules reloaded\n");
        CHECK(has(ran.err, "f:1:2: warning: shadowed\n"));
    }
    const FakeServer server(FakeServer::says(
        422, R"({"error":"2 errors","errors":["f:3:4: bad\u0007","f:5:6: worse"]})"));
    const auto ran = run_words({"reload"}, server.path());
    CHECK(ran.status == 1);
    CHECK(has(ran.err, "f:3:4: bad\\x07\nf:5:6: worse\n"));
    CHECK(has(ran.err, "refuses: 2 errors\n"));
    const auto json = run_words({"reload", "--json"}, server.path());
    CHECK(json.status == 1);
    CHECK(Json::parse(json.out)["errors"].size() == 2);
}

TEST_CASE("rules, metrics, version") {
    {
        const FakeServer server(FakeServer::says(200, R"({"text":"[local]\n* *\u001b\n"})"));
        CHECK(run_words({"rules"}, server.path()).out == "[local]\n* *\\x1b\n");
        CHECK(server.request().starts_with("GET /v1/rules HTTP/1.1\r\n"));
        CHECK(Json::parse(run_words({"rules", "--json"}, server.path()).out).contains("text"));
    }
    {
        const auto* const text =
            "# HELP a b\na 1\nb{k=\"v,}\\\"\",l=\"m\"} 2.5 99\nc NaN\nbad\nd{\n";
        const FakeServer server(FakeServer::says(200, text));
        CHECK(run_words({"metrics"}, server.path()).out == text);
        CHECK(Json::parse(run_words({"metrics", "--json"}, server.path()).out) ==
              Json::parse(R"([{"name":"a","value":1},
                             {"name":"b","labels":{"k":"v,}\"","l":"m"},"value":2.5},
                             {"name":"c","value":"NaN"}])"));
    }
    const FakeServer server(FakeServer::says(200, R"({"version":"9.9"})"));
    CHECK(has(run_words({"version"}, server.path()).out, "egressd 9.9\n"));
    CHECK(Json::parse(run_words({"version", "--json"}, server.path()).out)["egressd"] == "9.9");
    const auto alone = run_words({"version"});
    CHECK(alone.status == 0);
    CHECK(has(alone.out, "egressd unknown: cannot reach"));
}

TEST_CASE("refusals and failures of the daemon") {
    struct Case {
        int http;
        const char* body;
        int status;
        const char* says;
    };
    for (const auto& [http, body, status, says] : std::vector<Case>{
             {500, R"({"error":"disk full\u001b"})", 3, "cannot do it: disk full\\x1b"},
             {503, "", 3, "HTTP status 503 without a reason"},
             {400, R"({"error":"bad address"})", 1, "refuses: bad address"},
             {404, "<html>", 1, "HTTP status 404"},
             {403, R"({"error":"no"})", 3, "no; you must be root or in the group egress\n"},
             {403, R"({"error":"you must be root or in the group egress"})", 3,
              "refuses: you must be root or in the group egress\n"},
             {302, "", 3, "HTTP status 302"},
         }) {
        const FakeServer server(FakeServer::says(http, body));
        for (const auto* const command : {"status", "reload", "rules", "metrics"}) {
            const auto ran = run_words({command}, server.path());
            CAPTURE(ran.err);
            CHECK(ran.status == status);
            CHECK(has(ran.err, says));
            CHECK(ran.out == "");
        }
        CHECK(run_words({"block", "::1"}, server.path()).status == status);
        CHECK(run_words({"unblock", "::1"}, server.path()).status == status);
    }
}

TEST_CASE("what answers is not the daemon") {
    const std::string head = "HTTP/1.1 200 OK\r\n";
    for (const auto& text :
         {std::string("\x1b[2Jgarbage\n\n\n"), std::string(), std::string("HTTP/1.1 200"),
          head + "Content-Length: 100\r\n\r\n{\"version\":", head + "Content-Length: -5\r\n\r\n{}",
          head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", head + "\r\nnot json",
          head + "Content-Length: 2\r\n\r\n{\xff", std::string(1 << 20, 'A'),
          head + std::string("X: ") + std::string(1 << 21, 'A')}) {
        const FakeServer server(FakeServer::bytes(text));
        for (const auto* const command : {"status", "rules", "reload"}) {
            const auto ran = run_words({command, "--timeout", "20"}, server.path());
            CAPTURE(ran.err);
            CHECK(ran.status == 3);
            CHECK(!ran.err.empty());
            CHECK(!has(ran.err, "\x1b"));
            CHECK(ran.out == "");
        }
    }
}

TEST_CASE("a body without end is cut, with and without a length") {
    for (const auto* const field : {"X: y\r\n", "Content-Length: 99999999999\r\n"}) {
        const FakeServer server([&](int fd, const std::string&) {
            FakeServer::send(fd, "HTTP/1.1 200 OK\r\n" + std::string(field) + "\r\n");
            const std::string piece(1 << 16, ' ');
            while (::send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) > 0) {
            }
        });
        const auto ran = run_words({"status"}, server.path());
        CHECK(ran.status == 3);
        CAPTURE(ran.err);
        CHECK(has(ran.err, "longer than 16777216 bytes"));
    }
}

TEST_CASE("a daemon that hangs costs the timeout") {
    for (const auto* const start :
         {"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{"}) {
        const FakeServer server([&](int fd, const std::string&) {
            FakeServer::send(fd, start);
            char byte = 0;
            while (::recv(fd, &byte, 1, 0) > 0) { // until the client gives up
            }
        });
        const auto ran = run_words({"status", "--timeout", "0.2"}, server.path());
        CHECK(ran.status == 3);
        CHECK(has(ran.err, "no complete answer within 0.2 seconds"));
    }
}

TEST_CASE("nobody there, or no right to ask") {
    const auto absent = run_words({"status"}, "/nonexistent/control.sock");
    CHECK(absent.status == 3);
    CHECK(absent.err ==
          "egressctl: cannot reach egressd at /nonexistent/control.sock: No such file "
          "or directory; is it running? (systemctl status egressd)\n");
    std::string left_over;
    const TemporaryDirectory directory;
    left_over = directory / "control.sock";
    {
        const Fd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        left_over.copy(address.sun_path, sizeof address.sun_path - 1);
        ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }
    const auto refused = run_words({"status"}, left_over);
    CHECK(refused.status == 3);
    CHECK(has(refused.err, "Connection refused; is it running?"));
    if (::geteuid() != 0) {
        ::chmod(left_over.c_str(), 0);
        CHECK(has(run_words({"status"}, left_over).err, "you must be root or in the group egress"));
        return;
    }
    REQUIRE(::seteuid(65534) == 0); // the directory is 0700 and root's
    const auto denied = run_words({"status"}, left_over);
    REQUIRE(::seteuid(0) == 0);
    CHECK(denied.status == 3);
    CHECK(has(denied.err, "Permission denied; you must be root or in the group egress"));
}

TEST_CASE("a proxy in the environment is not asked") {
    const FakeServer server(FakeServer::says(200, "{}"));
    ::setenv("http_proxy", "http://127.0.0.1:1", 1);
    ::setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    CHECK(run_words({"status"}, server.path()).status == 0);
    ::unsetenv("http_proxy");
    ::unsetenv("ALL_PROXY");
}

TEST_CASE("output that cannot be written is not silent") {
    const FakeServer server(FakeServer::says(200, "{}"));
    const StandingClock clock;
    Context context;
    context.out = std::fopen("/dev/full", "we");
    context.err = std::tmpfile();
    context.clock = &clock;
    context.socket = server.path();
    const std::vector<std::string> words = {"status"};
    CHECK(run(context, words) == Exit::unreachable);
    std::fclose(context.out);
    std::fclose(context.err);
}

TEST_CASE("selftest: who may not, what is not there, what is not understood") {
    const FakeServer none(
        FakeServer::says(409, R"({"error":"no rules of [egress] are in force"})"));
    const auto refused = run_words({"selftest"}, none.path());
    CHECK(refused.status == 1);
    CHECK(none.request().starts_with("POST /v1/selftest HTTP/1.1\r\n"));
    CHECK(Json::parse(none.body())["started"].is_number_unsigned());
    CHECK(has(refused.err, "no rules of [egress] are in force"));
    const FakeServer strange(FakeServer::says(200, "[]"));
    CHECK(run_words({"selftest"}, strange.path()).status == 3);
    CHECK(run_words({"selftest"}).status == 3);
    CHECK(run_words({"selftest", "x"}, none.path()).status == 2);
}

TEST_CASE("selftest: what goes through is not enforced") {
    // A daemon that marks nobody: everything that is tried here gets out.
    const FakeServer server(FakeServer::says(
        200,
        R"({"seconds":10,"cgroup":"/none","known":false,"monitor":true,"hooks":{},"refused":0})"));
    const auto ran = run_words({"selftest"}, server.path());
    CAPTURE(ran.out);
    CHECK(ran.status == 1);
    CHECK(has(ran.out, "NOT ENFORCED  exec         identity of this process"));
    CHECK(has(ran.out, "NOT ENFORCED  connect4     TCP connect, IPv4\n"));
    CHECK(has(ran.out, "NOT ENFORCED  sendmsg4     UDP send, IPv4\n"));
    CHECK(has(ran.out, "the rules themselves refuse nothing"));
    CHECK(has(ran.out, "NOT ENFORCED: "));
    const auto json = Json::parse(run_words({"selftest", "--json"}, server.path()).out);
    CHECK(json["enforced"] == false);
    CHECK(json["paths"][1]["result"] == "not enforced");
}

TEST_CASE("detach: by the daemon, by hand, not by hand under a daemon") {
    {
        const FakeServer server(FakeServer::says(200, R"({"removed":31})"));
        const auto ran = run_words({"detach"}, server.path());
        CHECK(ran.status == 0);
        CHECK(server.request().starts_with("DELETE /v1/egress HTTP/1.1\r\n"));
        CHECK(has(ran.out, "31 pins removed"));
        CHECK(has(ran.out, "until its next reload or restart"));
        const auto json = run_words({"detach", "--json"}, server.path());
        CHECK(Json::parse(json.out) == Json::parse(R"({"removed":31,"daemon":true})"));
    }
    const FakeServer failing(FakeServer::says(500, R"({"error":"cannot remove x"})"));
    CHECK(run_words({"detach"}, failing.path()).status == 3);

    const TemporaryDirectory pins;
    const auto detach = [&] { return run_words({"detach"}, "/nonexistent/s", "", pins.path()); };
    for (const auto* const name : {"link_a", "config", "link_b"}) {
        std::ofstream(pins / name) << 'x';
    }
    {
        const Fd held = bpf::hold_pins(pins.path());
        const auto refused = detach();
        CHECK(refused.status == 3);
        CHECK(has(refused.err, "one runs and uses " + pins.path()));
        CHECK(std::filesystem::exists(pins / "config"));
    }
    const auto removed = detach();
    CHECK(removed.status == 0);
    CHECK(removed.out == "detached: hooks and tables are gone (3 pins removed)\n");
    CHECK(std::filesystem::is_empty(pins.path()));
    CHECK(detach().out == "nothing was attached\n");
    CHECK(run_words({"detach"}).out == "nothing was attached\n"); // not even a directory
}

namespace {

/// Lines as the daemon sends them, in chunks that do not care where a line ends.
FakeServer::Answer feeds(const std::string& text) {
    return [text](int fd, const std::string&) {
        FakeServer::send(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (std::size_t at = 0; at < text.size(); at += 100) {
            const auto part = text.substr(at, 100);
            FakeServer::send(fd, fmt::format("{:x}\r\n{}\r\n", part.size(), part));
        }
        FakeServer::send(fd, "0\r\n\r\n");
    };
}

constexpr const char* events =
    R"({"time":"2026-11-22T12:00:00.123Z","action":"BLOCKED","protocol":"tcp","type":"stream",)"
    R"("addr":"192.0.2.1","port":80,"exe":"/usr/bin/cu\u001b[2Jrl","comm":"curl","pid":7,)"
    R"("uid":1000,"user":"alice","rule":"/etc/egress.conf:3:1","reason":"deny","count":3})"
    "\n"
    R"({"time":"2026-11-22T12:00:01.000Z","action":"ALLOWED","protocol":"udp","type":"dgram",)"
    R"("addr":"2001:db8::1","port":53,"comm":"x","pid":8,"uid":0,"container":true,)"
    R"("hostname":"box"})"
    "\n"
    R"({"dropped":12})"
    "\n"
    R"({"time":"2026-11-22T12:00:02.000Z","action":"MONITOR","protocol":"1","type":"raw","comm":"p\u0007","pid":9})"
    "\n";

} // namespace

TEST_CASE("watch: a line per event, escaped; the end of the stream is told") {
    const FakeServer server(feeds(events));
    const auto ran = run_words({"watch"}, server.path());
    CHECK(ran.status == 3);
    CHECK(has(ran.err, "egressd has stopped"));
    CHECK(server.request().starts_with("GET /v1/events HTTP/1.1\r\n"));
    CHECK(ran.out ==
          "2026-11-22T12:00:00.123Z BLOCKED tcp 192.0.2.1:80 /usr/bin/cu\\x1b[2Jrl[7] uid 1000 "
          "(alice) /etc/egress.conf:3:1 deny, 3 times\n"
          "2026-11-22T12:00:01.000Z ALLOWED udp [2001:db8::1]:53 (x)[8] uid 0 in a container "
          "(box)\n"
          "-- 12 events are missing here: they came faster than they were read\n"
          "2026-11-22T12:00:02.000Z MONITOR 1 a raw socket (p\\x07)[9]\n");
    const auto json = run_words({"watch", "--json"}, server.path());
    CHECK(!has(json.out, "\x1b"));
    CHECK(std::ranges::count(json.out, '\n') == 4);
    CHECK(Json::parse(json.out.substr(0, json.out.find('\n')))["uid"] == 1000);
}

TEST_CASE("watch: the daemon filters, before anything can be dropped") {
    const FakeServer server(feeds(events));
    const auto asked = [&](std::vector<std::string> words) {
        words.insert(words.begin(), "watch");
        const auto ran = run_words(words, server.path());
        CHECK(std::ranges::count(ran.out, '\n') == 4); // whatever comes is shown
        const auto request = server.request();
        return request.substr(0, request.find(" HTTP/"));
    };
    CHECK(asked({"--action", "blocked", "--action", "MONITOR"}) ==
          "GET /v1/events?action=BLOCKED&action=MONITOR");
    CHECK(asked({"--uid", "1000", "--uid", "root"}) == "GET /v1/events?uid=1000&uid=0");
    CHECK(asked({"--addr", "192.0.2.0/24", "--port", "80"}) ==
          "GET /v1/events?port=80&addr=192.0.2.0%2F24");
    CHECK(asked({"--exe", "/bin/a b&c", "--rule", "/etc/egress.conf:12"}) ==
          "GET /v1/events?exe=%2Fbin%2Fa%20b%26c&rule=%2Fetc%2Fegress.conf%3A12");
    for (const auto& wrong : std::vector<std::vector<std::string>>{{"watch", "--action", "NO"},
                                                                   {"watch", "--uid", "no-such"},
                                                                   {"watch", "--addr", "1.2.3"},
                                                                   {"watch", "--addr", "1.2.3.4:5"},
                                                                   {"watch", "word"}}) {
        CHECK(run_words(wrong, server.path()).status == 2);
    }
}

TEST_CASE("watch: servers that lie or refuse") {
    const FakeServer refusing(FakeServer::says(503, R"({"error":"32 watch already"})"));
    const auto refused = run_words({"watch"}, refusing.path());
    CHECK(refused.status == 3);
    CHECK(has(refused.err, "32 watch already"));
    const FakeServer strange(feeds("no json\n"));
    CHECK(run_words({"watch"}, strange.path()).status == 3);
    const FakeServer endless(feeds(std::string(80'000, 'x')));
    CHECK(run_words({"watch"}, endless.path()).status == 3);
    const FakeServer cut(
        FakeServer::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"));
    CHECK(run_words({"watch"}, cut.path()).status == 3);
    CHECK(run_words({"watch"}).status == 3);
}
