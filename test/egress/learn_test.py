"""What the traffic was, in the database, and the rules that egressctl learns from it."""

import json
import os
import pwd
import subprocess

from guarded import guarded, harness
from harness import run, wait_for
from verdict_test import PYTHON, copy_of, probe, servers

DENY = "* * * * * deny\n"
NOBODY = pwd.getpwnam("nobody").pw_uid  # that there is: lines with other users are warned of


def learn(world, *words):
    done = world.ctl("learn", "-D", harness.DATABASE, *words)
    assert done.returncode in (0, 1), done
    return done.stdout


def lessons(world, *words):
    return json.loads(learn(world, "--json", *words))


def learnt(world, count, *words):
    """The lessons once what was seen is in the database."""
    def all_there():
        found = lessons(world, *words)
        return found if len(found) >= count else None
    return wait_for(all_there, 60, lambda: f"{count} lessons: {learn(world)}")


def lines_of(text):
    return [line for line in text.splitlines() if line and not line.startswith("#") and line != "[egress]"]


def traffic(guard, hash_named):
    return (probe(guard, "tcp,10.66.0.1,80", "tcp,10.66.0.1,443", "udp,10.66.0.2,5353") +
            probe(guard, "tcp,fd66::1,80", user=NOBODY, group=NOBODY) +
            probe(guard, "udpc,10.66.0.3,5000", program=hash_named))


def test_monitor_learn_apply(world):
    servers(world, 80, 443)
    with guarded(world) as guard:
        hash_named = copy_of(world, "py#thon")
        spaced = copy_of(world, "py thon")
        guard.start(DENY, "-m")
        assert traffic(guard, hash_named) == ["ok"] * 5
        assert probe(guard, "tcp,10.66.0.1,80", program=spaced) == ["ok"]
        found = learnt(world, 5)
        assert len(found) == 5, found
        by_user = [each for each in found if each["uid"] == NOBODY]
        assert by_user[0]["destination"] == "[fd66::1]" and by_user[0]["program"] == PYTHON, found
        assert [each for each in found if each["ports"] == ["80", "443"]], found
        assert all(each["refusing"][0].endswith(":4:1") for each in found), found
        text = learn(world)
        # What no line can say is a comment, and the rest is good as it is.
        assert "\n# not written: " + spaced in text and len(lines_of(text)) == 4, text
        conf = world.write("learnt.conf", text)
        done = run(harness.artefact("daemon/egressd"), "-n", "-c", conf, check=False)
        assert done.returncode == 0 and not done.stderr, (done, text)
        guard.daemon.stop()
        guard.start_with(text + DENY)
        assert traffic(guard, hash_named) == ["ok"] * 5
        assert probe(guard, "tcp,10.66.0.1,80", program=spaced) == ["EPERM"]
        assert probe(guard, "tcp,10.66.0.2,80", "tcp,10.66.0.1,81", "udp,10.66.0.2,443",
                     "udp,10.66.0.1,80") == ["EPERM"] * 4
        assert probe(guard, "tcp,fd66::1,80") == ["EPERM"]


def test_a_member_of_the_group_learns_the_same(world):
    """Who may ask the daemon and not read its files; also of a program whose path is no UTF-8."""
    if not os.path.isdir("/var/lib"):
        raise harness.Skip("there is no /var/lib")
    harness.need_reachable()
    with open("/etc/group") as before, open(world.path("group"), "w") as file:
        file.write("".join(line for line in before if not line.startswith("egress:")) + "egress:x:54321:\n")
    if harness.libc.mount(world.path("group").encode(), b"/etc/group", None, 4096, None) != 0:
        raise harness.Skip("cannot mount a file")
    harness.mount("tmpfs", "/var/lib")
    os.mkdir("/var/lib/egress", 0o700)
    servers(world, 80, 443)
    with guarded(world) as guard:
        odd = copy_of(world, os.fsdecode(b"py\xff"))
        guard.start(DENY, "-m", database="/var/lib/egress")
        assert traffic(guard, copy_of(world, "py#thon")) == ["ok"] * 5
        assert probe(guard, "tcp,10.66.0.1,80", program=odd) == ["ok"]
        mine = wait_for(lambda: (found := json.loads(world.ctl("learn", "--json").stdout)) and len(found) >= 5 and
                        world.ctl("learn").stdout, 60, "the lessons")

        def as_user(group, *words):
            return subprocess.run([harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "learn", *words],
                                  capture_output=True, text=True, user=harness.NOBODY, group=group, extra_groups=[])
        done = as_user(54321)
        assert done.returncode == 0 and done.stdout == mine, (done, mine)
        assert as_user(54321, "--since", "1h").stdout == mine
        assert as_user(54321, "--json").stdout == world.ctl("learn", "--json").stdout
        done = as_user(harness.NOBODY)
        assert done.returncode == 3 and not done.stdout and "egress" in done.stderr, done
        # Who names a directory wants this one, whatever the daemon has.
        assert as_user(54321, "-D", "/var/lib/egress").returncode == 3


