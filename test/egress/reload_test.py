"""Reloads under load: every verdict belongs to one set of rules, and to the last once it is answered."""

import ctypes
import json
import os
import signal
import socket
import struct

from guarded import guarded, harness, may_use_bpf
from harness import wait_for
from selftest_test import BPF, PINS
from verdict_test import PYTHON, probe, servers

# The same numbers of lines mean other verdicts in the other set: whatever is put together from both
# lets through what each of them refuses.
SETS = ("10.66.0.1 * * * * deny\n10.66.0.2 * * * * reject\n* * * * * allow\n",
        "10.66.0.3 * * * * allow\n10.66.0.1 * * * * reject\n10.66.0.2 * * * * deny\n")
WANTED = (["EPERM", "ECONNREFUSED"], ["ECONNREFUSED", "EPERM"])

# Threads that connect all the time, by TCP and UDP; a line on standard input is answered by what is
# the verdict now, its end by what all of them saw.
CLIENT = """
import collections, errno, json, socket, sys, threading
ADDRESSES = ("10.66.0.1", "10.66.0.2")
def outcome(kind, address):
    with socket.socket(socket.AF_INET, kind) as one:
        try:
            if kind == socket.SOCK_STREAM:
                one.connect((address, 80))
            else:
                one.sendto(b"x", (address, 80))
            return "ok"
        except OSError as error:
            return errno.errorcode[error.errno]
seen = collections.Counter()
lock = threading.Lock()
stop = threading.Event()
def loop(kind):
    mine = collections.Counter()
    while not stop.is_set():
        for address in ADDRESSES:
            mine[f"{address} {outcome(kind, address)}"] += 1
    with lock:
        seen.update(mine)
threads = [threading.Thread(target=loop, args=(kind,))
           for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) * 2]
for thread in threads:
    thread.start()
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps([outcome(kind, address) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
                      for address in ADDRESSES]), flush=True)
stop.set()
for thread in threads:
    thread.join()
print(json.dumps(seen))
"""


def client(guard):
    process = guard.spawn(PYTHON, "-c", CLIENT)
    assert process.stdout.readline() == "ready\n"
    return process


def flip(daemon, process, flips):
    for i in range(1, flips + 1):
        with open(daemon.conf, "w") as file:
            file.write("[egress]\n" + SETS[i % 2])
        assert daemon.request("POST", "/v1/reload", timeout=60 * harness.PATIENCE)[0] == 200
        process.stdin.write("now\n")
        process.stdin.flush()
        now = json.loads(process.stdout.readline())
        assert now == WANTED[i % 2] * 2, (i, now)


def test_reload_under_load(world):
    servers(world, 80)
    world.listener("10.66.0.2", 80)
    flips = 120
    with guarded(world) as guard:
        daemon = guard.start(SETS[0])
        process = client(guard)
        try:
            flip(daemon, process, flips)
            out, _ = process.communicate(timeout=60 * harness.PATIENCE)
        finally:
            process.kill()
        seen = json.loads(out)
        # Each of them again and again, and nothing else.
        assert set(seen) == {f"10.66.0.{n} {code}" for n in (1, 2)
                             for code in ("EPERM", "ECONNREFUSED")}, seen
        assert all(count > flips for count in seen.values()), seen
        status = guard.status()
        assert status["generation"] == flips + 1 and status["broken"] == 0, status


