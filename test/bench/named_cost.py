#!/usr/bin/env python3
"""What a report costs named: refused queries a second, and the CPU time of each, by a patched and an
unpatched named, without egressd and with it. Prints a table; asserts nothing.

    test/bench/named_cost.py PLAIN-BUILD PATCHED-BUILD [ROUNDS]

A build is a directory in which named was built, as test/servers/build prints it; the plain one is the
same source without the patch.
"""

import glob
import os
import re
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../servers"), os.path.join(HERE, "../e2e")]

import built  # noqa: E402 (found by the line above)
import harness  # noqa: E402
import named as servers  # noqa: E402

RULE = "[local]\n53 stream tcp * * 100000000 10m\n53 dgram udp * * 100000000 10m\n"
QUERIES = {False: 200000, True: 200000}


def spent(process):
    """CPU seconds of all its threads."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(named, client, tcp):
    """(queries a second, microseconds of named's CPU for each)."""
    before = spent(named.process)
    process = client.dnsperf("www.closed.test", tcp=tcp, queries=QUERIES[tcp], rate=1000000)
    process.wait(120)
    used = spent(named.process) - before
    with open(process.log_path) as file:
        text = file.read()
    done = int(re.search(r"Queries completed:\s+(\d+)", text)[1])
    return float(re.search(r"Queries per second:\s+([\d.]+)", text)[1]), 1e6 * used / done


def test_cost(world):
    version = os.path.basename(os.environ["EGRESS_NAMED_VERSION"])
    client = servers.Client(world, "client")
    found = {}
    daemon = None
    for _ in range(int(os.environ["EGRESS_NAMED_ROUNDS"])):
        for present in (False, True):
            if present:
                daemon = world.daemon(RULE)
            for kind in ("plain", "patched"):
                built.path = lambda _, kind=kind: os.environ[f"EGRESS_NAMED_{kind.upper()}"]
                named = servers.Named(world, version)
                for tcp in (False, True):
                    found.setdefault((tcp, kind, present), []).append(measure(named, client, tcp))
                named.stop()
            if present:
                daemon.stop()
    print(f"{version}: median of {len(found[False, 'plain', False])}")
    for (tcp, kind, present), values in sorted(found.items()):
        rate, cost = (statistics.median(column) for column in zip(*values))
        print(f"{'TCP' if tcp else 'UDP'} {kind:8} egressd {'present' if present else 'absent ':8}"
              f" {rate:9.0f} queries/s {cost:7.2f} us CPU of named each")


if len(sys.argv) > 1:
    plain, patched, *rest = sys.argv[1:]
    libns = os.path.basename(glob.glob(f"{patched}/lib/ns/.libs/libns-9*.so")[0])
    os.environ.update(EGRESS_NAMED_PLAIN=os.path.abspath(plain),
                      EGRESS_NAMED_PATCHED=os.path.abspath(patched),
                      EGRESS_NAMED_ROUNDS=(rest or ["3"])[0],
                      EGRESS_NAMED_VERSION="bind9-" + libns[len("libns-"):-len(".so")])
    del sys.argv[1:]
if "EGRESS_NAMED_PLAIN" not in os.environ:
    sys.exit(__doc__)
harness.main(globals())
