"""Repeats are one event with a count: however they end, the counts add up to the looks."""

import json

from guarded import guarded, harness
from harness import wait_for
from verdict_test import PYTHON

RULES = "10.66.0.1 * * * * deny\n"
LOOKS = 137

# The same thing again and again, then the end.
REPEAT = """
import errno, socket, sys
refused = 0
for _ in range(int(sys.argv[1])):
    try:
        socket.create_connection(("10.66.0.1", 80))
    except PermissionError:
        refused += 1
print(refused)
"""

# For longer than two intervals, from two threads at once; the last second one every tenth.
KEEP_ON = """
import socket, threading, time
end = time.monotonic() + 23
counts = [0, 0]
def go(mine):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while time.monotonic() < end:
        try:
            sender.sendto(b"x", ("10.66.0.1", 53))
        except PermissionError:
            counts[mine] += 1
threads = [threading.Thread(target=go, args=(i,)) for i in (0, 1)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(counts))
"""


def repeat(guard, count):
    done = guard.run(PYTHON, "-c", REPEAT, str(count), user=1000, group=1000)
    assert done.stdout == f"{count}\n", done


def total(guard, **wanted):
    return sum(event["count"] for event in guard.events(**wanted))


def told(guard, count, **wanted):
    return wait_for(lambda: total(guard, **wanted) >= count and guard.events(**wanted), 60,
                    lambda: f"{count} looks to be told: {guard.events(**wanted)}")


def learnt(world):
    done = world.ctl("learn", "--refused", "--json", "-D", harness.DATABASE)
    return [(each["program"], each["uid"], each["count"]) for each in json.loads(done.stdout)]


def test_repeats_that_nothing_follows(world):
    with guarded(world) as guard:
        guard.start(RULES)
        repeat(guard, LOOKS)
        events = told(guard, LOOKS, port=80)
        assert [event["count"] for event in events] == [1, LOOKS - 1], events
        first, rest = events
        # All that the first had and that is known of a process that has ended.
        gone = ("ancestors", "hostname", "time", "count", "seq")
        assert {key: value for key, value in first.items() if key not in gone} == {
            key: value for key, value in rest.items() if key not in gone}, events
        assert rest["exe"] == PYTHON and "ancestors" not in rest and rest["seq"] > first["seq"], rest
        wait_for(lambda: learnt(world) == [(PYTHON, 1000, LOOKS)], 20, lambda: f"{learnt(world)}")
        # Told once: what comes next begins anew.
        repeat(guard, 1)
        assert total(guard) <= LOOKS + 1
        wait_for(lambda: total(guard) == LOOKS + 1, 20, "the next one")


def test_stopped_at_once(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        repeat(guard, LOOKS)
        daemon.stop()
        told(guard, LOOKS)  # the log has a thread of its own
        assert total(guard) == LOOKS, guard.events()
        assert learnt(world) == [(PYTHON, 1000, LOOKS)]


def test_killed_in_between(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        repeat(guard, LOOKS)
        guard.event(count=1)
        daemon.stop(9)
        # What the kernel has counted is told by the next daemon.
        guard.start_with(daemon.conf)
        events = told(guard, LOOKS - 1, port=80)
        assert [event["count"] for event in events] == [LOOKS - 1], events
        assert events[0]["exe"] == PYTHON and events[0]["uid"] == 1000, events


def test_detached_at_once(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        repeat(guard, LOOKS)
        assert daemon.request("DELETE", "/v1/egress", timeout=90)[0] == 200
        told(guard, LOOKS)  # the log has a thread of its own
        assert total(guard) == LOOKS, guard.events()


def test_none_twice_and_none_lost(world):
    with guarded(world) as guard:
        guard.start(RULES)
        done = guard.run(PYTHON, "-c", KEEP_ON)
        sent = int(done.stdout)
        events = told(guard, sent, port=53)
        assert total(guard, port=53) == sent, (sent, [event["count"] for event in events])
        assert len(events) >= 4, events


if __name__ == "__main__":
    harness.main(globals())
