// The firewall's side against helpers of every temper: each is a small script made here, which
// writes down what it was asked.
#include "daemon/firewall/firewall.h"

#include <csignal>

#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/base/log.h"
#include "ledger_world.h"

using namespace egress;
using namespace egress::test;

namespace {

/// A serving helper in Python. `set` is what its firewall holds; `tweak` may change how it answers.
constexpr const char* server = R"(#!/usr/bin/python3
import sys
log = open(sys.argv[0] + ".log", "a", buffering=1)
def say(text):
    sys.stdout.write(text + "\n"); sys.stdout.flush()
held = {}
try:
    for line in open(sys.argv[0] + ".held"):
        held[line.rsplit(" ", 2)[0]] = line.strip()
except OSError:
    pass
syncing = {}
if sys.argv[1] != "serve":
    sys.exit(1)
for line in sys.stdin:
    line = line.rstrip("\n")
    log.write(line + "\n")
    if line.startswith("HELLO"):
        say("HELLO egress-helper 1 fake")
        continue
    id, verb, *args = line.split(" ")
    #TWEAK
    if verb == "names":
        say(id + " name egress"); say(id + " ok 1")
    elif verb == "list":
        for one in held.values() if args[0] == "egress" else []:
            say(id + " item " + one + " 0")
        say(id + " ok %d" % len(held))
    elif verb == "sync":
        syncing[id] = args[0]
    elif verb == "elem":
        pass
    elif verb == "end":
        say(id + " ok 0 0")
    else:
        say(id + " ok")
)";

/// A helper of the per-event contract.
constexpr const char* script = R"(#!/bin/sh
[ "$1" = serve ] && exit 1
echo "$*|$EGRESS_SECONDS|$EGRESS_ACTION" >> "$0.log"
#TWEAK
echo "OK h-$4"
)";

std::string tweaked(std::string text, std::string_view tweak) {
    const auto at = text.find("#TWEAK");
    return text.replace(at, 6, tweak);
}

