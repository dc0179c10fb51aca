"""Every hook at once, on every processor, while the rules change: nothing hangs, and every event is accounted for."""

import contextlib
import os
import socket
import threading

from guarded import guarded, harness
from harness import wait_for
from packet_test import reload
from verdict_test import PYTHON, probe, servers

ROUNDS = max(20, int(150 / harness.PATIENCE))  # of each process; a guest is emulated
RULES = "10.66.0.1:80 * * * * deny\n10.66.1.0/24 * * * * deny\n* * * * * allow log\n"
# Sends to what is refused and what is let, connects, answers its own socket, and forks, in turn.
STORM = """
import os, socket, subprocess, sys
number, rounds = int(sys.argv[1]), int(sys.argv[2])
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
service.bind(("127.0.0.1", 5000 + number))
service.setblocking(False)
answered = 0
def quietly(call, *arguments):
    try:
        return call(*arguments)
    except OSError:
        return None
for i in range(rounds):
    for address in (f"10.66.1.{i % 250}", f"10.66.2.{i % 250}"):
        quietly(out.sendto, b"x", (address, 1024 + i))
        connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        quietly(connected.connect, (address, 2000 + i))
        quietly(connected.send, b"x")
        connected.close()
    for port in (80, 443):
        stream = socket.socket()
        stream.settimeout(10)
        if quietly(stream.connect, ("10.66.0.1", port)) is None:
            quietly(stream.send, b"x" * 5000)
        stream.close()
    while (came := quietly(service.recvfrom, 100)):
        answered += quietly(service.sendto, b"answer", came[1]) is not None
    if i % 20 == 0:
        subprocess.run([sys.executable, "-S", "-c", ""])
print(answered)
"""


def ask(port, stop):
    """Datagrams to a service, from one socket and from ever new ones."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while not stop.wait(0.002):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for each in (one, other):
                try:
                    each.sendto(b"question", ("127.0.0.1", port))
                except OSError:
                    pass  # it answered, and nobody listens there yet


def accept_all(server, stop):
    server.settimeout(0.2)
    while not stop.is_set():
        try:
            server.accept()[0].close()
        except OSError:
            pass


@contextlib.contextmanager
def outside(world, count):
    """The other ends, in threads that are older than the pid namespace: none can be made after it."""
    stop = threading.Event()
    threads = [threading.Thread(target=ask, args=(5000 + i, stop)) for i in range(count)]
    for port in (80, 443):
        threads.append(threading.Thread(target=accept_all, args=(world.listener("10.66.0.1", port), stop)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_everything_at_once(world):
    count = 2 * len(os.sched_getaffinity(0))
    servers(world, 80, 443)
    with outside(world, count), guarded(world) as guard:
        guard.start(RULES)
        storms = [guard.spawn(PYTHON, "-c", STORM, str(i), str(ROUNDS)) for i in range(count)]
        guard.started += storms
        for turn in range(4):
            reload(world, guard, RULES + f"10.66.{turn + 3}.0/24 * * * * deny\n")
        told = [int(storm.communicate(timeout=120 * harness.PATIENCE)[0]) for storm in storms]
        assert all(told), f"a service that answered nobody: {told}"
        # Every event was read, or counted as lost; the verdicts are what they were.
        wait_for(lambda: accounted(guard), 60, lambda: f"the events: {guard.status()['events']}")
        assert guard.status()["broken"] == 0, guard.status()
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,10.66.0.1,443", "udp,10.66.1.7,9") == ["EPERM", "ok", "EPERM"]


def accounted(guard):
    events = guard.status()["events"]
    return events["made"] > 4 * ROUNDS and events["made"] == events["read"] + events["lost"] + events["missed"]


if __name__ == "__main__":
    harness.main(globals())
