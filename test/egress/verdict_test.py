"""Rules of [egress] in the kernel: real processes, real sockets, each column of a rule."""

import glob
import os
import shutil
import sys

from guarded import guarded, harness
from harness import Skip, run, wait_for

# One that every user may run.
PYTHON = os.path.realpath("/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable)

# Prints "ok" or the name of the errno, per destination: tcp|udp ADDRESS PORT.
PROBE = """
import errno, socket, sys
for word in sys.argv[1:]:
    kind, address, port = word.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        if kind == "tcp":
            socket.create_connection((address, int(port)), timeout=5).close()
        elif kind == "udp":
            socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, int(port)))
        elif kind == "udpc":
            connected = socket.socket(family, socket.SOCK_DGRAM)
            connected.connect((address, int(port)))
            connected.send(b"x")
        elif kind == "raw":
            socket.socket(family, socket.SOCK_RAW, int(port))
        print("ok")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
"""


def probe(guard, *words, program=PYTHON, first=(), **keywords):
    done = guard.run(program, *first, "-c", PROBE, *words, **keywords)
    assert done.returncode == 0, done
    return done.stdout.split()


def renew(guard, daemon, rules):
    before = guard.status()["generation"]
    with open(daemon.conf, "w") as conf:
        conf.write("[local]\n2222 stream tcp * * 3 1h\n[egress]\n" + rules + "\n")
    assert daemon.request("POST", "/v1/reload?force=1")[0] == 200, rules
    wait_for(lambda: guard.status()["generation"] > before, what="the next generation")


def servers(world, *ports):
    for port in ports:
        world.listener("10.66.0.1", port)
        world.listener("fd66::1", port)


def flows():
    """The groups of test/flows/flows.txt: (name, rules, [(the line, word for PROBE, uid, gid, result)])."""
    groups = []
    with open(os.path.join(harness.SOURCE, "test/flows/flows.txt")) as table:
        for line in table.read().splitlines():
            if line.startswith("== "):
                groups.append((line[3:], [], []))
            elif line.startswith("? "):
                _, kind, address, port, *options, _, result = line.split()
                ids = dict(option.split("=") for option in options)
                groups[-1][2].append((line, f"{kind},{address},{port}", int(ids.get("uid", 0)),
                                      int(ids.get("gid", 0)), result))
            elif line and not line.startswith("#"):
                groups[-1][1].append(line)
    return groups


def test_table_of_flows(world):
    """What test/bpf/flows_test.cpp asks of the native verdict, asked of the kernel."""
    servers(world, 80, 443)
    local = "[local]\n2222 stream tcp * * 3 1h\n[egress]\n"
    with guarded(world) as guard:
        daemon = guard.start("192.0.2.1 * * * * deny\n")
        asked = 0
        for name, rules, table in flows():
            with open(daemon.conf, "w") as conf:
                conf.write(local + "\n".join(rules) + "\n")
            assert daemon.request("POST", "/v1/reload?force=1")[0] == 200, name
            for line, word, uid, gid, result in table:
                ids = {"user": uid, "group": gid} if uid or gid else {}
                assert probe(guard, word, **ids) == [result], (name, line)
                asked += 1
        assert asked > 40, asked


def test_address_and_port(world):
    servers(world, 80, 443)
    with guarded(world) as guard:
        guard.start("10.66.0.1:80 * * * * deny\n[fd66::1]:443 * * * * reject\n")
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,10.66.0.1,443", "tcp,fd66::1,80",
                     "tcp,fd66::1,443") == ["EPERM", "ok", "ok", "ECONNREFUSED"]
        assert probe(guard, "udp,10.66.0.1,80", "udpc,10.66.0.1,80", "udp,10.66.0.1,81",
                     "udp,fd66::1,443") == ["EPERM", "EPERM", "ok", "ECONNREFUSED"]
        # IPv4 through an IPv6 socket is IPv4.
        assert probe(guard, "tcp,::ffff:10.66.0.1,80", "udp,::ffff:10.66.0.1,80") == ["EPERM"] * 2
        event = guard.event(action="BLOCKED", addr="10.66.0.1", port=80, protocol="tcp")
        assert event["exe"] == PYTHON and event["uid"] == 0 and event["user"] == "root", event
        assert event["rule"].endswith(":4:1") and event["reason"] == "deny", event
        assert event["container"] is False and event["family"] == "ipv4", event
        assert event["cgroup"].startswith("/egress-test-"), event