def test_without_a_kernel_half(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n")
    assert daemon.request("POST", "/v1/reload")[0] == 200
    with open(daemon.conf, "w") as file:
        file.write("[local]\n2222 stream tcp * * 9 1h\n[egress]\n10.66.0.1 * * * * deny\n")
    done = world.ctl("reload", environment={"EGRESS_CONTROL": daemon.control})
    assert done.returncode == 3, done
    assert "cannot open the cgroup" in done.stderr and "the other sections are" in done.stderr, done
    assert "9 1h" in " ".join(daemon.get("/v1/rules")[1]["text"].split())
    status = daemon.status()["egress"]
    assert status["state"] == "not enforced" and "cgroup" in status["last_error"], status
    daemon.stop()
    # At the start, nobody waits for it for ever, and it is said aloud.
    daemon = ready(world, lambda **keywords: world.daemon(daemon.conf, **keywords))
    wait_for(lambda: "error: started without its rules of [egress] in force" in daemon.log(), 20,
             "the log to say so")


def ready(world, start):
    """The daemon that start() gives, once it has told the service manager that it is ready."""
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = world.path("notify.sock")
    inbox.bind(path)
    os.chmod(path, 0o777)  # as the service manager's own is
    inbox.settimeout(90 * harness.PATIENCE)
    daemon = start(environment={"NOTIFY_SOCKET": path}, wait=False)
    while b"READY=1" not in inbox.recv(4096).split(b"\n"):
        pass
    inbox.close()
    os.unlink(path)
    return daemon


def test_ready_when_in_force(world):
    with guarded(world) as guard:
        conf = world.write("ready.conf", "[egress]\n" + SETS[0])
        guard.daemon = ready(world, lambda **keywords: world.daemon(conf, "-G", guard.cgroup,
                                                                   **keywords))
        status = guard.status()
        if status["state"] != "in force" and not may_use_bpf():
            raise harness.Skip(f"the kernel does not let us: {status['last_error']}")
        assert status["state"] == "in force" and status["rules"] == 3, status


def another_version():
    """Has what is pinned say that another version of egressd made it."""
    path = ctypes.create_string_buffer(f"{PINS}/config".encode())
    get = struct.pack("<QII", ctypes.addressof(path), 0, 0)
    config = harness.libc.syscall(BPF, 7, get, len(get))  # BPF_OBJ_GET
    assert config >= 0, os.strerror(ctypes.get_errno())
    with open(f"/proc/self/fdinfo/{config}") as file:
        size = next(int(line.split()[1]) for line in file if line.startswith("value_size"))
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(size)
    entry = struct.pack("<I4xQQQ", config, ctypes.addressof(key), ctypes.addressof(value), 0)
    assert harness.libc.syscall(BPF, 1, entry, len(entry)) == 0  # BPF_MAP_LOOKUP_ELEM
    struct.pack_into("<I", value, 44, 2)
    assert harness.libc.syscall(BPF, 2, entry, len(entry)) == 0  # BPF_MAP_UPDATE_ELEM
    os.close(config)


def test_upgrade(world):
    """What another version has pinned guards until this one's policy is in force, and goes then."""
    servers(world, 80)
    deny = "10.66.0.1 * * * * deny\n10.66.0.2 * * * * deny\n"
    with guarded(world) as guard:
        guard.start(deny).stop(signal.SIGKILL)
        another_version()
        process = client(guard)
        guard.start(deny)
        assert not [name for name in os.listdir(PINS) if name.startswith("abi")], os.listdir(PINS)
        assert guard.status()["generation"] == 1
        seen = json.loads(process.communicate(timeout=60 * harness.PATIENCE)[0])
        assert seen and all(key.endswith("EPERM") for key in seen), seen
        # One that cannot be loaded leaves the one before in force; detach takes both.
        guard.daemon.stop(signal.SIGKILL)
        another_version()
        os.mkdir(f"{PINS}/abi-2")  # as one leaves it that is killed while it sets them aside
        os.chown(f"{PINS}/abi-2", os.stat(PINS).st_uid, os.stat(PINS).st_gid)
        os.rename(f"{PINS}/link_egress_connect4", f"{PINS}/abi-2/link_egress_connect4")
        guard.daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n[egress]\n" + deny, "-G", world.path("none"))
        wait_for(lambda: "cannot open the cgroup" in guard.status()["last_error"], 60, "the cgroup to be missed")
        status = guard.status()
        assert status["state"] == "in force" and status["other_version"] and status["generation"] == 0, status
        assert "abi-2" in os.listdir(PINS), os.listdir(PINS)
        process = client(guard)
        seen = json.loads(process.communicate(timeout=60 * harness.PATIENCE)[0])
        assert seen and all(key.endswith("EPERM") for key in seen), seen
        guard.daemon.stop()
        assert world.ctl("detach").returncode == 0 and not os.listdir(PINS), os.listdir(PINS)
        process = client(guard)
        assert "10.66.0.1 ok" in process.communicate(timeout=60 * harness.PATIENCE)[0]


def test_a_wrong_line_at_the_start_leaves_the_kernel_its_rules(world):
    servers(world, 80)
    os.mkdir(world.path("egress.d"))
    world.write("egress.d/named", "10.66.0.2\n")
    rules = "@named * * * * deny\n* * * * * allow"
    asked = ("tcp,10.66.0.1,80", "tcp,10.66.0.2,80")
    with guarded(world) as guard:
        guard.start(rules)
        assert probe(guard, *asked) == ["ok", "EPERM"]
        guard.daemon.stop()
        guard.start("nonsense")
        assert probe(guard, *asked) == ["ok", "EPERM"]
        assert "egress.conf:4:" in guard.daemon.status()["rules"]["last_error"], guard.daemon.status()["rules"]
        guard.daemon.stop()
        # The list itself is what is wrong: its lines cannot be read again, and stay in the kernel.
        os.unlink(world.path("egress.d/named"))
        guard.start(rules)
        assert probe(guard, *asked) == ["ok", "EPERM"]
        assert guard.status()["state"] == "in force" and "named" in guard.status()["last_error"], guard.status()
        assert guard.daemon.status()["rules"]["local"] == 1, guard.daemon.status()["rules"]
        world.write("egress.d/named", "10.66.0.1\n")
        assert world.ctl("-S", guard.daemon.control, "reload").returncode == 0
        assert probe(guard, *asked)[0] == "EPERM"
        assert guard.status()["last_error"] == "", guard.status()


if __name__ == "__main__":
    harness.main(globals())
