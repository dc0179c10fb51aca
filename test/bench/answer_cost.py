#!/usr/bin/env python3
"""What names cost: to read an answer of the DNS on its way in, to connect by a grant, to load a list of names.

usage: answer_cost.py         EGRESS_TEST_BUILD: the build directory; NAMES, ANSWERS: how many (1000000, 20000);
                              ONLY_LISTS: not without the list before

Root. As hook_cost.py. The cost of an answer is what the kernel says that the program of what comes in took
on average (BPF_ENABLE_STATS, which adds some 20 ns and slows all BPF programs of the machine meanwhile);
beside it a datagram of the same size that is no answer. Prints, judges nothing.
"""

import json
import os
import socket
import struct
import sys
import time

from hook_cost import harness, measure, show, two_cgroups

RESOLVER = "127.0.0.53"
NAMES = int(os.environ.get("NAMES", "1000000"))
ANSWERS = int(os.environ.get("ANSWERS", "20000"))
SYSTEM_CALL_BPF, BPF_ENABLE_STATS = 321, 32
CONF = """[local]
2222 stream tcp * * 3 1h
[dns]
resolver %s
grace 1h
[egress]
%s * * * * allow
10.66.1.0/24 * * * * allow
%s * * * * allow rebind=allow
* * * * * deny
"""
# Asks the resolver, or sends to a server whose answers are none of the DNS, a number of times.
CLIENT = """
import socket, struct, sys
name, kind, count, server, port = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4], int(sys.argv[5])
labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((server, port))
for number in range(count):
    s.send(struct.pack("!6H", number & 65535, 0x0100, 1, 0, 0, 0) + labels + bytes(1) + struct.pack("!2H", kind, 1))
    s.recv(65535)
"""


def answer(text, count):
    """To that question, with so many addresses."""
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 300, 4) + bytes([10, 66, 2, 1 + i]) for i in range(count))
    return text[:2] + b"\x81\x80" + struct.pack("!4H", 1, count, 0, 0) + text[12:] + records


def serve(*servers):
    """Answers with as many addresses as the question's name begins with, in a process of its own."""
    sockets = []
    for server in servers:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind(server)
        sockets.append(one)
    for one in sockets:
        if os.fork() == 0:
            while True:
                text, peer = one.recvfrom(4096)
                one.sendto(answer(text, int(text[13:13 + text[12]].decode().strip("n"))), peer)
        one.close()


def shown(*words):
    return json.loads(harness.run("bpftool", "-j", *words).stdout)


def programs(guard):
    """{name: (runs, nanoseconds)} of the programs on the guarded cgroup."""
    mine = {each["id"] for each in shown("cgroup", "show", guard.cgroup)}
    return {each["name"]: (each.get("run_cnt", 0), each.get("run_time_ns", 0)) for each in shown("prog", "show")
            if each["id"] in mine}


def cost(guard, name, server, count=ANSWERS):
    """Nanoseconds a run of the program of what comes in, and of what goes out, while so many are answered."""
    before = programs(guard)
    guard.run(sys.executable, "-c", CLIENT, name, "1", str(count), server[0], str(server[1]), check=True)
    after = programs(guard)
    out = []
    for program in ("egress_receive", "egress_packet"):
        runs, spent = (b - a for a, b in zip(before[program], after[program]))
        out.append(spent / runs)
    return out


def answers(guard):
    resolver, other = (RESOLVER, 53), ("10.66.1.1", 5353)
    for addresses in (1, 8, 28):
        name = f"n{addresses}.example.org"
        first = cost(guard, name, resolver, 1)[0]
        plain = min(cost(guard, name, other) for _ in range(3))
        read = min(cost(guard, name, resolver) for _ in range(3))
        print(f"an answer with {addresses:2} addresses: in {read[0]:6.0f} ns (the first one {first:.0f}; no answer of the"
              f" DNS {plain[0]:.0f}); its question: out {read[1]:6.0f} ns ({plain[1]:.0f})", flush=True)


def calls(world, guard, outside):
    """A grant beside a prefix; some addresses in turn, as each has a verdict of its own."""
    allowed = world.write("prefix", "".join(f"10.66.1.{i}\n" for i in range(1, 29)))
    granted = world.write("granted", "".join(f"10.66.2.{i}\n" for i in range(1, 29)))
    guard.run(sys.executable, "-c", CLIENT, "n28.example.org", "1", "1", RESOLVER, "53", check=True)
    print(f"{'':58} {'plain':>6} {'hooked':>6} {'more':>6} (quartiles), ns a call", flush=True)
    # UDP's connect is not judged.
    for call, title in (("sendto", "sendto, UDP,"), ("reach", "connect, TCP,")):
        for _ in range(3):
            show(f"{title} to an address that a prefix allows", measure(guard, outside, call, allowed))
            show(f"{title} to one that a name allows", measure(guard, outside, call, granted))


def resident(guard):
    with open(f"/proc/{guard.daemon.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def reload(world, guard, conf):
    """Seconds until the rules are in force."""
    world.write("egress.conf", conf)
    before = guard.status()["generation"]
    begun = time.monotonic()
    answer = guard.daemon.request("POST", "/v1/reload?force=1")
    assert answer[0] == 200, answer
    harness.wait_for(lambda: guard.status()["generation"] > before, 120, "the rules to be in force")
    return time.monotonic() - begun


def lists(world, guard):
    os.makedirs(world.path("egress.d"), exist_ok=True)
    world.write("egress.d/names", "n1.example.org\nn8.example.org\nn28.example.org\n" + "".join(
        f"host-{i}.example-{i % 1000}.org\n" for i in range(NAMES)))
    small = resident(guard)
    for _ in range(3):
        spent = reload(world, guard, CONF % (RESOLVER, RESOLVER, "@names"))
        print(f"a list of {NAMES:,} names: in force after {spent:.2f} s; egressd {small:.0f} -> {resident(guard):.0f} MiB",
              flush=True)
        reload(world, guard, CONF % (RESOLVER, RESOLVER, "*.example.org"))
    reload(world, guard, CONF % (RESOLVER, RESOLVER, "@names"))


def test_cost(world):
    attributes = struct.pack("=I", 0).ljust(128, b"\0")
    if harness.libc.syscall(SYSTEM_CALL_BPF, BPF_ENABLE_STATS, attributes, 4) < 0:
        raise harness.Skip("the kernel counts no runs of BPF programs (BPF_ENABLE_STATS)")
    with two_cgroups(world) as (guard, outside):
        serve((RESOLVER, 53), ("10.66.1.1", 5353))
        guard.start_with(CONF % (RESOLVER, RESOLVER, "*.example.org"))
        if not os.environ.get("ONLY_LISTS"):
            answers(guard)
            calls(world, guard, outside)
        lists(world, guard)
        answers(guard)
        calls(world, guard, outside)


if __name__ == "__main__":
    harness.main({"test_cost": test_cost})
