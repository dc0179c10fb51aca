"""What is lost is counted: a full ring, a daemon that is killed. Sent = received + lost, exactly."""

import re
import signal

from guarded import guarded, harness
from harness import wait_for
from verdict_test import PYTHON

RULES = "10.66.0.0/16 * * * * deny\n"

# Datagrams that differ in their destination: each is an event of its own.
SPRAY = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
third, count = map(int, sys.argv[1:])
for i in range(count):
    try:
        sender.sendto(b"x", (f"10.66.{third}.{i % 250 + 1}", i // 250 + 1))
    except PermissionError:
        pass
"""


def spray(guard, count, third, at_once=1):
    """Sends so many of each process; more than one run on more than one CPU."""
    running = [guard.spawn(PYTHON, "-c", SPRAY, str(third + i), str(count)) for i in range(at_once)]
    assert [process.wait(120) for process in running] == [0] * at_once
    return count * at_once


def events(guard):
    return guard.status()["events"]


def all_read(guard):
    return wait_for(lambda: [events(guard)] if not events(guard)["waiting"] else None, 60,
                    "all events to be read")[0]


def told(guard, pattern):
    return sum(int(number) for number in re.findall(pattern, guard.daemon.log()))


def test_the_ring_is_full(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        sent = spray(guard, 100, 1)
        assert all_read(guard)["lost"] == 0
        daemon.send(signal.SIGSTOP)
        sent += spray(guard, 8000, 2, at_once=2)
        daemon.send(signal.SIGCONT)
        seen = all_read(guard)
        assert seen["lost"] > 0 and seen["missed"] == 0, seen
        assert seen["made"] == sent and seen["read"] + seen["lost"] == sent, (sent, seen)
        losses = guard.status()["losses"]
        assert losses["ring"]["count"] == seen["lost"] == sum(losses["ring"]["cpus"]), losses
        assert losses["processes"]["count"] == losses["broken"]["count"] == 0, losses
        wait_for(lambda: told(guard, r"(\d+) events lost: ") == seen["lost"], 20,
                 lambda: f"the log to tell of {seen}")


def test_killed_and_missed(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        sent = spray(guard, 100, 1)
        before = all_read(guard)
        assert before["read"] == sent, before
        daemon.stop(9)
        # What the ring holds is read by the next.
        sent += spray(guard, 50, 2)
        guard.start_with(daemon.conf)
        few = all_read(guard)
        assert (few["read"], few["missed"], few["lost"]) == (50, 0, 0), few
        assert guard.events(addr="10.66.2.50"), guard.daemon.log()[-2000:]
        assert "0 events missed while no daemon read them, 50 wait" in guard.daemon.log()
        guard.daemon.stop(9)
        # What it does not is counted.
        sent += spray(guard, 8000, 10, at_once=2)
        guard.start_with(daemon.conf)
        after = all_read(guard)
        assert after["missed"] == after["lost"] > 0, after
        assert after["made"] == sent == 150 + after["read"] + after["missed"], (sent, after)
        assert told(guard, r"(\d+) events missed while") == after["missed"], after
        # Told once.
        guard.daemon.stop(9)
        guard.start_with(daemon.conf)
        again = all_read(guard)
        assert again["missed"] == 0 and again["lost"] == after["lost"], again


if __name__ == "__main__":
    harness.main(globals())
