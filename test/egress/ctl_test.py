"""egressctl and the kernel side: detach, watch, explain, status."""

import json
import os
import socket
import subprocess

from guarded import guarded, harness
from harness import wait_for
from verdict_test import PYTHON, probe, servers

PINS = "/sys/fs/bpf/egress"
DENY = "10.66.0.1 * * * * deny\n"
TARGET = "tcp,10.66.0.1,80"


def at(guard):
    return {"EGRESS_CONTROL": guard.daemon.control}


def test_detach_by_the_daemon(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        assert probe(guard, TARGET) == ["EPERM"]
        done = world.ctl("detach", environment=at(guard))
        assert done.returncode == 0 and done.stdout.startswith("detached"), done
        assert "until its next reload" in done.stdout, done
        assert probe(guard, TARGET) == ["ok"]
        assert os.listdir(PINS) == []
        assert guard.status()["state"] == "detached", guard.status()
        wait_for(lambda: "detached" in daemon.log(), what="the log to say so")
        done = world.ctl("detach", environment=at(guard))
        assert done.returncode == 0 and "nothing was attached" in done.stdout, done
        assert daemon.request("POST", "/v1/reload", timeout=90)[0] == 200
        wait_for(lambda: guard.status()["state"] == "in force", 60, "the rules to be in force again")
        assert probe(guard, TARGET) == ["EPERM"]


def test_detach_without_daemon(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        elsewhere = {"EGRESS_CONTROL": world.path("no.sock")}
        done = world.ctl("detach", environment=elsewhere)
        assert done.returncode == 3 and "one runs" in done.stderr, done
        assert os.listdir(PINS)
        daemon.stop(9)
        assert probe(guard, TARGET) == ["EPERM"]

        def as_nobody():
            return world.ctl("detach", environment=elsewhere).returncode
        assert harness.as_user(harness.NOBODY, as_nobody) == 3
        assert probe(guard, TARGET) == ["EPERM"]
        done = world.ctl("detach", "--json", environment=elsewhere)
        assert done.returncode == 0 and '"daemon": false' in done.stdout, done
        assert probe(guard, TARGET) == ["ok"]
        assert os.listdir(PINS) == []
        done = world.ctl("detach", environment=elsewhere)
        assert done.returncode == 0 and "nothing was attached" in done.stdout, done


def watchers(guard):
    return guard.status()["events"]["watchers"]


def watch(guard, *words):
    """egressctl watch --json, once the daemon knows of it."""
    before = watchers(guard)
    process = subprocess.Popen([harness.artefact("ctl/egressctl"), "watch", "--json", *words],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**harness.free_environment(), **at(guard)})
    wait_for(lambda: watchers(guard) == before + 1, 20, "the watcher to be known")
    return process


def test_watch(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        every = watch(guard)
        some = watch(guard, "--addr", "10.66.0.0/16", "--uid", "0", "--action", "BLOCKED",
                     "--port", "80", "--rule", "4")
        others = [watch(guard, *words) for words in (
            ("--port", "81"), ("--rule", "5"), ("--rule", "egress.conf:4"),
            ("--rule", "1"),  # its column
            ("--rule", "none"))]
        assert probe(guard, "tcp,fd66::1,80", TARGET) == ["ok", "EPERM"]
        for process in (every, some):
            event = json.loads(process.stdout.readline())
            while event["addr"] != "10.66.0.1":
                assert process is every, event
                event = json.loads(process.stdout.readline())
            assert event["exe"] == PYTHON and event["action"] == "BLOCKED", event
            assert event["rule"].endswith(":4:1") and event["count"] == 1, event
        unmatched = json.loads(others.pop().stdout.readline())
        assert unmatched["addr"] == "fd66::1" and "rule" not in unmatched, unmatched
        for words in (("--port", "0"), ("--port", "70000"), ("--uid", "nobody at all"), ("--rule", "x:y"), ("--rule", "")):
            assert world.ctl("watch", *words, environment=at(guard)).returncode == 2, words
        # One that goes is noticed though nothing happens.
        for process in (some, *others):
            process.kill()
            assert process is some or process.communicate()[0] == "", process.args
        some.communicate()
        wait_for(lambda: watchers(guard) <= 2, 20, "the watchers to be gone")
        daemon.stop()
        _, errors = every.communicate(timeout=30 * harness.PATIENCE)
        assert every.returncode == 3 and "has stopped" in errors, (every, errors)


SPRAY = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, int(sys.argv[1]) + 1):
    try:
        sender.sendto(b"x", ("10.66.0.1", port))
    except PermissionError:
        pass
"""


def lines_of(data):
    """The JSON lines of a chunked answer."""
    body = data.split(b"\r\n\r\n", 1)[1]
    text = b""
    while body:
        size, rest = body.split(b"\r\n", 1)
        text += rest[:int(size, 16)]
        body = rest[int(size, 16) + 2:]
    return [json.loads(line) for line in text.splitlines()]


def test_watch_slow(world):
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(daemon.control)
        slow.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: watchers(guard) == 1, 20, "the watcher to be known")
        total = 3000
        assert guard.run(PYTHON, "-c", SPRAY, str(total)).returncode == 0
        wait_for(lambda: guard.status()["events"]["read"] >= total, 30,
                 lambda: f"all to be read though one does not: {guard.status()}")
        made = guard.status()["events"]
        assert made["lost"] == 0 and made["made"] == made["read"], made
        slow.settimeout(30)
        data = b""
        while b'"dropped"' not in data:
            data += slow.recv(65536)
        # It has room again: the next event comes after the gap.
        probe(guard, TARGET)
        while b'"port":80,' not in data.split(b'"dropped"')[-1]:
            data += slow.recv(65536)
        daemon.stop()
        while chunk := slow.recv(65536):
            data += chunk
        found = lines_of(data)
        dropped = sum(line.get("dropped", 0) for line in found)
        told = [line for line in found if "dropped" not in line]
        assert dropped > 0, len(found)
        assert dropped + len(told) >= total and [e["seq"] for e in told] == sorted(
            e["seq"] for e in told), (dropped, len(told))


def test_watch_at_most(world):
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        kept = []
        for _ in range(32):
            kept.append(socket.socket(socket.AF_UNIX))
            kept[-1].connect(daemon.control)
            kept[-1].sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: watchers(guard) == 32, 20, lambda: f"32 watchers: {guard.status()}")
        done = world.ctl("watch", environment=at(guard))
        assert done.returncode == 3 and "32 watch already" in done.stderr, done
        for each in kept:
            each.close()
        wait_for(lambda: watchers(guard) == 0, 20, "all to be gone")


def explain(world, guard, *words):
    done = world.ctl("explain", "--json", *words, environment=at(guard))
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def line_of(answer):
    return int(answer["rule"].split(":")[1])


def test_explain_a_program(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(f"10.66.0.1:443 stream tcp * * allow\n"
                    f"10.66.0.1 * udp * * deny\n"
                    f"10.66.0.1 * * 1000 {PYTHON} deny\n"
                    f"10.66.0.1 * * * * allow container\n"
                    f"10.66.0.1 * * * * reject until=2001-01-01\n"
                    f"10.66.0.1 * * * {PYTHON} deny audit\n"
                    f"10.66.0.1 * * * * deny under={PYTHON}\n")
        found = explain(world, guard, "--exe", PYTHON, "--uid", "1000", "10.66.0.1:80")
        assert found["action"] == "BLOCKED" and line_of(found) == 6, found
        assert [each["because"] for each in found["earlier"]] == [["port"], ["protocol"]], found
        assert all(found["dimensions"].values()), found
        assert probe(guard, TARGET, user=1000, group=1000) == ["EPERM"]
        found = explain(world, guard, "--exe", PYTHON, "--uid", "0", "10.66.0.1:80")
        assert found["action"] == "MONITOR" and line_of(found) == 9, found
        assert [each["because"] for each in found["earlier"]] == [
            ["port"], ["protocol"], ["user"], ["place"], ["time"]], found
        found = explain(world, guard, "--exe", PYTHON, "--container", "10.66.0.1:80")
        assert found["action"] == "ALLOWED" and line_of(found) == 7, found
        scope = f"/x.slice/docker-{'0123456789abcdef' * 4}.scope/init"
        found = explain(world, guard, "--exe", PYTHON, "--cgroup", scope, "10.66.0.1:80")
        assert found["action"] == "ALLOWED" and line_of(found) == 7, found
        found = explain(world, guard, "--exe", PYTHON, "--host", "--cgroup", scope, "10.66.0.1:80")
        assert found["action"] == "MONITOR" and line_of(found) == 9, found
        found = explain(world, guard, "--exe", PYTHON, "--proto", "udp", "10.66.0.1:443")
        assert found["action"] == "BLOCKED" and line_of(found) == 5, found
        found = explain(world, guard, "--exe", "/bin/sh", "--parent", PYTHON, "10.66.0.1:80")
        assert found["action"] == "BLOCKED" and line_of(found) == 10, found
        found = explain(world, guard, "--exe", "/bin/sh", "10.66.0.1:80")
        assert found["action"] == "ALLOWED" and "rule" not in found, found
        assert found["earlier"][-1]["because"] == ["ancestry"], found
        text = world.ctl("explain", "--exe", PYTHON, "[fd66::1]:80", environment=at(guard))
        assert text.stdout.startswith("ALLOWED: no line matches\n"), text


def spawn(guard, user, group):
    """A process under the hooks that stays until it is written to."""
    process = guard.spawn(PYTHON, "-c", "print(1, flush=True); input()", user=user, group=group)
    assert process.stdout.readline() == "1\n"
    return process


def test_explain_a_process(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(f"10.66.0.1:1-79 * * * * deny\n10.66.0.1 * * 1000 {PYTHON} deny\n")
        waiting = spawn(guard, 1000, 1000)
        pid = str(waiting.pid)
        found = explain(world, guard, "--pid", pid, "10.66.0.1:80")

        assert found["action"] == "BLOCKED" and line_of(found) == 5, found
        assert found["process"]["exe"] == PYTHON and found["process"]["uid"] == 1000, found
        assert found["process"]["container"] is False, found
        assert found["process"]["cgroup"].startswith("/egress-test-"), found
        assert [each["because"] for each in found["earlier"]] == [["port"]], found
        found = explain(world, guard, "--pid", pid, "--uid", "7", "10.66.0.1:80")
        assert found["action"] == "ALLOWED" and "rule" not in found, found
        assert found["earlier"][1]["because"] == ["user"], found
        # In the cgroup of a container it is in one.
        inner = f"{guard.cgroup}/libpod-{'0123456789abcdef' * 4}.scope"
        os.mkdir(inner)
        with open(inner + "/cgroup.procs", "w") as procs:
            procs.write(pid)
        found = explain(world, guard, "--pid", pid, "10.66.0.1:80")
        assert found["process"]["container"] is True, found
        waiting.communicate("\n")
        done = world.ctl("explain", "--pid", pid, "10.66.0.1:80", environment=at(guard))
        assert done.returncode == 1, done


def test_alarm(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * * * deny alarm\n10.66.0.2 * * * * allow alarm\n10.66.0.3 * * * * allow\n"
                    "10.66.0.4 * * * * deny\n")
        assert probe(guard, *(f"tcp,10.66.0.{i},80" for i in (1, 2, 3, 4))) == [
            "EPERM", "ECONNREFUSED", "ECONNREFUSED", "EPERM"]
        guard.event(addr="10.66.0.4")
        alarms = [json.loads(line.split("warning: ", 1)[1])["addr"] for line in guard.daemon.log().splitlines()
                  if "warning: {" in line]
        assert alarms == ["10.66.0.1", "10.66.0.2"], guard.daemon.log()


def test_explain_nothing(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n")
    done = world.ctl("explain", "--exe", "/bin/sh", "10.66.0.1:80",
                     environment={"EGRESS_CONTROL": daemon.control})
    assert done.returncode == 1 and "no rules of [egress]" in done.stderr, done
    for body in ("[]", "{}", '{"exe":"relative","addr":"::1"}', '{"exe":"/x","addr":"x"}',
                 '{"exe":"/x","addr":"::1","port":65536}', '{"pid":1,"exe":"/x","addr":"::1"}',
                 '{"exe":"/x","addr":"::1","parents":[1]}', '{"exe":7,"addr":"::1"}',
                 '{"exe":"/x","addr":"::1","type":"seqpacket"}'):
        assert daemon.request("POST", "/v1/explain", json.loads(body))[0] == 400, body


def test_status(world):
    with guarded(world) as guard:
        guard.start(DENY)
        text = world.ctl("status", "-v", environment=at(guard), check=True).stdout
        assert "in force, 1 rule, 1 prefix, generation 1" in text, text
        assert "AF_PACKET sockets" in text and "0 lost" in text, text
        assert "1 egress, loaded" in text, text
        world.ctl("detach", environment=at(guard), check=True)
        text = world.ctl("status", environment=at(guard), check=True).stdout
        assert "NOT ENFORCED  1 rule of [egress]: detached" in text, text


if __name__ == "__main__":
    harness.main(globals())
