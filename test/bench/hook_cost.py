#!/usr/bin/env python3
"""What the hooks of [egress] add to connect(), sendto() and send().

usage: hook_cost.py         EGRESS_TEST_BUILD: the build directory; EGRESS_BENCH_QUICK: fewer policies

Root. Everything runs in namespaces, a cgroup and a bpf file system of its own. Per policy: the cost of a
call outside the guarded cgroup, inside it, and the difference, medians of alternating batches
(flow_cost.cpp). Prints, judges nothing.
"""

import fcntl
import os
import random
import socket
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "egress"))

from guarded import guarded, harness  # noqa: E402 (found by the line above)

QUICK = bool(os.environ.get("EGRESS_BENCH_QUICK"))
RULES = (1, 1000) if QUICK else (0, 10, 100, 1000)
PREFIXES = (0, 1_000_000) if QUICK else (0, 1_000, 100_000, 1_000_000)
FLOW_COST = harness.artefact("test/bench/flow_cost")


def text_of(number):
    return socket.inet_ntoa(struct.pack("!I", number))


def rules_text(rules, prefixes, last="* * * * * allow"):
    lines = [f"10.{i >> 8}.{i & 255}.{16 * (i % 8)}/{28 + i % 5 if i % 16 == 0 else 28}:{1000 + i},{3000 + 2 * i}"
             f" * * {1000 + i % 50} /usr/bin/p{i % 100} deny" for i in range(max(rules - 2, 0))]
    if prefixes:
        lines.append("@big * * * * allow")
    if rules:
        lines.append(last)
    return "\n".join(lines)


def measure(guard, outside, call, addresses):
    done = harness.run(FLOW_COST, call, guard.cgroup, outside, addresses, os.environ.get("BATCHES", "200" if QUICK else "600"))
    return [int(word) for word in done.stdout.split()]


def show(what, figures):
    plain, hooked, more, low, high = figures
    print(f"{what:58} {plain:6} {hooked:6} {more:+6} ({low:+} to {high:+})", flush=True)


def matrix(world, guard, outside):
    source = random.Random(1)
    hosts = source.sample(range(0x01000000, 0xdf000000), max(PREFIXES))
    os.makedirs(world.path("egress.d"), exist_ok=True)
    fixed = world.write("fixed", "10.66.0.9\n")
    any_address = world.write("random", "".join(
        text_of(source.randrange(0x01000000, 0xdf000000)) + "\n" for _ in range(1 << 19)))
    print(f"{'UDP':58} {'plain':>6} {'hooked':>6} {'more':>6} (quartiles), ns a call", flush=True)
    for prefixes in PREFIXES:
        chosen = hosts[:prefixes]
        world.write("egress.d/big", "".join(text_of(host) + "\n" for host in chosen))
        hits = world.write("hits", "".join(text_of(host) + "\n" for host in
                                           source.choices(chosen or hosts, k=1 << 19)))
        for rules in RULES:
            guard.start(rules_text(rules, prefixes) or "* * * * * allow")
            if not rules and not prefixes:
                world.write("egress.conf", "[local]\n2222 stream tcp * * 3 1h\n")
                world.ctl("reload", check=True)
                harness.wait_for(lambda: guard.status()["rules"] == 0, 60, "no rules")
            title = f"{rules} rules, {prefixes} hosts in a list:"
            show(f"connect, {title} one address", measure(guard, outside, "connect", fixed))
            if prefixes or rules in (RULES[0], RULES[-1]):
                show(f"connect, {title} any address", measure(guard, outside, "connect", any_address))
            if prefixes:
                show(f"connect, {title} listed", measure(guard, outside, "connect", hits))
            guard.daemon.stop()
    guard.start(rules_text(1000, 0))
    show("sendto, 1000 rules", measure(guard, outside, "sendto", fixed))
    show("send, connected, 1000 rules", measure(guard, outside, "send", fixed))
    guard.daemon.stop()
    guard.start(rules_text(1000, 0, "* * * * * allow log"))
    show("connect, an event for each address", measure(guard, outside, "connect", any_address))
    show("connect, events of one address folded", measure(guard, outside, "connect", fixed))


def test_cost(world):
    world.ip("route", "add", "local", "default", "dev", "lo")
    with guarded(world) as guard:
        outside = guard.cgroup + "-outside"
        os.mkdir(outside)
        held = os.open(outside, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)  # or other tests take it for left behind
        try:
            matrix(world, guard, outside)
        finally:
            os.close(held)
            os.rmdir(outside)


if __name__ == "__main__":
    harness.main({"test_cost": test_cost})
