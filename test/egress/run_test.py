"""egressctl run: a command, and all that it starts, behind rules of its own."""

import json
import os
import signal
import subprocess
import sys
import time

from guarded import guarded, harness
from harness import wait_for
from names_test import CLIENT, RESOLVER, Resolver
from verdict_test import PROBE, PYTHON, renew, servers

GROUP = 54321
USER = 1000
HOST = "10.66.0.9 * * * * deny\n* * * * * allow\n"
# Where the kernel lacks the hook; unix_test.py has more of it.
NO_HOOK = ("egressctl run: this kernel has no hook for AF_UNIX sockets (Linux 6.7 has): the command may connect to "
           "any\n")
TARGETS = ("tcp,10.66.0.1,80", "tcp,10.66.0.1,443", "tcp,fd66::1,80")


def add_group(world):
    """Makes the group egress, whose members may ask egressd."""
    with open("/etc/group") as before, open(world.path("group"), "w") as file:
        file.write("".join(line for line in before if not line.startswith("egress:")) + f"egress:x:{GROUP}:\n")
    if harness.libc.mount(world.path("group").encode(), b"/etc/group", None, 4096, None) != 0:
        raise harness.Skip("cannot mount a file")


def words(guard, *command, options=()):
    return [harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "run", *options, *command]


def run(guard, *command, options=(), user=None, **keywords):
    """The command behind `egressctl run`, as root or as a member of the group."""
    done = guard.run(*words(guard, *command, options=options), user=user, group=GROUP if user else None, **keywords)
    done.stderr = done.stderr.replace(NO_HOOK, "")
    return done


def probe(guard, *targets, allow=(), user=None, first=(), options=(), **keywords):
    done = run(guard, *first, PYTHON, "-c", PROBE, *targets, user=user,
               options=(*(word for each in allow for word in ("--allow", each)), *options), **keywords)
    assert done.returncode == 0, done
    return done.stdout.split(), done.stderr


def runs(guard):
    """How many go on, as the kernel counts them."""
    return guard.daemon.status()["egress"]["runs"]


def test_only_what_is_listed(world):
    servers(world, 80, 443)
    harness.need_reachable()
    add_group(world)
    with guarded(world) as guard:
        guard.start(HOST)
        for user in (None, USER):
            assert probe(guard, *TARGETS, user=user) == (
                ["EPERM"] * 3, "egressctl run: 3 connections refused (3 destinations)\n")
            assert probe(guard, *TARGETS, allow=["10.66.0.1:80"], user=user) == (
                ["ok", "EPERM", "EPERM"], "egressctl run: 2 connections refused (2 destinations)\n")
            assert probe(guard, *TARGETS, allow=["10.66.0.0/24", "[fd66::1]:80"], user=user) == (
                ["ok"] * 3, "egressctl run: 0 connections refused\n")
            # Loopback is no exception, raw sockets are none, datagrams are as connections.
            found, _ = probe(guard, "tcp,127.0.0.1,9", "udp,10.66.0.1,80", "udpc,10.66.0.1,81", "udp,10.66.0.1,81",
                             allow=["10.66.0.1:80"], user=user)
            assert found == ["EPERM", "ok", "EPERM", "EPERM"], found
        assert probe(guard, "raw,10.66.0.1,1", allow=["10.66.0.1"])[0] == ["EPERM"]
        # Whoever is in no run is judged by the host's rules alone.
        done = guard.run(PYTHON, "-c", PROBE, *TARGETS, "tcp,10.66.0.9,80")
        assert done.stdout.split() == ["ok"] * 3 + ["EPERM"], done
        event = guard.event(action="BLOCKED", addr="10.66.0.1", port=443, uid=USER)
        assert event["run"] > 0 and event["reason"] == "deny" and event["rule"] == "not listed by the run", event
        wait_for(lambda: runs(guard) == 0, 20, "the runs to be over")


