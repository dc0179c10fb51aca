"""unix:... in [egress]: which sockets of AF_UNIX programs may connect to."""

import json
import os
import signal

from guarded import harness, wait_for
from run_test import USER, run
from unix_test import CLIENT, engines, need_hook
from verdict_test import PYTHON

OTHER = 1234
WAYS = ("STREAM,connect,/run/docker.sock", "STREAM,connect,/run/root/own", "SEQPACKET,connect,/run/sequence",
        "DGRAM,send,/run/notify", "STREAM,connect,@engine")
LINES = f"""unix:/run/root/own stream * {USER} * allow
unix:/run/notify dgram * {USER} * allow
unix:@engine * * {USER} * allow
unix:* * * {USER} * deny
* * * {OTHER} * deny
* * * * * allow
"""


def put(guard, lines):
    with open(guard.daemon.conf, "w") as conf:
        conf.write("[local]\n2222 stream tcp * * 3 1h\n[egress]\n" + lines)
    before = guard.status()["generation"]
    guard.world.ctl("reload", "--force", check=True)
    wait_for(lambda: guard.status()["generation"] > before, 20, "the rules to be in force")
    need_hook(guard)


def reach(guard, *ways, user=USER, first=()):
    done = guard.run(*first, PYTHON, "-c", CLIENT, *ways, user=user)
    assert done.returncode == 0, done
    return done.stdout.split()


def test_an_allow_list(world):
    with engines(world) as guard:
        put(guard, LINES)
        assert reach(guard, *WAYS) == ["EPERM", "ok", "EPERM", "ok", "ok"]
        event = guard.event(protocol="unix", addr="/run/docker.sock")
        assert (event["action"], event["type"], event["uid"]) == ("BLOCKED", "stream", USER), event
        assert event["rule"].endswith("egress.conf:7:1") and "port" not in event and event["exe"] == PYTHON, event
        assert guard.event(addr="/run/sequence")["type"] == "5", guard.events(addr="/run/sequence")
        assert len(guard.events(protocol="unix")) == 2, "what no line refuses or logs is no event"
        for user in (None, OTHER):
            assert reach(guard, *WAYS, user=user) == ["ok"] * 5, "lines for addresses match no socket"
        udp = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
        assert guard.run(PYTHON, "-c", udp, user=USER).returncode == 0, "lines for sockets match no address"
        assert guard.run(PYTHON, "-c", udp, user=OTHER).returncode == 1
        put(guard, "* * * * * deny\n")
        assert reach(guard, *WAYS) == ["ok"] * 5


def test_the_type_and_the_program(world):
    with engines(world) as guard:
        put(guard, f"unix:/run/notify stream * {USER} * deny\nunix:/run/sequence 5 * {USER} * deny\n"
                   f"unix:/run/docker.sock * * {USER} /usr/bin/false deny\nunix:/run/root/own * * {USER} {PYTHON} deny\n")
        assert reach(guard, *WAYS) == ["ok", "EPERM", "EPERM", "ok", "ok"]


def test_a_text_is_no_path(world):
    """A line that allows needs the text to mean the socket; one that refuses by it alone does not hold."""
    with engines(world) as guard:
        os.symlink("/run/root/own", "/run/link")
        put(guard, LINES)
        for way in ("STREAM,connect,/run/link", "STREAM,connect,/run/root/../root/own", "STREAM,in /run/root,own"):
            assert reach(guard, way) == ["EPERM"], way
        moved = "mount --bind /run/docker.sock /run/root/own && exec \"$@\""
        for first in (("unshare", "-Urm", "sh", "-c", moved, "-"), ("unshare", "-Ur")):
            assert reach(guard, "STREAM,connect,/run/root/own", first=first) == ["EPERM"], first
        put(guard, f"unix:/run/root/own * * {USER} * deny\n")
        assert reach(guard, "STREAM,connect,/run/root/own", "STREAM,connect,/run/link") == ["EPERM", "ok"]


def test_audit_log_and_reject(world):
    with engines(world) as guard:
        put(guard, f"unix:/run/root/own * * {USER} * deny audit\nunix:@engine * * {USER} * allow log\n"
                   f"unix:/run/docker.sock * * {USER} * reject\n")
        assert reach(guard, *WAYS) == ["EPERM", "ok", "ok", "ok", "ok"]
        assert guard.event(addr="/run/root/own")["action"] == "MONITOR"
        assert guard.event(addr="@engine")["action"] == "ALLOWED"


