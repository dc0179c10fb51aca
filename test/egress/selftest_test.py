"""egressctl selftest: what it says is what this kernel does."""

import ctypes
import json
import os
import platform
import struct

from guarded import guarded, harness
from harness import wait_for
from verdict_test import PYTHON, probe, servers

# Number of bpf(2).
BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 280)
PINS = "/sys/fs/bpf/egress"
RULES = "10.66.0.1 * * * * deny\n"
ALWAYS = ["TCP connect, IPv4", "TCP connect to 0.0.0.0", "TCP connect, IPv6",
          "TCP connect to an IPv4-mapped address", "TCP Fast Open, MSG_FASTOPEN",
          "TCP Fast Open, TCP_FASTOPEN_CONNECT", "TCP connect of another thread",
          "UDP, first datagram after connect, IPv4", "UDP, first datagram after connect, IPv6",
          "UDP send, IPv4", "UDP send, IPv6",
          "UDP send to an IPv4-mapped address", "UDP send to an IPv4 address by an IPv6 socket",
          "UDP send, family unspecified", "raw socket, IPv4", "raw socket with its own headers",
          "raw socket, IPv6"]


def selftest(guard, *words, **keywords):
    return guard.run(harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "selftest",
                     *words, **keywords)


def paths(guard, status=0, **keywords):
    done = selftest(guard, "--json", **keywords)
    assert done.returncode == status, done
    answer = json.loads(done.stdout)
    assert answer["enforced"] is (status == 0), answer
    return {each["path"]: each for each in answer["paths"]}


def nobody_is_marked(guard):
    return guard.daemon.request("DELETE", "/v1/selftest")[0] == 409