def test_counts_survive(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(DENY, "-m")
        for _ in range(3):
            assert probe(guard, "tcp,10.66.0.1,80") == ["ok"]
        wait_for(lambda: sum(each["count"] for each in lessons(world)) == 3, 60,
                 lambda: f"three to be counted: {lessons(world)}")
        conf = guard.daemon.conf
        guard.daemon.stop(9)
        assert sum(each["count"] for each in lessons(world)) == 3  # without a daemon
        guard.start_with(conf, "-m")
        assert probe(guard, "tcp,10.66.0.1,80") == ["ok"]
        found = wait_for(lambda: [each for each in lessons(world) if each["count"] == 4], 60,
                         lambda: f"the fourth to be added: {lessons(world)}")
        assert found[0]["first"] <= found[0]["last"] and len(lessons(world)) == 1, found
        guard.daemon.stop()
        # What is forgotten on purpose is forgotten whole.
        guard.start_with(conf, "-f")
        assert lessons(world) == []


def test_what_is_refused_is_left_out(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * * * deny\n")
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,fd66::1,80") == ["EPERM", "ok"]
        assert [each["destination"] for each in learnt(world, 1)] == ["[fd66::1]"]
        wait_for(lambda: len(lessons(world, "--refused")) == 2, 60, "the refused one")
        assert "1 refused ones are left out" in learn(world)
        assert lessons(world, "--since", "1h") == lessons(world)


def test_a_selftest_is_no_traffic(world):
    servers(world, 80)
    with guarded(world) as guard:
        # Of what it makes before it is marked one is refused, the other let through without a line.
        guard.start("10.66.0.1 * * * * deny\n* raw * * * deny\n")
        ctl = harness.artefact("ctl/egressctl")
        done = guard.run(ctl, "-S", guard.daemon.control, "selftest")
        assert done.returncode == 0, done
        assert guard.event(reason="selftest", comm="egressctl")
        assert probe(guard, "tcp,10.66.0.1,80") == ["EPERM"]
        # Read in the order in which they came: when this one is counted, all others would be.
        found = learnt(world, 1, "--refused")
        assert [(each["destination"], each["count"]) for each in found] == [("10.66.0.1", 1)], found


SPRAY = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
first, count = map(int, sys.argv[1:])
for i in range(first, first + count):
    sender.sendto(b"x", (f"10.66.{i // 50 % 200 + 1}.{i % 50 + 1}", 1000 + i // 10000))
"""


def test_a_flood_is_bounded(world):
    with guarded(world) as guard:
        guard.start(DENY, "-m")
        sent, each_time = 6000, 1500
        for first in range(0, sent, each_time):
            done = guard.run(PYTHON, "-c", SPRAY, str(first), str(each_time), user=1000, group=1000)
            assert done.returncode == 0, done
            wait_for(lambda: guard.status()["events"]["waiting"] == 0, 60, "all to be read")
        assert probe(guard, "udp,10.66.0.1,53", user=1001, group=1001) == ["ok"]

        def counts():
            return guard.status()["counts"]
        made = guard.status()["events"]
        assert made["lost"] == 0 and made["made"] == sent + 1, made
        wait_for(lambda: counts()["pending"] == 0, 60, lambda: f"all to be handed on: {counts()}")
        found = wait_for(lambda: [each for each in [lessons(world, "--exact")]
                                  if sum(one["count"] for one in each) == sent + 1], 60,
                         lambda: f"all to be counted: {counts()}")[0]
        assert counts()["rows"] <= 4096 + 512 + 8, counts()
        assert counts()["widened"] > 0 and counts()["overflowed"] == 0, counts()
        wide = [each for each in found if each["destination"] == "*"]
        assert len(wide) == 1 and "more addresses" in wide[0]["remark"], wide
        # Nobody else is the worse for it.
        assert [each for each in found if each["uid"] == 1001], found[-3:]
        near = [each for each in lessons(world) if each["destination"].endswith(".0/24")]
        assert near and all(each["addresses"] >= 8 for each in near), near[:3]


def test_bad_use(world):
    done = world.ctl("learn", "-D", world.path("nowhere"))
    assert done.returncode == 3 and "no egressd has run" in done.stderr, done
    assert world.ctl("learn", "--since", "soon").returncode == 2
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n")
    done = world.ctl("learn", "-D", harness.DATABASE, "--json")
    assert done.returncode == 1 and json.loads(done.stdout) == [], done
    daemon.stop()


if __name__ == "__main__":
    harness.main(globals())
