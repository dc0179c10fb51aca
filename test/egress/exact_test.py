"""Resolve, then connect in the next instruction, many times: nothing is refused wrongly, nothing granted wrongly.

The client, its resolver and a hostile neighbour are test/bench/exact.c; test/bench/exact.py runs it for longer.
"""

import os
import signal
import subprocess
import sys
import time

from guarded import guarded, harness

RESOLVER = "127.0.0.53"
RULES = f"""[local]
2222 stream tcp * * 3 1h
[egress]
{RESOLVER}:domain * * * * allow
**.good.example * * * * allow
* * * * * deny
[dns]
resolver {RESOLVER}
grace 1s
"""
SOURCE = os.path.join(harness.SOURCE, "test/bench/exact.c")
ROUNDS = int(os.environ.get("EGRESS_EXACT_ROUNDS", "200000"))
THREADS = int(os.environ.get("EGRESS_EXACT_THREADS", "32"))
NEIGHBOUR = 12345


def disturb(guard, asking):
    """While they ask, the daemon is stopped and goes on, is killed and started anew."""
    turns = 0
    while asking.poll() is None:
        guard.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        guard.daemon.process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        guard.daemon.stop(signal.SIGKILL)
        time.sleep(0.3)
        guard.start_with(RULES)
        turns += 1
    return turns


def test_exact(world):
    program = world.path("exact")
    harness.run("cc", "-O2", "-Wall", "-Werror", "-pthread", "-o", program, SOURCE)
    os.chmod(world.path(""), 0o755)
    world.ip("route", "add", "local", "44.0.0.0/6", "dev", "lo")
    with guarded(world) as guard:
        guard.start_with(RULES)
        server = subprocess.Popen([program, "serve", RESOLVER], stdout=subprocess.PIPE, text=True)
        guard.started.append(server)
        assert server.stdout.readline() == "ready\n"
        guard.started.append(guard.spawn(program, "churn", RESOLVER, user=NEIGHBOUR, group=NEIGHBOUR))
        began = time.monotonic()
        asking = guard.spawn(program, "ask", RESOLVER, str(ROUNDS), str(THREADS))
        guard.started.append(asking)
        turns = disturb(guard, asking)
        text = asking.stdout.read()
        assert asking.returncode == 0, (asking.returncode, text)
        rounds, refusals, grants, again = (int(each) for each in text.split())
        seconds = time.monotonic() - began
        outcomes = {name: count for name, count in guard.status()["dns"]["outcomes"].items() if count}
        print(f"{rounds} rounds by {THREADS} threads, {rounds / seconds:.0f}/s, the daemon killed {turns} times: "
              f"{refusals} wrong refusals, {grants} wrong grants, {again} questions asked again; {outcomes}")
        sys.stdout.flush()
        assert rounds >= ROUNDS - THREADS and turns, text
        assert (refusals, grants) == (0, 0), text


if __name__ == "__main__":
    harness.main(globals())
