#!/usr/bin/env python3
"""What the hooks of [egress] add to connect(), sendto(), send(), fork and exec; events a second.

usage: hook_cost.py         EGRESS_TEST_BUILD: the build directory; EGRESS_BENCH_QUICK: fewer policies

Root. Everything runs in namespaces, a cgroup and a bpf file system of its own. Per policy: the cost of a
call outside the guarded cgroup, inside it, and the difference, medians of alternating batches
(flow_cost.cpp). Prints, judges nothing.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import socket
import struct
import sys
import time

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


def calls(world, guard, outside):
    fixed = world.write("fixed", "10.66.0.9\n")
    guard.start(rules_text(1000, 0))
    show("sendto, 1000 rules", measure(guard, outside, "sendto", fixed))
    show("send, connected, 1000 rules", measure(guard, outside, "send", fixed))
    guard.daemon.stop()
    guard.start(rules_text(1000, 0, "* * * * * allow log"))
    show("connect, events of one address folded", measure(guard, outside, "connect", fixed))
    guard.daemon.stop()


def program_times():
    """Of each program of ours: how often it ran, and nanoseconds in all."""
    shown = json.loads(harness.run("bpftool", "--json", "prog", "show").stdout)
    return {(program["name"], program["id"]): (program.get("run_cnt", 0), program.get("run_time_ns", 0))
            for program in shown if program.get("name", "").startswith("egress_")}


def processes(guard):
    """The kernel's own clock around each program: what they add is less than what any two runs of the
    same fork and exec differ by."""
    measuring = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_enable_stats(0)  # BPF_STATS_RUN_TIME
    if measuring < 0:
        print("fork and exec: the kernel does not measure programs")
        return
    guard.start("* * * * * allow")
    program = harness.artefact("test/bench/process_cost")
    for kind in ("fork", "exec"):
        before = program_times()
        took = harness.run(program, kind, "4000").stdout.split()[0]
        parts = []
        for which, (number, time_ns) in sorted(program_times().items()):
            number, time_ns = number - before.get(which, (0, 0))[0], time_ns - before.get(which, (0, 0))[1]
            if number >= 4000:
                parts.append(f"{which[0]} {time_ns / number:.0f} ns")
        print(f"{kind} and wait: {took} ns, of which {', '.join(parts)}", flush=True)
    guard.daemon.stop()
    os.close(measuring)


def processor_time(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def events(world, guard, outside):
    """As many events as there can be, each of another address, into the log and to nobody else."""
    addresses = world.write("each", "".join(text_of(0x0b000000 + i) + "\n" for i in range(1 << 20)))
    guard.start("* * * * * allow log")
    made, read, lost = (guard.status()["events"][key] for key in ("made", "read", "lost"))
    begin, before = time.monotonic(), processor_time(guard.daemon.pid)
    figures = measure(guard, outside, "connect", addresses)

    def seen():
        now = guard.status()["events"]
        return now["made"] - made, now["read"] - read, now["lost"] - lost
    harness.wait_for(lambda: seen()[0] == sum(seen()[1:]), 60, lambda: f"all events: {guard.status()}")
    took, used = time.monotonic() - begin, processor_time(guard.daemon.pid) - before
    made, read, lost = seen()
    show("connect, an event for each", figures)
    print(f"events: {made} made, {read} read and logged, {lost} lost and counted; "
          f"{read / took:.0f}/s, {used / max(read, 1) * 1e6:.1f} us CPU each", flush=True)
    guard.daemon.stop()


@contextlib.contextmanager
def two_cgroups(world):
    """A guarded one and one outside of it, where every address is this host's."""
    world.ip("route", "add", "local", "default", "dev", "lo")
    with guarded(world) as guard:
        outside = guard.cgroup + "-outside"
        os.mkdir(outside)
        held = os.open(outside, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)  # or other tests take it for left behind
        try:
            yield guard, outside
        finally:
            os.close(held)
            os.rmdir(outside)


def test_cost(world):
    with two_cgroups(world) as (guard, outside):
        processes(guard)
        calls(world, guard, outside)
        events(world, guard, outside)
        matrix(world, guard, outside)


if __name__ == "__main__":
    harness.main({"test_cost": test_cost})
