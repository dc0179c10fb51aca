#!/usr/bin/env python3
"""What `egressctl run` adds to the start of a command: medians over commands that do nothing.

usage: run_cost.py         EGRESS_TEST_BUILD: the build directory; EGRESS_BENCH_QUICK: fewer commands

Root. Everything runs in namespaces, a cgroup and a bpf file system of its own. Prints, judges nothing.
"""

import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "egress"))

from guarded import guarded, harness  # noqa: E402 (found by the line above)

NUMBER = 10 if os.environ.get("EGRESS_BENCH_QUICK") else 50


def took(guard, command):
    found = []
    for _ in range(NUMBER):
        time.sleep(0.05)
        start = time.monotonic()
        subprocess.run(command, preexec_fn=guard.entry(), check=True, stderr=subprocess.DEVNULL)
        found.append((time.monotonic() - start) * 1000)
    return statistics.median(found)


def test_cost(world):
    run = [harness.artefact("ctl/egressctl"), "run"]
    with guarded(world) as guard:
        guard.start("* * * * * allow\n")
        run[1:1] = ["-S", guard.daemon.control]
        time.sleep(2)  # a place is made ready
        plain = took(guard, ["true"])
        for what, command in (("nothing allowed", [*run, "true"]),
                              ("10 names", [*run, *(f"--allow=n{i}.example.org:443" for i in range(10)), "true"])):
            print(f"egressctl run, {what:20} {took(guard, command) - plain:6.1f} ms more than {plain:.1f} ms, end included",
                  flush=True)


if __name__ == "__main__":
    harness.main({"test_cost": test_cost})
