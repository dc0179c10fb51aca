"""The log of events under a user who floods it: shares, summaries that are JSON, exact counts."""

import json

from ctl_test import lines_of, watchers
from guarded import guarded, harness
from harness import wait_for
from verdict_test import PYTHON

import socket

RULES = """10.66.0.9 * * * * deny alarm
10.66.0.1 * * * * deny
"""
FLOOD = 400

# Each look is another destination, so that the kernel folds nothing.
SPRAY = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, int(sys.argv[2]) + 1):
    try:
        sender.sendto(b"x", (sys.argv[1], port))
    except PermissionError:
        pass
"""


def spray(guard, uid, address, count):
    done = guard.run(PYTHON, "-c", SPRAY, address, str(count), user=uid, group=uid)
    assert done.returncode == 0, done


def logged(daemon):
    """All that is written of events; each must be JSON whatever stands behind it."""
    found = []
    for line in daemon.log().splitlines():
        level, _, text = line.removeprefix("egressd: ").partition(": ")
        if text.startswith("{"):
            found.append((level, json.loads(text)))
        assert "more like it" not in line or "{" not in line, line
    return found


def test_one_users_flood_leaves_the_minute_to_the_others(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        spray(guard, 1000, "10.66.0.1", FLOOD)
        wait_for(lambda: guard.status()["events"]["read"] >= FLOOD, 30, "the flood to be read")
        spray(guard, 1001, "10.66.0.1", 3)
        spray(guard, 1000, "10.66.0.9", 2)  # the flooder's own alarms, too
        wait_for(lambda: guard.status()["events"]["read"] >= FLOOD + 5, 30, "all to be read")
        mine = wait_for(lambda: len(guard.events(uid=1001)) == 3 and guard.events(uid=1001), 10,
                        lambda: f"the other's events: {daemon.log()[-2000:]}")
        assert all(event["action"] == "BLOCKED" for event in mine), mine
        alarms = [event for level, event in logged(daemon) if level == "warning"]
        assert [event["addr"] for event in alarms] == ["10.66.0.9"] * 2, alarms
        told = guard.status()["log"]["blocked"]
        assert told["written"] + told["summed_up"] == FLOOD + 3, told
        daemon.stop()  # which tells what a minute's end would
        events = [event for _, event in logged(daemon)]
        flood = [e for e in events if e.get("uid") == 1000 and e["addr"] == "10.66.0.1"]
        (summary,) = [e["summary"] for e in events if "summary" in e]
        assert 0 < len(flood) < FLOOD, len(flood)
        assert summary["events"] == FLOOD - len(flood), (summary, len(flood))
        assert summary["uid"] == 1000 and summary["rule"] == flood[0]["rule"], summary
        assert summary["since"] <= summary["time"] and summary["kind"] == "blocked", summary


def test_a_watcher_of_one_user_loses_nothing_to_another(world):
    with guarded(world) as guard:
        daemon = guard.start(RULES)
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(daemon.control)
        peer.sendall(b"GET /v1/events?uid=1001&action=BLOCKED HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: watchers(guard) == 1, 20, "the watcher to be known")
        # It does not read meanwhile; the flood alone would fill its queue several times.
        spray(guard, 1000, "10.66.0.1", 4000)
        spray(guard, 1001, "10.66.0.1", 5)
        wait_for(lambda: guard.status()["events"]["read"] >= 4005, 60, "all to be read")
        daemon.stop()
        data = b""
        while piece := peer.recv(65536):
            data += piece
        found = lines_of(data)
        assert [event["port"] for event in found] == [1, 2, 3, 4, 5], found
        assert {event["uid"] for event in found} == {1001}, found


harness.main(globals())