def test_everything_is_enforced(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(RULES)
        found = paths(guard)
        assert all(found[name]["result"] == "enforced" for name in ALWAYS), found
        assert found["identity of this process"]["why"].endswith("/egressctl"), found
        assert not [each for each in found.values() if each["result"] == "not enforced"], found
        # What no hook sees is named, unless the kernel has none of it.
        for name in ("AF_PACKET socket", "tun device", "vsock"):
            assert found[name]["result"] in ("not covered", "not tried"), found
            assert "hook" not in found[name], found
        answer = found["answer to a datagram, by the socket that received it, for 30 seconds"]
        assert answer["result"] == "not covered" and "meant so" in answer["why"], answer
        assert nobody_is_marked(guard)
        event = guard.event(action="BLOCKED", reason="selftest", addr="127.0.0.1", protocol="tcp")
        assert event["comm"] == "egressctl" and "rule" not in event, event
        # The rules decide for everybody else, and again for whom they decided before.
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,fd66::1,80") == ["EPERM", "ok"]
        text = selftest(guard)
        assert text.returncode == 0 and "NOT" not in text.stdout, text
        assert "enforced      connect4     TCP connect, IPv4\n" in text.stdout, text


def test_monitor_mode_is_told(world):
    with guarded(world) as guard:
        guard.start(RULES, "-m")
        text = selftest(guard)
        assert text.returncode == 1 and "NOT ENFORCED: egressd runs with -m" in text.stdout, text
        answer = json.loads(selftest(guard, "--json").stdout)
        assert answer["monitor"] and not answer["enforced"] and answer["state"] == "in force", answer


def detach_link(name):
    """Takes one hook off, as somebody with root and a grudge would: bpf(2), BPF_LINK_DETACH."""
    path = ctypes.create_string_buffer(f"{PINS}/{name}".encode())
    get = struct.pack("<QII", ctypes.addressof(path), 0, 0)
    link = harness.libc.syscall(BPF, 7, get, len(get))
    assert link >= 0, os.strerror(ctypes.get_errno())
    detach = struct.pack("<I", link)
    assert harness.libc.syscall(BPF, 34, detach, len(detach)) == 0, os.strerror(ctypes.get_errno())
    os.close(link)


def test_a_hook_that_is_gone(world):
    with guarded(world) as guard:
        guard.start(RULES)
        detach_link("link_egress_sendmsg6")
        found = paths(guard, 1)
        wrong = [name for name, each in found.items() if each["result"] == "not enforced"]
        assert wrong == ["UDP send, IPv6"], found
        text = selftest(guard)
        assert text.returncode == 1 and "NOT ENFORCED  sendmsg6     UDP send, IPv6\n" in text.stdout, text
        assert "NOT ENFORCED: 1 of " in text.stdout, text
        # This kind of link has no detaching; the pin is all that holds it.
        for name in ("link_egress_write", "link_egress_write_fn"):
            if os.path.exists(f"{PINS}/{name}"):
                os.unlink(f"{PINS}/{name}")
                wait_for(lambda: paths(guard, 1)["delayed send on another process' connection"]["result"] ==
                         "not enforced", 20, "the delayed send to leave")
        detach_link("link_egress_create")
        found = paths(guard, 1)
        assert found["raw socket, IPv4"]["result"] == "not enforced", found
        assert found["TCP connect, IPv4"]["result"] == "enforced", found


def test_killed_halfway(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(RULES)
        waiting = marked(guard)
        assert waiting.stdout.readline() == "EPERM\n"
        # One at a time.
        done = selftest(guard)
        assert done.returncode == 1 and "another process tests the hooks" in done.stderr, done
        waiting.kill()
        waiting.communicate()
        # It is gone, and so is its mark: nobody has to wait for the end of its time.
        wait_for(lambda: selftest(guard).returncode == 0, 20, "the next selftest")
        assert nobody_is_marked(guard)
        assert probe(guard, "tcp,fd66::1,80") == ["ok"]


MARKED = """
import errno, json, socket, sys
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
start = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) + int(sys.argv[2])
body = json.dumps({"started": start})
control.sendall(f"POST /v1/selftest HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
status = control.recv(65536).split()[1].decode()
if status != "200":
    print(status, flush=True)
    sys.exit()
while True:
    try:
        socket.create_connection(("fd66::1", 80)).close()
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    if not sys.stdin.readline():
        break
"""


def marked(guard, skew=0):
    """A process that has itself marked, and stays."""
    return guard.spawn(PYTHON, "-c", MARKED, guard.daemon.control, str(skew))


def again(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_only_the_caller(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(RULES)
        waiting = marked(guard)
        assert waiting.stdout.readline() == "EPERM\n"
        # A child of it would be another process, and so is everybody else.
        assert probe(guard, "tcp,fd66::1,80") == ["ok"]
        assert guard.daemon.request("DELETE", "/v1/selftest")[0] == 200
        assert again(waiting) == "ok"
        waiting.communicate(timeout=30 * harness.PATIENCE)
        # Whose start is not that of the process with its number is not taken for it.
        assert marked(guard, 1).communicate(timeout=30 * harness.PATIENCE)[0] == "404\n"
        assert nobody_is_marked(guard)
        for body in ({}, {"started": "x"}, {"started": -1}, []):
            assert guard.daemon.request("POST", "/v1/selftest", body)[0] == 400, body


def test_the_mark_ends_by_itself(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(RULES)
        waiting = marked(guard)
        assert waiting.stdout.readline() == "EPERM\n"
        wait_for(lambda: again(waiting) == "ok", 60, "the mark to end by itself")
        waiting.communicate(timeout=30 * harness.PATIENCE)


def test_outside_of_the_cgroup(world):
    with guarded(world) as guard:
        guard.start(RULES)
        done = world.ctl("-S", guard.daemon.control, "selftest")
        assert done.returncode == 1 and "outside" in done.stderr, done
        assert nobody_is_marked(guard)


def test_nothing_in_force(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n")
    done = world.ctl("-S", daemon.control, "selftest")
    assert done.returncode == 1 and "no rules of [egress] are in force" in done.stderr, done
    done = world.ctl("-S", world.path("none"), "selftest")
    assert done.returncode == 3, done
    assert world.ctl("selftest", "x").returncode == 2


if __name__ == "__main__":
    harness.main(globals())