def test_the_hosts_rules_stay_in_force(world):
    """They decide after a user's, and not at all after root's."""
    servers(world, 80, 443)
    harness.need_reachable()
    add_group(world)
    with guarded(world) as guard:
        guard.start("10.66.0.1:443 * * * * deny\n* * * * * allow\n")
        for user, found in ((USER, ["ok", "EPERM", "EPERM"]), (None, ["ok", "ok", "EPERM"])):
            assert probe(guard, *TARGETS, allow=["10.66.0.1"], user=user)[0] == found, user
        # Lines that name programs, users and cgroups; a run has none of these.
        renew(guard, guard.daemon, f"10.66.0.1:443 * * * {PYTHON} deny\n10.66.0.1 * * {USER} * deny\n"
              "10.66.0.2 * * * * deny cgroup=/none\n* * * * * allow")
        for user, found in ((USER, ["EPERM", "EPERM", "EPERM"]), (None, ["ok", "ok", "EPERM"])):
            assert probe(guard, *TARGETS, allow=["10.66.0.1"], user=user)[0] == found, user


# Each tries to get out by another way, then probes.
ESCAPES = {
    "fork": "os.fork() and (os.wait(), os._exit(0))",
    "double fork": "os.fork() and (os.wait(), os._exit(0)); os.fork() and os._exit(0); time.sleep(.2)",
    "session": "os.fork() and (os.wait(), os._exit(0)); os.setsid()",
    "thread": "",
    "exec of a setuid program": "",
    "cgroup": "open(sys.argv[3] + '/cgroup.procs', 'w').write('0')",
    "orphan": "os.fork() and os._exit(0); time.sleep(.5)",
}
ESCAPE = """
import errno, os, socket, sys, threading, time
def goes():
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
%s
%s
"""
TELL = "open(sys.argv[4], 'a').write(goes() + '\\n')"


