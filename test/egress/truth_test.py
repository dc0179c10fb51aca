"""What status, selftest, events and metrics say of the rules in force is what the kernel does, and one thing."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess

from guarded import guarded, harness
from harness import wait_for
from selftest_test import BPF, PINS, detach_link, selftest
from verdict_test import probe, servers

TARGET = "tcp,10.66.0.1,80"
DENY = "[local]\n2222 stream tcp * * 3 1h\n[egress]\n10.66.0.1 * * * * deny\n"
ALLOW = DENY.replace("deny", "allow log")


def metric(guard, name):
    text = guard.daemon.get("/metrics")[1]
    return int(re.search(rf"^egress_{name} (\d+)$", text, re.M)[1])


def reload(guard, rules):
    with open(guard.daemon.conf, "w") as file:
        file.write(rules)
    return guard.daemon.request("POST", "/v1/reload", timeout=60 * harness.PATIENCE)


def check_everywhere(guard, generation, refused=True):
    """They all name this generation, and the kernel goes by it."""
    assert probe(guard, TARGET) == ["EPERM" if refused else "ok"]
    status = guard.status()
    assert (status["state"], status["generation"], status["last_error"]) == ("in force", generation, ""), status
    guard.event(generation=generation, action="BLOCKED" if refused else "ALLOWED", addr="10.66.0.1")
    done = selftest(guard, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["enforced"] and answer["generation"] == generation, done
    assert (metric(guard, "generation"), metric(guard, "enforced")) == (generation, 1)


def test_one_place(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(DENY)
        check_everywhere(guard, 1)
        # A reload says the truth: what it answers is what the kernel does from then on.
        code, answer = reload(guard, ALLOW)
        assert code == 200, (code, answer)
        check_everywhere(guard, 2, refused=False)
        assert reload(guard, DENY)[0] == 200
        check_everywhere(guard, 3)
        # The numbers go on over restarts, whatever has ended the daemon before.
        guard.daemon.stop(signal.SIGKILL)
        guard.start_with(DENY)
        check_everywhere(guard, 4)


def test_a_start_that_fails(world):
    """The rules of before go on in the kernel, and that is what is said."""
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(DENY).stop(signal.SIGKILL)
        guard.daemon = world.daemon(DENY, "-G", world.path("none"))
        wait_for(lambda: "cannot open the cgroup" in guard.status()["last_error"], 60, "the cgroup to be missed")
        assert probe(guard, TARGET) == ["EPERM"]
        status = guard.status()
        assert (status["state"], status["generation"], status["rules"]) == ("in force", 1, None), status
        assert (metric(guard, "generation"), metric(guard, "enforced")) == (1, 1)
        text = world.ctl("status").stdout
        assert "in force, generation 1" in text and "NOT ENFORCED" not in text, text
        done = selftest(guard)
        assert done.returncode == 1 and "an earlier start" in done.stderr, done
        code, answer = reload(guard, ALLOW)
        assert code == 500 and "all rules before stay" in str(answer), (code, answer)
        assert probe(guard, TARGET) == ["EPERM"]


def pin_that_stays(path):
    """Pins a map that nobody can unpin: something is mounted on it."""
    attributes = struct.pack("<5I", 2, 4, 8, 1, 0)
    made = harness.libc.syscall(BPF, 0, attributes, len(attributes))  # BPF_MAP_CREATE
    name = ctypes.create_string_buffer(path.encode())
    pin = struct.pack("<QII", ctypes.addressof(name), made, 0)
    assert made >= 0 and harness.libc.syscall(BPF, 6, pin, len(pin)) == 0, os.strerror(ctypes.get_errno())
    os.close(made)
    harness.run("mount", "--bind", path, path)


def test_what_is_left_behind(world):
    """Nothing after the switch makes it a failure, and what cannot be taken away is tried again."""
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(ALLOW).stop()
        os.mkdir(f"{PINS}/abi-1")
        os.chown(f"{PINS}/abi-1", os.stat(PINS).st_uid, os.stat(PINS).st_gid)
        pin_that_stays(f"{PINS}/abi-1/link_of_before")
        guard.start_with(ALLOW)
        code, answer = reload(guard, DENY)
        assert code == 200, (code, answer)
        assert probe(guard, TARGET) == ["EPERM"]
        status = guard.status()
        assert (status["state"], status["generation"], status["other_version"]) == ("in force", 3, True), status
        assert "cannot remove" in status["last_error"], status
        text = world.ctl("status").stdout
        assert "NOT ALONE" in text and "NOT ENFORCED" not in text, text
        assert "the rules before are not taken away yet" in guard.daemon.log()
        if not os.environ.get("EGRESS_TEST_AS_INSTALLED"):  # which has mounts of its own
            harness.run("umount", f"{PINS}/abi-1/link_of_before")
            wait_for(lambda: guard.status()["last_error"] == "", 20, "it to be taken away")
            assert not guard.status()["other_version"] and guard.status()["generation"] == 3


def test_overtaken(world):
    """Rules that come into force are said to have, even where others have come meanwhile."""
    with guarded(world) as guard:
        guard.start_with(DENY)
        lines = "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32\n" for n in range(200000))
        os.mkdir(world.path("egress.d"))
        world.write("egress.d/long", lines)
        command = [harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "reload", "--force"]
        for _ in range(3):
            with open(guard.daemon.conf, "w") as file:
                file.write(DENY + "@long * * * * deny\n")
            before = guard.status()["generation"]
            first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            reading = lambda: guard.daemon.status()["rules"]["reading"]  # noqa: E731
            wait_for(lambda: reading() or first.poll() is not None, 60, "the list to be read")
            wait_for(lambda: not reading(), 60, "its end")  # now it is being made, or waits for that
            code, answer = reload(guard, ALLOW)
            assert code == 200, answer
            came = first.wait(60 * harness.PATIENCE) == 0
            assert guard.status()["generation"] == before + 1 + came, (first.stdout.read(), guard.status())


class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, world):
        self.path = world.path("notify.sock")
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.bind(self.path)
        os.chmod(self.path, 0o777)
        self.inbox.settimeout(60 * harness.PATIENCE)
        self.environment = {"NOTIFY_SOCKET": self.path}

    def until(self, wanted):
        """Reads until a status line has that in it, and returns the line."""
        while True:
            for line in self.inbox.recv(65536).decode().split("\n"):
                if line.startswith("STATUS=") and wanted in line:
                    return line[len("STATUS="):]


def test_the_service_manager_is_told(world):
    servers(world, 80)
    with guarded(world) as guard:
        manager = Manager(world)
        guard.start_with(DENY, environment=manager.environment)
        assert manager.until("in force") == "1 rules of [egress] in force, generation 1"
        assert guard.daemon.request("DELETE", "/v1/egress")[0] == 200
        assert manager.until("NOT").startswith("NOT ENFORCED: [egress] is detached")
        done = selftest(guard)
        assert done.returncode == 1 and "no rules of [egress] are in force" in done.stderr, done
        assert reload(guard, DENY)[0] == 200
        manager.until("1 rules of [egress] in force, generation 1")
        # Somebody takes every hook off.
        for name in os.listdir(PINS):
            if name.startswith("link_"):
                with contextlib.suppress(AssertionError):  # a tracepoint's cannot be
                    detach_link(name)
        assert "no hook is attached" in manager.until("NOT ENFORCED")
        assert guard.status()["state"] == "not enforced" and metric(guard, "enforced") == 0
        assert selftest(guard).returncode == 1 and probe(guard, TARGET) == ["ok"]
        guard.daemon.stop()
        guard.start_with(DENY, environment=manager.environment)
        manager.until("1 rules of [egress] in force, generation 2")
        assert probe(guard, TARGET) == ["EPERM"]
        guard.daemon.stop()
        guard.start_with(DENY, "-m", environment=manager.environment)
        assert manager.until("monitored") == "NOT ENFORCED: 1 rules of [egress] only monitored, generation 3"
        assert metric(guard, "enforced") == 0 and selftest(guard).returncode == 1
        guard.daemon.stop()
        guard.daemon = world.daemon(DENY, "-G", world.path("none"), environment=manager.environment)
        line = manager.until("cannot open the cgroup")  # so the kernel goes on to monitor
        assert line.startswith("NOT ENFORCED: rules of [egress] only monitored, generation 3; "), line
        assert world.ctl("detach").returncode == 0
        manager.until("NOT ENFORCED: [egress] is detached")
        assert reload(guard, DENY)[0] == 500
        assert manager.until("rules of").startswith("NOT ENFORCED: rules of [egress]; cannot open the cgroup")


def test_as_the_unit_has_it(world):
    """What runs as installed really is: by the kernel's own word."""
    if not os.environ.get("EGRESS_TEST_AS_INSTALLED"):
        raise harness.Skip("only as installed")
    with guarded(world) as guard:
        guard.start_with(DENY)
        with open(f"/proc/{guard.daemon.process.pid}/status") as file:
            is_ = dict(line.split(":", 1) for line in file.read().splitlines())
        assert 0 not in map(int, is_["Uid"].split() + is_["Gid"].split() + is_["Groups"].split()), is_
        wanted = 1 << 12 | 1 << 38 | 1 << 39  # CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF
        assert {int(is_[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {wanted}, is_
        assert is_["NoNewPrivs"].strip() == "1" and is_["Seccomp"].strip() == "2", is_
        assert int(is_["Seccomp_filters"]) >= 10, is_


def test_what_the_unit_may_not_see(world):
    if not os.environ.get("EGRESS_TEST_AS_INSTALLED"):
        raise harness.Skip("root sees everything")
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * * /root/program deny\n")
        wait_for(lambda: "/root/program: egressd may not look there" in guard.daemon.log(), 20, "a warning")


def test_the_unit_and_its_copy_cannot_part(world):
    import as_unit
    path = os.path.join(harness.BUILD, "etc/systemd/egressd.service")
    settings = as_unit.read_unit(path)
    assert settings["User"] == ["egress"] and len(settings["SystemCallFilter"]) == 3, settings
    for key, value in (("ProtectEverything", "yes"), ("ProtectHome", "tmpfs"), ("ProtectSystem", "full")):
        try:
            as_unit.Unit({**settings, key: [value]}, "/run/none")
            raise harness.Failure(f"{key}={value} passed")
        except ValueError as error:
            assert "as_unit does not know" in str(error), error


if __name__ == "__main__":
    harness.main(globals())