def test_zero_and_mapped_addresses(world):
    """The kernel connects the zero address to itself; IPv4 in the form of IPv6 is IPv4."""
    servers(world, 81)
    with guarded(world) as guard:
        guard.start("127.0.0.1:80 * * * * deny\n[::1]:80 * * * * reject\n"
                    "0.0.0.0/0:81 * * * * deny\n[::]/0:81 * * * * reject\n")
        for kind in ("tcp", "udp", "udpc"):
            # The packet hook, which judges datagrams of a connected socket, has only one error.
            rejected = "EPERM" if kind == "udpc" else "ECONNREFUSED"
            assert probe(guard, *(f"{kind},{address},80" for address in (
                "0.0.0.0", "::ffff:0.0.0.0", "::ffff:127.0.0.1", "::"))) == ["EPERM"] * 3 + [rejected]
            assert probe(guard, *(f"{kind},{address},81" for address in (
                "10.66.0.1", "::ffff:10.66.0.1", "0.0.0.0", "::ffff:0.0.0.0", "fd66::1", "::"))) == [
                    "EPERM"] * 4 + [rejected] * 2
        assert guard.event(port=80, action="BLOCKED", family="ipv6", addr="::1")["reason"] == "reject"
        assert guard.event(port=80, action="BLOCKED", family="ipv4", addr="127.0.0.1")["reason"] == "deny"


