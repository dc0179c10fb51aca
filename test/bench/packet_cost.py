#!/usr/bin/env python3
"""What the packets' hook adds to a datagram.

usage: packet_cost.py         EGRESS_TEST_BUILD: the build directory

Root. As hook_cost.py, which measures each call against one outside of the hooks; here by what the hook has
to do: nothing (a socket that is not connected, judged by sendmsg), to find that it has let the socket
pass, or to judge in full (a raw socket). Prints, judges nothing.
"""

import fcntl
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "egress"))

from guarded import guarded, harness  # noqa: E402 (found by the line above)
from hook_cost import measure, rules_text, show  # noqa: E402

def costs(world, guard, outside):
    fixed = world.write("fixed", "10.66.0.9\n")
    print(f"{'UDP':58} {'plain':>6} {'hooked':>6} {'more':>6} (quartiles), ns a call", flush=True)
    for rules in (1, 1000):
        guard.start(rules_text(rules, 0))
        for _ in range(3):
            show(f"send, connected, {rules} rules", measure(guard, outside, "send", fixed))
        show(f"sendto, {rules} rules", measure(guard, outside, "sendto", fixed))
        show(f"connect, {rules} rules", measure(guard, outside, "connect", fixed))
        show(f"sendto, raw, {rules} rules", measure(guard, outside, "raw", fixed))
        guard.daemon.stop()


def test_cost(world):
    world.ip("route", "add", "local", "default", "dev", "lo")
    with guarded(world) as guard:
        outside = guard.cgroup + "-outside"
        os.mkdir(outside)
        held = os.open(outside, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        try:
            costs(world, guard, outside)
        finally:
            os.close(held)
            os.rmdir(outside)


if __name__ == "__main__":
    harness.main({"test_cost": test_cost})