struct Guarded : World {
    explicit Guarded(std::string_view helper, std::string_view text = plain,
                     std::size_t most = 10'000)
        : World(text, false, most) {
        sigset_t child;
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigprocmask(SIG_BLOCK, &child, nullptr);
        std::signal(SIGPIPE, SIG_IGN);
        write_helper(helper);
        sd_event* raw = nullptr;
        REQUIRE(sd_event_new(&raw) >= 0);
        event.reset(raw);
        reaper = std::make_unique<Reaper>(raw);
        Firewall::Options options;
        options.helper = path;
        firewall = std::make_unique<Firewall>(raw, *reaper, ledger, clock, options);
    }
    void write_helper(std::string_view helper) {
        const std::string fresh = path + ".new"; // a running script is not written over
        std::ofstream(fresh) << helper;
        chmod(fresh.c_str(), 0755);
        std::filesystem::rename(fresh, path);
    }
    /// Runs the loop as the daemon does until `reached`; real time is bounded, not measured.
    template <typename Reached>
    bool until(Reached reached, int seconds = 20) {
        std::uint64_t now = 0;
        std::uint64_t end = 0;
        sd_event_now(event.get(), CLOCK_MONOTONIC, &end);
        end += static_cast<std::uint64_t>(seconds) * 1'000'000;
        do {
            firewall->pump();
            if (reached()) {
                return true;
            }
            sd_event_run(event.get(), 20'000);
            firewall->tick();
            sd_event_now(event.get(), CLOCK_MONOTONIC, &now);
        } while (now < end);
        return false;
    }
    bool until_state(Firewall::State state) {
        return until([&] { return firewall->status().state == state; });
    }
    bool until_in_force(std::size_t blocks) {
        return until([&] {
            return ledger.blocked() == blocks && ledger.not_in_force() == 0 &&
                   ledger.releasing() == 0;
        });
    }
    std::string asked() const {
        std::ifstream in(path + ".log");
        return {std::istreambuf_iterator<char>(in), {}};
    }
    bool has_asked(std::string_view text) const {
        INFO(asked());
        return asked().find(text) != std::string::npos;
    }

    Folder folder;
    std::string path = folder / "helper";
    Event event;
    std::unique_ptr<Reaper> reaper;
    std::unique_ptr<Firewall> firewall;
};

} // namespace

TEST_CASE("serve: handshake, one sync, then adds and removals by id") {
    Guarded world(server);
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    CHECK(world.firewall->status().state == Firewall::State::starting);
    REQUIRE(world.until_in_force(1));
    REQUIRE(world.until_state(Firewall::State::serving));
    CHECK(world.firewall->status().implementation == "fake");
    CHECK(world.has_asked("HELLO egress-helper 2\n"));
    CHECK(world.has_asked(" elem tcp 192.0.2.1 32 22 600 drop\n"));
    CHECK_FALSE(world.has_asked(" add "));
    world.report("2001:db8::1", Action::abusive);
    REQUIRE(world.until_in_force(2));
    CHECK(world.has_asked(" add egress tcp 2001:db8::1 128 22 600 drop\n"));
    REQUIRE(world.ledger.block({"", prefix("198.51.100.0/24"), 0, 0, forever, ""}));
    REQUIRE(world.until_in_force(3));
    CHECK(world.has_asked(" add egress * 198.51.100.0 24 * * drop\n"));
    world.report("192.0.2.1", Action::ok);
    REQUIRE(world.until_in_force(2));
    CHECK(world.has_asked(" rem egress tcp 192.0.2.1 32 22\n"));
    CHECK(world.firewall->status().errors == 0);
    CHECK(world.firewall->status().pending == 0);
}

TEST_CASE("serve: what only the firewall holds is adopted before the first comparison") {
    Guarded world(server);
    std::ofstream(world.path + ".held") << "tcp 192.0.2.50 32 22 300 reject\n";
    world.firewall->start();
    REQUIRE(world.until_state(Firewall::State::serving));
    CHECK(world.row("192.0.2.50").state == State::blocked);
    CHECK(world.ledger.not_in_force() == 0);
    CHECK(world.has_asked(" elem tcp 192.0.2.50 32 22 300 reject\n"));
}

TEST_CASE("serve: beside very many blocks nothing is listed, and all are confirmed") {
    Guarded world(server, plain, 60'000);
    std::ofstream(world.path + ".held") << "tcp 192.0.2.50 32 22 300 reject\n";
    constexpr int many = 50'001;
    for (int i = 0; i < many; ++i) {
        world.report(fmt::format("10.{}.{}.{}", i / 65'536, i / 256 % 256, i % 256),
                     Action::abusive);
    }
    world.firewall->start();
    REQUIRE(world.until_in_force(many));
    REQUIRE(world.until_state(Firewall::State::serving));
    CHECK_FALSE(world.has_asked(" list "));
    CHECK(world.has_asked(" elem tcp 10.0.195.80 32 22 "));
    CHECK_FALSE(world.has_asked("192.0.2.50"));
    // A block that comes while the next helper starts does not wait for the list of all.
    const std::size_t before = world.asked().size();
    world.firewall->start();
    world.report("192.0.2.51", Action::abusive);
    REQUIRE(world.until_in_force(many + 1));
    REQUIRE(world.until_state(Firewall::State::serving));
    const std::string asked = world.asked().substr(before);
    const auto add = asked.find(" add egress tcp 192.0.2.51 32 22 ");
    CHECK(add != std::string::npos);
    CHECK(add < asked.find(" end\n", asked.find(" sync egress\n")));
}

TEST_CASE("serve: a new block does not wait for the end of a sync, a removal does") {
    // The sync is answered only once a block of its own has been asked for.
    Guarded world(tweaked(server, R"(if verb == "end" and syncing.get(id) == "egress":
        late = id; continue
    if verb == "add" and args[2] == "192.0.2.2":
        say(id + " ok"); say(late + " ok 0 0"); continue)"));
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    REQUIRE(world.until_state(Firewall::State::syncing));
    REQUIRE(world.until([&] { return world.has_asked(" end\n"); }));
    world.report("192.0.2.1", Action::ok);
    world.firewall->pump();
    CHECK(world.row("192.0.2.1").state == State::releasing);
    world.report("192.0.2.2", Action::abusive);
    REQUIRE(world.until_in_force(1));
    REQUIRE(world.until_state(Firewall::State::serving));
    const std::string asked = world.asked();
    const auto add = asked.find(" add egress tcp 192.0.2.2 32 22 600 drop\n");
    CHECK(add != std::string::npos);
    CHECK(asked.find(" rem egress tcp 192.0.2.1 32 22\n") > add);
    CHECK(asked.find(" rem egress tcp 192.0.2.1 32 22\n") != std::string::npos);
    CHECK(world.firewall->status().restarts == 0);
}

TEST_CASE("serve: a thousand blocks at once are all confirmed") {
    Guarded world(server);
    world.firewall->start();
    REQUIRE(world.until_state(Firewall::State::serving));
    for (int i = 0; i < 1000; ++i) {
        world.report("10.1." + std::to_string(i / 250) + "." + std::to_string(i % 250 + 1),
                     Action::abusive);
    }
    CHECK(world.until_in_force(1000));
}

TEST_CASE("serve: err is retried, the others go on, and the state says what is wrong") {
    Guarded world(tweaked(server, R"(if verb == "add" and "192.0.2.1" in args:
        try:
            open(sys.argv[0] + ".well")
        except OSError:
            say(id + " err no room \x1b[31m"); continue)"));
    world.firewall->start();
    REQUIRE(world.until_state(Firewall::State::serving));
    world.report("192.0.2.1", Action::abusive);
    world.report("192.0.2.2", Action::abusive);
    REQUIRE(world.until([&] { return world.ledger.not_in_force() == 1; }));
    REQUIRE(world.until([&] { return world.firewall->status().errors >= 2; }));
    CHECK(world.firewall->status().last_error.find("no room \\x1b") != std::string::npos);
    CHECK(world.firewall->status().state == Firewall::State::serving);
    CHECK(world.firewall->status().restarts == 0);
    std::ofstream(world.path + ".well") << "";
    CHECK(world.until_in_force(2));
    CHECK(world.firewall->status().last_error.empty());
}

TEST_CASE("serve: a helper that breaks its word is killed, started anew, and told everything") {
    const struct {
        const char* description;
        const char* tweak;
    } fixtures[] = {
        {"a line of garbage", "say('\\x01\\x02 what')"},
        {"an id that was never given", "say('424242 ok')"},
        {"an unknown word", "say(id + ' maybe')"},
        {"a line without end", "sys.stdout.write('x' * 100000); sys.stdout.flush()"},
        {"an empty line", "say('')"},
        {"an exit", "sys.exit(3)"},
        {"a signal", "import os; os.kill(os.getpid(), 9)"},
        {"its output closed", "import os; os.close(1)"},
    };
    for (const auto& [description, tweak] : fixtures) {
        INFO(description);
        // It does so once, at its first add.
        Guarded world(tweaked(server, std::string("if verb == 'add':\n"
                                                  "        import os\n"
                                                  "        if not os.path.exists(sys.argv[0] + "
                                                  "'.done'):\n"
                                                  "            open(sys.argv[0] + '.done', 'w')\n"
                                                  "            ") +
                                          tweak + "\n            continue"));
        world.firewall->start();
        REQUIRE(world.until_state(Firewall::State::serving));
        world.report("192.0.2.1", Action::abusive);
        world.report("192.0.2.2", Action::abusive);
        CHECK(world.until_in_force(2));
        CHECK(world.until_state(Firewall::State::serving));
        CHECK(world.firewall->status().errors >= 1);
        CHECK(world.firewall->status().restarts >= 1);
        world.check();
    }
}

TEST_CASE("serve: handles and names that are no plain words are not taken") {
    Guarded world(tweaked(server, R"(if verb == "add":
        sys.stdout.buffer.write((id + " ok ").encode() + b"\xff\xfe\x1b\n"); sys.stdout.flush(); continue
    if verb == "names":
        sys.stdout.buffer.write((id + " name ").encode() + b"\xff\xfe\n"); sys.stdout.flush())"));
    world.firewall->start();
    REQUIRE(world.until_state(Firewall::State::serving));
    world.report("192.0.2.1", Action::abusive);
    REQUIRE(world.until_in_force(1));
    CHECK(world.rows().at(0).id.empty());
    for (const auto& name : world.ledger.names()) {
        CHECK(name == "egress");
    }
}

TEST_CASE("serve: one name that cannot be synced does not keep the others out") {
    Guarded world(tweaked(server, R"(if verb == "end" and syncing[id] == "bad":
        say(id + " err no such set"); continue)"));
    REQUIRE(world.ledger.block({"bad", prefix("192.0.2.1"), 6, 22, 600, ""}));
    world.report("192.0.2.2", Action::abusive);
    world.firewall->start();
    CHECK(world.until([&] { return world.ledger.not_in_force() == 1; }));
    world.report("192.0.2.3", Action::abusive);
    CHECK(world.until(
        [&] { return world.ledger.blocked() == 3 && world.ledger.not_in_force() == 1; }));
    CHECK((world.row("192.0.2.2").flags & store::in_force) != 0);
    CHECK(world.firewall->status().errors >= 1);
}

TEST_CASE("per event: add and rem with every argument, the handle comes back") {
    Guarded world(script);
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    REQUIRE(world.until_in_force(1));
    CHECK(world.firewall->status().state == Firewall::State::per_event);
    CHECK(world.has_asked("add egress tcp 192.0.2.1 32 22 |600|drop\n"));
    CHECK(world.rows().at(0).id == "h-192.0.2.1");
    REQUIRE(world.ledger.block({"", prefix("198.51.100.0/24"), 0, 0, forever, ""}));
    REQUIRE(world.until_in_force(2));
    CHECK(world.has_asked("add egress  198.51.100.0 24  |*|drop\n"));
    world.report("192.0.2.1", Action::ok);
    REQUIRE(world.until_in_force(1));
    CHECK(world.has_asked("rem egress tcp 192.0.2.1 32 22 h-192.0.2.1|"));
    CHECK(world.ledger.table().size() == 1);
}

TEST_CASE("per event: a bare handle is one, and a rem may say nothing, as for blocklistd") {
    Guarded world(tweaked(script, "[ $1 = add ] && echo rule-7; exit 0"));
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    REQUIRE(world.until_in_force(1));
    CHECK(world.rows().at(0).id == "rule-7");
    world.report("192.0.2.1", Action::ok);
    REQUIRE(world.until([&] { return world.ledger.releasing() == 0; }));
    CHECK(world.has_asked("rem egress tcp 192.0.2.1 32 22 rule-7|"));
    CHECK(world.firewall->status().errors == 0);
}

TEST_CASE("per event: every way to fail leaves the block wanted, and it goes in when mended") {
    for (const auto* tweak :
         {"exit 1", "echo no luck; exit 0", "exit 0", "yes yes no | head -c 1000000; exit 0",
          "head -c 1000000 /dev/zero | tr '\\0' x; exit 0", "kill -9 $$", "echo OK; exit 2",
          "echo id; exit 2", "echo 'OKAY then'; exit 0", "printf 'OK a b'; exit 0"}) {
        INFO(tweak);
        Guarded world(tweaked(script, tweak));
        world.report("192.0.2.1", Action::abusive);
        world.firewall->start();
        REQUIRE(world.until([&] { return world.firewall->status().errors > 0; }));
        CHECK(world.ledger.not_in_force() == 1);
        CHECK_FALSE(world.firewall->status().last_error.empty());
        world.write_helper(script);
        CHECK(world.until_in_force(1));
        CHECK(world.firewall->status().last_error.empty());
    }
}

TEST_CASE("per event: a lift while the add still runs waits for it") {
    Guarded world(tweaked(script, R"(if [ "$1" = add ]; then
    while [ ! -e "$0.go" ]; do read -r line < /dev/null; [ -d "${0%/*}" ] || exit 1; done
fi
echo "done $1" >> "$0.log")"));
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    REQUIRE(world.until([&] { return world.has_asked("add egress"); }));
    world.report("192.0.2.1", Action::ok);
    for (int i = 0; i < 20; ++i) { // turns enough to start a rem beside it
        world.firewall->pump();
        sd_event_run(world.event.get(), 1000);
    }
    std::ofstream(world.path + ".go") << "";
    REQUIRE(world.until([&] { return world.ledger.table().size() == 0; }));
    const std::string asked = world.asked();
    const auto rem = asked.find("rem egress tcp 192.0.2.1 32 22 h-192.0.2.1");
    CHECK(rem != std::string::npos); // with the handle that only the add could give
    CHECK(asked.find("done add") < rem);
}

TEST_CASE("a helper that is missing, then a script, then a server: nothing wanted is forgotten") {
    Guarded world(server);
    std::filesystem::remove(world.path);
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    CHECK(world.firewall->status().state == Firewall::State::backing_off);
    CHECK_FALSE(world.firewall->status().last_error.empty());
    world.write_helper(script);
    REQUIRE(world.until_in_force(1));
    CHECK(world.firewall->status().state == Firewall::State::per_event);
}

TEST_CASE("a sync that breaks and a helper that is a script from then on: all is sent") {
    Guarded world(tweaked(server, R"(if verb == "end":
        sys.exit(1))"));
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    REQUIRE(world.until([&] { return world.firewall->status().restarts > 0; }));
    world.write_helper(script);
    CHECK(world.until_in_force(1));
    CHECK(world.has_asked("add egress tcp 192.0.2.1 32 22 |600|drop\n"));
}

TEST_CASE("a helper that says nothing: per event after the handshake's time") {
    Guarded world("#!/bin/sh\n[ \"$1\" = serve ] && exec sleep 600\necho OK\n");
    world.report("192.0.2.1", Action::abusive);
    world.firewall->start();
    CHECK(world.until_in_force(1));
    CHECK(world.firewall->status().state == Firewall::State::per_event);
}

TEST_CASE("the firewall goes while its helper works, and takes the helper with it") {
    Guarded world(tweaked(
        server, R"(open(sys.argv[0] + ".pid", "w").write(str(__import__("os").getpid())))"));
    world.firewall->start();
    REQUIRE(world.until_state(Firewall::State::serving));
    pid_t pid = 0;
    std::ifstream(world.path + ".pid") >> pid; // written anew at each request: read between them
    REQUIRE(pid > 1);
    world.report("192.0.2.1", Action::abusive);
    world.firewall->pump();
    world.firewall.reset();
    siginfo_t info{};
    CHECK(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT) == 0);
    CHECK(info.si_status == SIGKILL);
    CHECK(world.ledger.not_in_force() == 1);
    sd_event_run(world.event.get(), 0);
}
