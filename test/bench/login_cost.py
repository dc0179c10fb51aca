#!/usr/bin/env python3
"""What our patch adds to a log-in on sshd, while egressd runs, is absent, is stopped, is flooded.

usage: login_cost.py [NUMBER]       NUMBER of log-ins per server and state (500)

Root; it builds OpenSSH with the patch and without (test/servers/build, a minute each, kept). First the
report alone, as a server's call; then log-ins by password, in turn on both servers, which run side by
side: the time until keys are exchanged (quartile and median), and the processor time of all processes of
a server for all of it. (The time after the key exchange is that of a delay: by some 5 to 9 ms, others at
each start, sshd hides how long a password takes to check.) Prints, judges nothing.
"""

import hashlib
import os
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, "test/servers"))

import built  # noqa: E402 (found by the line above)
import harness  # noqa: E402
import logins  # noqa: E402
import sshd as servers  # noqa: E402
import stock  # noqa: E402

NUMBER = int(sys.argv[1]) if len(sys.argv) > 1 else 500
RULES = "[local]\n* * * * * * 10m\n"
STATES = ("absent", "running", "stopped", "flooded", "absent")
WITHOUT = "EGRESS_BENCH_WITHOUT"
BUILD = """
set -eu
name=$1 library=$2 root=$3 final=$4 compiler=cc jobs=2
. "$root/test/servers/recipes/openssh"
rm -rf "$final"
mkdir -p "$final"
tar -xf "$5" -C "$final" --strip-components=1 --no-same-owner
cd "$final"
recipe >build.log 2>&1
touch .done
"""


def build_without(version):
    """The same server as it comes from upstream; where it is."""
    tarball = harness.run(os.path.join(SOURCE, "test/servers/fetch"), version, timeout=600).stdout.strip()
    recipe = os.path.join(SOURCE, "test/servers/recipes/openssh")
    key = hashlib.sha256(open(tarball, "rb").read() + open(recipe, "rb").read()).hexdigest()[:16]
    final = os.path.join(os.path.dirname(tarball), "build", f"plain-{version}-{key}")
    if not os.path.exists(os.path.join(final, ".done")):
        harness.run("sh", "-c", BUILD, "sh", version, os.path.join(harness.BUILD, "lib"), SOURCE, final,
                    tarball, timeout=900)
    return final


class State:
    """egressd in one of the states."""

    def __init__(self, world, state):
        self.daemon = None
        if state == "absent":
            return
        self.daemon = world.daemon(RULES)
        if state == "running":
            return
        self.daemon.send(signal.SIGSTOP)
        if state == "flooded":
            with open("/proc/sys/net/core/somaxconn") as file:
                limit = 2 * int(file.read())
            for _ in range(limit):
                if world.library.report(harness.FAIL, -1, "fill", check=False):
                    return
            raise harness.Failure("the queue never filled")

    def close(self):
        if self.daemon:
            self.daemon.send(signal.SIGCONT)
            self.daemon.stop()


def report_alone(world):
    program = world.path("report_cost")
    library = os.path.join(harness.BUILD, "lib")
    harness.run("cc", "-O2", "-std=c11", "-D_GNU_SOURCE", "-I", os.path.join(SOURCE, "lib/include"),
                os.path.join(HERE, "report_cost.c"), "-o", program, "-L", library, "-legress")
    print("a report alone:                        median       p99       max   errno:number")
    for state in STATES[:-1]:
        held = State(world, state)
        words = harness.run(program, "1000", env=built.environment()).stdout.split()
        print(f"  egressd {state:26} " + " ".join(f"{int(word) / 1000:6.1f} us" for word in words[1:]) +
              f"   {words[0]}", flush=True)
        held.close()


def processor_time(sshd):
    """Seconds that the listener and all its children that have ended were running."""
    with open(f"/proc/{sshd.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def log_in(library, port):
    start = time.perf_counter()
    session = logins.Session(library, "10.66.0.1", port, "alice")
    took = time.perf_counter() - start
    if not session.try_password(stock.PASSWORD):
        raise harness.Failure("the log-in was refused")
    session.close()
    return took


def idle(sshd):
    """Waits until nothing but the listener is left."""
    def children():
        with open(f"/proc/{sshd.process.pid}/task/{sshd.process.pid}/children") as file:
            return file.read().split()
    harness.wait_for(lambda: not children(), 60, "the children of sshd to end")


def difference(without, with_patch):
    return f"{without:9.0f} {with_patch:7.0f} {with_patch - without:+8.0f}"


def with_and_without(world, version):
    library = logins.load()
    pair = []
    for port, directory in ((22, os.environ[f"{WITHOUT}_{version}"]), (23, built.path(version))):
        pair.append(servers.Sshd(world, version, pam="no", port=port, directory=directory))
    for _ in range(20):
        for sshd in pair:
            log_in(library, sshd.port)
    print(f"{version}, {NUMBER} log-ins each, without and with the patch, in us:")
    print(f"  {'':20}{'keys: p25':>26}{'keys: median':>26}{'processor time':>26}")
    for state in STATES:
        held = State(world, state)
        took, before = [[], []], [processor_time(sshd) for sshd in pair]
        for turn in range(NUMBER):
            for index in (0, 1) if turn % 2 else (1, 0):
                took[index].append(log_in(library, pair[index].port))
                idle(pair[index])
        used = [(processor_time(sshd) - earlier) / NUMBER * 1e6 for sshd, earlier in zip(pair, before)]
        line = ""
        for pick in (lambda each: statistics.quantiles(each)[0], statistics.median):
            line += difference(*(pick(each) * 1e6 for each in took))
        print(f"  egressd {state:12}{line}{difference(*used)}", flush=True)
        held.close()
    for sshd in pair:
        sshd.stop()


def prepare():
    """Outside of the namespaces, where there is a network."""
    built.prepare(*servers.VERSIONS)
    if os.environ.get("EGRESS_TEST_WORLD") != "1":
        for version in servers.VERSIONS:
            os.environ[f"{WITHOUT}_{version}"] = build_without(version)


def main():
    prepare()
    harness.enter()
    for name, function in (("report", report_alone), *(
            (version, lambda world, v=version: with_and_without(world, v))
            for version in servers.VERSIONS)):
        result, text = harness.run_one(name, function)
        if result != "ok":
            sys.exit(f"{name}: {result} {text}")


if __name__ == "__main__":
    main()