def test_owner_and_group(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * 1000 * deny\n10.66.0.1 * * :2000 * deny\n")
        target = "tcp,10.66.0.1,80"
        assert probe(guard, target) == ["ok"]
        assert probe(guard, target, user=1000, group=1000) == ["EPERM"]
        assert probe(guard, target, user=1001, group=1000) == ["ok"]
        assert probe(guard, target, user=1001, group=2000) == ["EPERM"]


def copy_of(world, name):
    path = world.path(name)
    shutil.copy(PYTHON, path)
    return path


def test_program(world):
    servers(world, 80)
    with guarded(world) as guard:
        copy = copy_of(world, "other-python")
        hard = world.path("hard-link")
        os.link(copy, hard)
        os.symlink(copy, world.path("soft-link"))
        guard.start(f"10.66.0.1 * * * {copy} deny\n")
        target = "tcp,10.66.0.1,80"
        assert probe(guard, target) == ["ok"]
        assert probe(guard, target, program=copy) == ["EPERM"]
        assert probe(guard, target, program=hard) == ["EPERM"]
        assert probe(guard, target, program=world.path("soft-link")) == ["EPERM"]
        # A copy is another program.
        assert probe(guard, target, program=copy_of(world, "copy")) == ["ok"]
        # A new file under the same name is the program from its first moment.
        shutil.copy(PYTHON, world.path("new"))
        os.rename(world.path("new"), copy)
        assert probe(guard, target, program=copy) == ["EPERM"]


def loader():
    """What the kernel starts dynamic programs with; it runs any of them when it is started itself."""
    for pattern in ("/lib64/ld-linux*.so.*", "/lib/ld-linux*.so.*", "/lib64/ld64.so.*"):
        for path in glob.glob(pattern):
            if run(path, PYTHON, "-c", "", check=False).returncode == 0:
                return path
    raise Skip("no loader here runs " + PYTHON)


def test_run_by_the_loader(world):
    """It is the program then, and what it runs is unknown: each line that refuses some program matches."""
    servers(world, 80)
    ld, target = loader(), "tcp,10.66.0.1,80"

    def loaded(*arguments):
        return probe(guard, *arguments, target, program=ld, first=(PYTHON,))

    with guarded(world) as guard:
        copy = copy_of(world, "other-python")
        os.mkdir(world.path("tree"))
        os.link(copy, world.path("tree/python"))
        own = world.path("loader")
        shutil.copy(ld, own)
        daemon = guard.start(f"10.66.0.1 * * * {copy} deny\n")
        assert probe(guard, target) == ["ok"]
        assert probe(guard, target, program=ld, first=(copy,)) == ["EPERM"]
        assert guard.event(action="BLOCKED", addr="10.66.0.1")["exe"] == os.path.realpath(ld)
        assert loaded() == ["EPERM"]  # for all the hooks know, it is `copy`
        for refuses in (f"10.66.0.1 * * * {world.path('tree')}/** deny", "10.66.0.1 * * * fetcher deny"):
            renew(guard, daemon, refuses)
            assert (loaded(), probe(guard, target)) == (["EPERM"], ["ok"]), refuses
        # What allows a program does not match; what names the loader does.
        renew(guard, daemon, f"10.66.0.1 * * * {PYTHON} allow\n10.66.0.1 * * * * deny")
        assert (loaded(), probe(guard, target)) == (["EPERM"], ["ok"])
        renew(guard, daemon, f"10.66.0.1 * * * {ld} allow\n10.66.0.1 * * * {copy} deny")
        assert loaded() == ["ok"]
        # Nobody else's program is refused, and a line for any program is no refusal of some.
        renew(guard, daemon, f"10.66.0.1 * * * {copy} deny\n[fd66::1] * * * * deny")
        assert probe(guard, target, program=copy_of(world, "third")) == ["ok"]
        # A loader of one's own is like a copy of the program.
        assert probe(guard, target, program=own, first=(copy,)) == ["ok"]
        # Lines with nothing but allow make nothing of it.
        renew(guard, daemon, f"10.66.0.1 * * * {copy} allow")
        assert loaded() == ["ok"]


def test_command_and_tree(world):
    servers(world, 80)
    with guarded(world) as guard:
        os.mkdir(world.path("tree"))
        os.mkdir(world.path("tree/below"))
        inside = copy_of(world, "tree/below/python")
        named = copy_of(world, "fetcher")
        guard.start(f"10.66.0.1 * * * {world.path('tree')}/** deny\n10.66.0.1 * * * fetcher reject\n")
        target = "tcp,10.66.0.1,80"
        assert probe(guard, target) == ["ok"]
        assert probe(guard, target, program=inside) == ["EPERM"]
        assert probe(guard, target, program=named) == ["ECONNREFUSED"]


def test_the_first_line_decides(world):
    servers(world, 80, 443)
    with guarded(world) as guard:
        guard.start("10.66.0.1:443 stream tcp * * allow\n10.66.0.0/16 * * * * deny\n")
        assert probe(guard, "tcp,10.66.0.1,443", "tcp,10.66.0.1,80", "tcp,fd66::1,80") == [
            "ok", "EPERM", "ok"]


def test_monitor_blocks_nothing(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * * * deny\n", "-m")
        assert probe(guard, "tcp,10.66.0.1,80") == ["ok"]
        assert guard.event(action="MONITOR", addr="10.66.0.1")["reason"] == "deny, monitoring only"


def test_audit_records(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * * * deny audit\n")
        assert probe(guard, "tcp,10.66.0.1,80") == ["ok"]
        assert guard.event(action="MONITOR", addr="10.66.0.1")["reason"] == "deny, audit"


def test_verdicts_outlive_the_daemon(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start("10.66.0.1 * * * * deny\n")
        daemon.stop(9)
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,fd66::1,80") == ["EPERM", "ok"]
        guard.start("[fd66::1] * * * * deny\n")
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,fd66::1,80") == ["ok", "EPERM"]
        # What was refused while nobody listened is told now.
        assert guard.event(action="BLOCKED", addr="10.66.0.1")


def test_reload_replaces_the_rules(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start("10.66.0.1 * * * * deny\n")
        before = guard.status()["generation"]
        world.write("egress.conf", "[local]\n2222 stream tcp * * 3 1h\n[egress]\n[fd66::1] * * * * deny\n")
        assert daemon.request("POST", "/v1/reload")[0] == 200
        wait_for(lambda: guard.status()["generation"] > before, what="the next generation")
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,fd66::1,80") == ["ok", "EPERM"]


def test_raw_sockets(world):
    with guarded(world) as guard:
        guard.start("* raw * * * deny\n", "-v")
        told = probe(guard, "raw,10.66.0.1,1", "raw,::1,58", "udp,10.66.0.1,9")
        assert told == ["EPERM", "EPERM", "ok"], (told, guard.status())


if __name__ == "__main__":
    harness.main(globals())