def test_no_process_leaves_a_run(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(HOST)
        inner = os.path.join(guard.cgroup, "inner")
        os.mkdir(inner)
        for name, how in ESCAPES.items():
            told = world.path("told-" + name.replace(" ", "-"))
            tell = f"thread = threading.Thread(target=lambda: {TELL}); thread.start(); thread.join()" \
                if name == "thread" else TELL
            first = ("setpriv", "--reuid=1000", "--clear-groups") if "setuid" in name else ()
            open(told, "w").close()
            os.chmod(told, 0o666)
            os.chmod(os.path.dirname(told), 0o755)
            done = run(guard, *first, PYTHON, "-c", ESCAPE % (how, tell), "10.66.0.1", "80", inner, told)
            wait_for(lambda: os.path.getsize(told) > 0, 20, f"{name}: {done}")
            with open(told) as file:
                assert file.read() == "EPERM\n", name
        wait_for(lambda: runs(guard) == 0, 20, "the runs to be over")
        assert guard.run(PYTHON, "-c", PROBE, "tcp,10.66.0.1,80").stdout == "ok\n"


def test_a_socket_that_was_passed(world):
    """From outside into the run: it is judged anew by whom it is used."""
    servers(world, 80)
    sender = """
import socket, sys
out = socket.create_connection(("10.66.0.1", 80))
out.send(b"mine\\n")
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    peer = server.accept()[0]
    socket.send_fds(peer, [b"x"], [out.fileno()])
    peer.recv(1)
"""
    taker = """
import fcntl, socket, sys, time
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(sys.argv[1])
    out = socket.socket(fileno=socket.recv_fds(peer, 1, 1)[1][0])
    out.send(b"theirs\\n")
    time.sleep(1)
    print(int.from_bytes(fcntl.ioctl(out, 0x5411, bytes(4)), sys.byteorder))  # TIOCOUTQ: not yet received
"""
    with guarded(world) as guard:
        guard.start(HOST)
        for options, queued in ((("--allow", "10.66.0.1:80"), "0"), ((), "7")):
            path = world.path(f"passed{queued}")
            outside = guard.spawn(PYTHON, "-c", sender, path)
            assert outside.stdout.readline() == "ready\n"
            done = run(guard, PYTHON, "-c", taker, path, options=(*options, "--allow", f"unix:{path}"))
            outside.kill()
            outside.wait()
            assert done.stdout.strip() == queued, (options, done)
            assert done.stderr.startswith(f"egressctl run: {len(queued.strip('0'))} connection"), done


def test_the_status_is_the_commands(world):
    with guarded(world) as guard:
        guard.start(HOST)
        for command, status in ((("true",), 0), (("sh", "-c", "exit 7"), 7), (("sh", "-c", "kill -9 $$"), 137),
                                (("sh", "-c", "kill $$"), 143), (("/no/such/program",), 127), (("/etc/passwd",), 126)):
            done = run(guard, *command)
            assert done.returncode == status, (command, done)
        assert "cannot start /no/such/program: No such file" in run(guard, "/no/such/program").stderr
        # Options of the command are its own, with "--" and without.
        assert run(guard, "sh", "-c", "echo $0", "--allow").stdout == "--allow\n"
        assert run(guard, "--", "echo", "-q").stdout == "-q\n"
        assert run(guard, "true", options=("-q",)).stderr == ""
        # The command has what egressctl got; standard input, too.
        assert run(guard, "cat", input="text\n").stdout == "text\n"


def pids(guard):
    with open(os.path.join(guard.cgroup, "cgroup.procs")) as file:
        return [int(line) for line in file]


def end_all(guard):
    """Every process inside the cgroup."""
    for pid in pids(guard):
        os.kill(pid, signal.SIGKILL)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_signals_and_job_control(world):
    with guarded(world) as guard:
        guard.start(HOST)
        tell = "trap 'echo got INT; exit 3' INT; trap 'echo got TERM' TERM; echo ready; while :; do sleep .1; done"
        process = guard.spawn(*words(guard, "sh", "-c", tell), start_new_session=True, stderr=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "got TERM\n"
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            child = int(file.read().split()[0])
        # What stops the command stops egressctl, so that a shell sees it.
        os.kill(child, signal.SIGSTOP)
        wait_for(lambda: state_of(process.pid) == "T", 20, "egressctl to be stopped with it")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: "T" not in (state_of(process.pid), state_of(child)), 20, "both to go on")
        # The terminal's: to the whole group, once for each.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3 and "got INT\n" in out, (process.returncode, out, err)


def test_it_ends_with_its_last_process(world):
    """Whoever else was killed."""
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start(HOST)
        process = guard.spawn(*words(guard, PYTHON, "-c", "import sys\nprint('up', flush=True)\nsys.stdin.readline()\n"
                                     + PROBE, "tcp,10.66.0.1,80"))
        assert process.stdout.readline() == "up\n"
        assert runs(guard) == 1
        process.kill()
        process.wait()
        time.sleep(1.5)
        assert runs(guard) == 1, "egressctl is gone, the command is not"
        # And so is egressd: the next one finds the run in force.
        daemon.stop(9)
        guard.start(HOST)
        assert runs(guard) == 1
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.read() == "EPERM\n"
        wait_for(lambda: runs(guard) == 0, 20, "the run to be over")
        # Its slot serves again.
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,fd66::1,80", allow=["10.66.0.1"])[0] == ["ok", "EPERM"]
        # What goes on in the background is told.
        done = run(guard, "sh", "-c", "sleep 30 >/dev/null 2>&1 &")
        assert "; 1 process of it goes on" in done.stderr, done
        end_all(guard)


def test_too_many(world):
    harness.need_reachable()
    add_group(world)
    for name, text in (("passwd", f"root:x:0:0::/:/bin/sh\nalice:x:{USER}:{USER}::/:/bin/sh\n"),
                       ("subuid", "alice:100000:65536\n")):
        if os.path.exists(f"/etc/{name}"):
            harness.libc.mount(world.write(name, text).encode(), f"/etc/{name}".encode(), None, 4096, None)
    with guarded(world) as guard:
        guard.start(HOST)
        started = []
        try:
            for i in range(20):
                started.append(guard.spawn(*words(guard, "sh", "-c", "echo up; exec sleep 60"),
                                           user=USER if i < 12 else USER + 1, group=GROUP))
                assert started[-1].stdout.readline() == "up\n", i
                if i == 11:
                    for user in (USER, 100000):
                        done = run(guard, "true", user=user)
                        assert done.returncode == 125 and "the share of one user" in done.stderr, done
            assert runs(guard) == 20
            done = run(guard, "true", user=USER + 1)
            assert done.returncode == 125 and "users without a run" in done.stderr, done
            assert run(guard, "true", user=USER + 2).returncode == 0, "a third user's first run"
            assert run(guard, "true").returncode == 0, "another user's run"
        finally:
            end_all(guard)
            for process in started:
                process.wait()
        wait_for(lambda: runs(guard) == 0, 20, "the runs to be over")


def test_bad_input(world):
    harness.need_reachable()
    add_group(world)
    with guarded(world) as guard:
        daemon = guard.start(HOST)
        for options, status, said in (
                (("--allow", "1.2.3.4 x"), 2, "not one destination"),
                (("--allow", "10.66.0.1:99999"), 2, "--allow: "),
                (("--allow", "@list"), 2, "--allow: "),
                (("--rules", "/no/such/file"), 125, "/no/such/file"),
                (("--allo", "1.2.3.4"), 2, "did you mean")):
            done = run(guard, "true", options=options)
            assert done.returncode == status and said in done.stderr, (options, done)
        # Runs do not nest: the inner one could only widen the outer one.
        inner = words(guard, "true")
        done = run(guard, *inner)
        assert done.returncode == 125 and "do not nest" in done.stderr, done
        for body, status in (({}, 400), ({"started": 1}, 404), ({"started": 1, "rules": "x" * 70000}, 400),
                             ({"started": "1"}, 400), ({"started": 1, "bad": 1}, 400), ({"started": 1, "rules": 7}, 400)):
            assert daemon.request("POST", "/v1/runs", body)[0] == status, body
        for query in ("", "?run=", "?run=0", "?run=x", "?run=-1", "?run=99999999999"):
            assert daemon.request("GET", "/v1/runs" + query)[0] == 400, query
        assert daemon.request("GET", "/v1/runs?run=77")[0] == 404
        # Another user may not see what a run does.
        process = guard.spawn(*words(guard, "sh", "-c", "echo up; read line"), user=USER, group=GROUP)
        assert process.stdout.readline() == "up\n"
        number = daemon.request("GET", "/v1/status")[1]
        assert number["egress"]["runs"] == 1, number
        process.communicate("end\n", timeout=60)
        # Nobody who may not ask egressd may run anything by it.
        done = guard.run(*words(guard, "true"), user=1001, group=1001)
        assert done.returncode == 125 and done.stderr, done
        assert runs(guard) == 0


def test_a_run_asks_egressd_for_nothing(world):
    """A member of the group could else have other rules, or none."""
    harness.need_reachable()
    add_group(world)
    ask = """
import os, socket, sys, time
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
if sys.argv[2] == "orphan" and os.fork():
    os._exit(0)
time.sleep(.3)
peer.sendall(b"DELETE /v1/egress HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
open(sys.argv[3], "w").write(peer.recv(1000).decode())
"""
    with guarded(world) as guard:
        daemon = guard.start(HOST)
        os.chmod(os.path.dirname(world.path("x")), 0o777)
        for user in (None, USER):
            for way in ("itself", "orphan"):
                if (user, way) == (None, "orphan"):
                    continue  # root may take everything out of the kernel by itself
                told = world.path(f"told-{user}-{way}")
                run(guard, PYTHON, "-c", ask, daemon.control, way, told, user=user)
                wait_for(lambda: os.path.exists(told) and os.path.getsize(told) > 0, 20, "the answer")
                with open(told) as file:
                    text = file.read()
                assert " 403 " in text and "a process of a run" in text, (user, way, text)
        assert guard.status()["state"] == "in force"
        done = run(guard, *words(guard, "true"), user=USER)
        assert done.returncode == 125 and "runs do not nest" in done.stderr, done
        # Who is in none may ask while there are some.
        process = guard.spawn(*words(guard, "sh", "-c", "echo up; read line"), user=USER, group=GROUP)
        assert process.stdout.readline() == "up\n"
        done = guard.run(harness.artefact("ctl/egressctl"), "-S", daemon.control, "rules", user=USER, group=GROUP)
        assert done.returncode == 0, done
        process.communicate("end\n", timeout=60)


def start_with_names(guard, rules=HOST):
    guard.start_with(f"[local]\n2222 stream tcp * * 3 1h\n[dns]\nresolver {RESOLVER}\ngrace 2s\n[egress]\n{rules}")
    return Resolver(RESOLVER)


# A question for a name that is not listed may be refused, too.
MAY_ASK = """
def may_ask(name):
    try:
        ask(name)
    except PermissionError:
        pass
"""


def tells(guard, code, *options, user=None):
    """What the client's code prints in a run, line by line, and egressctl's own lines."""
    done = run(guard, PYTHON, "-c", CLIENT + MAY_ASK + code, options=options, user=user)
    assert done.returncode == 0, done
    return done.stdout.split(), done.stderr


def test_names(world):
    """By the look-up that the run itself makes, and by no other address."""
    harness.need_reachable()
    add_group(world)
    with guarded(world) as guard:
        resolver = start_with_names(guard)
        resolver.says("files.example.org", "203.0.113.1", "10.9.9.9")
        resolver.says("a.wild.example.org", "203.0.113.2")
        resolver.says("other.example.org", "203.0.113.3")
        code = """
def all_go():
    return [goes(f"203.0.113.{i}", port) for i in (1, 2, 3) for port in (443, 80)] + [goes("10.9.9.9", 443)]
before = all_go()
for name in ("files.example.org", "a.wild.example.org", "other.example.org"):
    may_ask(name)
print(int(any(before)), *map(int, all_go()))
"""
        allow = ("--allow", "files.example.org:443", "--allow", "*.wild.example.org")
        for user in (None, USER):
            found, err = tells(guard, code, *allow, user=user)
            #                  before  files  wild   other  private
            assert found == list("0" "10" "11" "00" "0"), (found, user)
            assert err.startswith("egressctl run: 1") and "connections refused" in err, err
            time.sleep(3.2)  # TTL and grace: grants are the host's, not a run's
        # What nobody names any more is not noted; another resolver is not asked.
        wait_for(lambda: runs(guard) == 0, 20, "the runs to be over")
        found, _ = tells(guard, "print(int(goes('127.0.0.1', 53)), int(goes('10.66.0.1', 53)))", *allow)
        assert found == ["0", "0"], found
        # No look-up leaves a run that may reach nothing.
        done = run(guard, PYTHON, "-c", CLIENT + "ask('files.example.org')")
        assert done.returncode == 1 and "PermissionError" in done.stderr, done


def test_names_beside_those_of_the_host(world):
    """A connection goes on after its grant, by the name of each."""
    harness.need_reachable()
    add_group(world)
    with guarded(world) as guard:
        rules = f"{RESOLVER}:domain * * * * allow\n*.example.org * * * * allow\n* * * * * deny\n"
        resolver = start_with_names(guard, rules)
        resolver.says("files.example.org", "203.0.113.1")
        resolver.says("more.example.org", "203.0.113.2")
        resolver.says("else.example.net", "203.0.113.3")
        code = """
for name in ("files.example.org", "more.example.org", "else.example.net"):
    may_ask(name)
print(*(int(goes(f"203.0.113.{i}", 443)) for i in (1, 2, 3)))
"""
        options = ("--allow", "files.example.org:443", "--allow", "else.example.net")
        assert tells(guard, code, *options, user=USER)[0] == ["1", "0", "0"], "both have to allow it"
        assert tells(guard, code, *options)[0] == ["1", "0", "1"], "root's run decides alone"


def test_rules_of_a_file(world):
    servers(world, 80, 443)
    harness.need_reachable()
    add_group(world)
    with guarded(world) as guard:
        guard.start(HOST)
        rules = world.path("rules")

        def with_rules(text, *targets, **keywords):
            with open(rules, "w") as file:
                file.write(text)
            os.chmod(rules, 0o644)
            os.chmod(os.path.dirname(rules), 0o755)
            return run(guard, PYTHON, "-c", PROBE, *targets, options=("--rules", rules), **keywords)
        text = "# comment\n[egress]\n10.66.0.1:443 * * * * reject\n10.66.0.1 stream tcp * * allow\n"
        done = with_rules(text, *TARGETS, "udp,10.66.0.1,80", user=USER)
        assert done.stdout.split() == ["ok", "ECONNREFUSED", "EPERM", "EPERM"], done
        assert guard.event(port=443, uid=USER, action="BLOCKED")["rule"] == "rules of the run:3:1"
        done = run(guard, PYTHON, "-c", PROBE, *TARGETS, options=("--rules", "-"), input="* * * * * allow\n")
        assert done.returncode != 0 or done.stdout, done
        assert with_rules("* raw * * * allow\n", "raw,10.66.0.1,1").stdout.split() == ["EPERM"], "the right is gone, too"
        for text, said in (("10.66.0.1 * * * /bin/sh allow\n", "names no program"),
                           ("10.66.0.1 * * * * allow cgroup=/x\n", "names no cgroup"),
                           ("[local]\nssh stream tcp * * 3 1h\n", "lines of [egress] only"),
                           ("10.66.0.1 * * * * allow\n" * 129, "129 lines; a run takes 128"),
                           ("a.example * * * * allow rebind=allow\n", "is for root"),
                           ("10.66.0.1 * * * * allou\n", ":1:19: unknown action")):
            done = with_rules(text, "tcp,10.66.0.1,80", user=USER)
            assert done.returncode == 125 and said in done.stderr and not done.stdout, (text, done)


def test_learn_and_report(world):
    servers(world, 80, 443)
    with guarded(world) as guard:
        resolver = start_with_names(guard)
        resolver.says("files.example.org", "203.0.113.1")
        report = world.path("report")
        code = """
ask("files.example.org")
print(int(goes("203.0.113.1", 443)), int(goes("10.66.0.1", 80)), int(goes("fd66::1", 80)), int(goes("fd66::1", 80)))
"""
        found, err = tells(guard, code, "--learn", "--report", report)
        assert found == ["1"] * 4, "nothing is refused"
        lines = err.splitlines()
        assert lines[0] == "egressctl run: 4 connections would have been refused (3 destinations)", err
        assert lines[1:] == ["egressctl run: it needs", "  --allow files.example.org:443", "  --allow 10.66.0.1:80",
                             "  --allow [fd66::1]:80"], err
        with open(report) as file:
            told = json.load(file)
        assert told["refused"] == 4 and told["learn"] and told["processes"] == 0, told
        assert [each["count"] for each in told["destinations"]] == [1, 1, 2], told
        # With that list nothing is refused.
        listed = [word for line in lines[2:] for word in line.split()]
        assert tells(guard, code, *listed) == (["1"] * 4, "egressctl run: 0 connections refused\n")
        found, err = tells(guard, code, *listed[:2], "--report", report)
        assert found == ["1", "0", "0", "0"], found
        with open(report) as file:
            told = json.load(file)
        assert told["refused"] == 3 and not told["learn"] and told["destinations"][0] == {
            "type": "stream", "protocol": "tcp", "count": 1, "addr": "10.66.0.1", "port": 80,
            "exe": PYTHON, "rule": "not listed by the run"}, told
        done = run(guard, "true", options=("--report", "/no/such/directory/report"))
        assert done.returncode == 0 and "cannot write /no/such/directory/report" in done.stderr, done


if __name__ == "__main__":
    harness.main(globals())