def test_explain(world):
    """It says what the hooks do."""
    def explain(*words):
        return guard.world.ctl("explain", "--exe", PYTHON, *words)

    with engines(world) as guard:
        put(guard, LINES)
        for user in (USER, OTHER):
            for way, found in zip(WAYS, reach(guard, *WAYS, user=user)):
                kind, _, name = way.split(",")
                told = explain("--json", "--uid", str(user), "--type", kind.lower(), f"unix:{name}")
                assert told.returncode == 0, told
                action = json.loads(told.stdout)["action"]
                assert action == {"ok": "ALLOWED", "EPERM": "BLOCKED"}[found], (way, user, told)
        told = explain("--uid", str(USER), "unix:/run/docker.sock").stdout
        assert told.startswith("BLOCKED: ") and "egress.conf:7:1: unix:* * *" in told, told
        assert "egress.conf:5:1: unix:/run/notify dgram" in told and "(fails: destination, protocol)" in told, told
        told = explain("--uid", str(USER), "--container", "unix:/run/root/own").stdout
        assert told.startswith("BLOCKED: "), "a path means something else in a container"
        # Of a running process, by what paths mean to it.
        sleep = (PYTHON, "-c", "import time; print(1, flush=True); time.sleep(60)")
        for first in ((), ("unshare", "-Ur"), ("unshare", "-Urm"), ("unshare", "-Urn"), ("unshare", "-Urpf")):
            process = guard.spawn(*first, *sleep, user=USER)
            assert process.stdout.readline(), process.communicate()
            pid = process.pid
            if "-Urpf" in first:
                pid = int(harness.run("pgrep", "-P", str(pid)).stdout)
            found = reach(guard, "STREAM,connect,/run/root/own", first=first)
            told = guard.world.ctl("explain", "--json", "--pid", str(pid), "unix:/run/root/own").stdout
            os.kill(pid, signal.SIGKILL)
            assert json.loads(told)["action"] == {"ok": "ALLOWED", "EPERM": "BLOCKED"}[found[0]], (first, found, told)
        for wrong, said in (("unix:*", "names all sockets"), ("unix:relative", "neither an absolute path"),
                            ("unix:/run/x/../y", "..")):
            done = explain(wrong)
            assert done.returncode == 2 and said in done.stderr, done
        assert "dgram or seqpacket" in explain("--type", "raw", "unix:/run/x").stderr
        assert "dgram or raw" in explain("--type", "seqpacket", "10.66.0.1").stderr
        for body, said in (({"socket": "x"}, "neither"), ({"socket": "/x", "port": 1}, "exclude each other"),
                           ({"socket": "/x", "type": "raw"}, "seqpacket")):
            status, answer = guard.daemon.request("POST", "/v1/explain", {"exe": PYTHON, **body})
            assert status == 400 and said in json.dumps(answer), answer


def test_in_a_run(world):
    """The host's lines decide what the run lists, unless root asks."""
    with engines(world) as guard:
        put(guard, f"unix:{guard.daemon.control} * * {USER} * allow\n" + LINES)  # else it could not ask for the run
        for user, expected in ((USER, ["EPERM", "ok"]), (None, ["ok", "ok"])):
            done = run(guard, PYTHON, "-c", CLIENT, *WAYS[:2], user=user, options=("--allow", "unix:*"))
            assert done.stdout.split() == expected, (user, done)


def test_the_tools_that_mend_the_rules(world):
    """A self-test tells the daemon by such a socket; a line that shuts root out is named."""
    with engines(world) as guard:
        put(guard, LINES)
        done = guard.run(harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "selftest")
        assert "NOT ENFORCED" not in done.stdout, done
    conf = world.write("shut.conf", "[egress]\nunix:/run/systemd/private * * * * allow\nunix:* * * 0 * deny\n")
    done = harness.run(harness.artefact("daemon/egressd"), "-n", "-c", conf, check=False)
    assert "lockout: the line refuses egressctl to a root shell" in done.stderr and "systemctl" not in done.stderr, done


def test_nothing_is_learnt(world):
    """A lesson would be a line for any address."""
    with engines(world) as guard:
        put(guard, f"unix:* * * {USER} * allow audit\n* * * * * allow audit\n")
        assert reach(guard, "STREAM,connect,/run/docker.sock") == ["ok"]
        guard.run(PYTHON, "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))", user=USER, check=True)
        guard.event(protocol="unix")
        lessons = wait_for(lambda: "127.0.0.1" in (text := world.ctl("learn", "-D", harness.DATABASE).stdout) and text, 60, "a lesson")
        assert lessons.startswith("# 1 events seen"), lessons
        assert "not written" not in lessons, lessons


def test_lines_that_are_wrong(world):
    for line, why in (("unix:/run/root/ * * * * deny", "written without"), ("unix:/run/** * * * * deny", "each socket"),
                      ("unix:/x stream tcp * * deny", "tcp' with a socket of AF_UNIX"),
                      ("unix:/x * * * * allow resolved", "resolved and rebind are for addresses"),
                      ("unix:@ * * * * deny", "neither an absolute path")):
        conf = world.write("wrong.conf", "[egress]\n" + line + "\n")
        done = harness.run(harness.artefact("daemon/egressd"), "-n", "-c", conf, check=False)
        assert done.returncode and why in done.stderr, (line, done)


if __name__ == "__main__":
    harness.main(globals())
