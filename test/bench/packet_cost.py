#!/usr/bin/env python3
"""What the packets' hooks add to a datagram that goes out, and to what comes in.

usage: packet_cost.py         EGRESS_TEST_BUILD: the build directory

Root. As hook_cost.py, which measures each call against one outside of the hooks; here by what the hook has
to do: nothing (a socket that is not connected, judged by sendmsg), to find that it has let the socket
pass, or to judge in full (a raw socket). `receive` and `tcp` show the hook of what comes in, `echo` both,
for a service that answers. Prints, judges nothing.
"""

from hook_cost import harness, measure, rules_text, show, two_cgroups


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
        for call in ("receive", "echo", "tcp"):
            for _ in range(3):
                show(f"{call}, {rules} rules", measure(guard, outside, call, fixed))
        guard.daemon.stop()


def test_cost(world):
    with two_cgroups(world) as (guard, outside):
        costs(world, guard, outside)


if __name__ == "__main__":
    harness.main({"test_cost": test_cost})
