"""Bytes that leave when no process sends: they belong to the process that wrote them.

A program that the rules let connects, and its socket gets into the hands of one that they do not
let. What that one writes waits in the socket, and leaves by a timer or an acknowledgement.
"""

import contextlib
import os
import socket
import time

from guarded import guarded, harness
from harness import Skip, wait_for
from packet_test import MARK, Agent, Peers, arrived, knows_sender, number_of, reload, servers
from verdict_test import copy_of

ADDRESSES = ("10.66.0.1", "fd66::1")
CORK = "s.setsockopt(6, 3, 1)"
UNCORK = "s.setsockopt(6, 3, 0)"
# Sends without waiting until nothing more fits, the last part of it behind a closed window.
FILL = """
def fill(s, limit=None):
    s.setblocking(False)
    done = 0
    try:
        while limit is None or done < limit:
            done += s.send(b"." * min(4096, (limit or 1 << 20) - done))
    except BlockingIOError:
        pass
    s.setblocking(True)
    return done
"""


class Two:
    """`first` runs a program that the rules let, `second` one that they do not let to port 80."""

    def __init__(self, world, guard, denied="{other}", user=None):
        self.world, self.guard = world, guard
        self.other = copy_of(world, "other-python")
        self.rules = MARK + f"*:80 * * * {denied} deny\n* * * * * allow\n".format(other=self.other)
        servers(world)
        guard.start(self.rules)
        knows_sender(guard)
        knows_writer(guard)
        self.path = world.path("hand-over")
        self.first = self.agent()
        self.second = self.agent(self.other)
        self.second(f"l = unix('{self.path}')")

    def agent(self, *program):
        agent = Agent(self.guard, *program)
        agent(FILL)
        return agent

    def connect(self, port=80, address="10.66.0.1", size=None, protocol=0):
        """`s` of both processes, and the accepted end."""
        if size:
            self.world.listener(address, port).setsockopt(1, 8, size)  # SO_RCVBUF
        self.first(f"s = socket.socket(10 if ':' in '{address}' else 2, 1, {protocol})")
        self.first(f"s.connect(('{address}', {port}))")
        end = Peers(self.world).tcp(address, port)
        self.first(f"hand_over(s, '{self.path}')")
        self.second("s = take_over(l)")
        return end


def knows_writer(guard):
    if "delayed sends on TCP sockets passed by descriptor" in guard.status()["not_covered"]:
        raise Skip("this kernel does not show who writes to a connected socket")


def take_all(end, seconds):
    """What comes within that time."""
    got = b""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        got += arrived(end)
        time.sleep(0.01)
    return got


def never(end, seconds=1.2):
    got = take_all(end, seconds)
    assert b"evil" not in got, got[-200:]
    return got


def test_corked(world):
    """The kernel lets a corked segment out after 200 ms."""
    with guarded(world) as guard:
        two = Two(world, guard)
        for address in ADDRESSES:
            for port, arrives in ((443, True), (80, False)):
                end = two.connect(port, address)
                two.first(CORK)
                assert two.second("s.send(b'evil')") == 4
                if arrives:
                    wait_for(lambda end=end: arrived(end) == b"evil", what="what is let through")
                else:
                    assert never(end) == b""
            event = guard.event(action="BLOCKED", protocol="tcp", exe=two.other, addr=address)
            assert event["pid"] == number_of(guard, two.second), event


def test_behind_what_was_let(world):
    """The queue has bytes of both, in one segment: neither leaves."""
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect()
        two.first(CORK)
        assert two.first("s.send(b'data')") == 4
        assert two.second("s.send(b'evil')") == 4
        never(end)
        end = two.connect()
        two.first(CORK)
        assert two.second("s.send(b'evil')") == 4
        assert two.first("s.send(b'data')") == 4
        assert never(end) == b""


def test_let_out_by_another(world):
    """The one that the rules let takes the cork out, or closes."""
    with guarded(world) as guard:
        two = Two(world, guard)
        for way in (UNCORK, "s.setsockopt(6, 1, 1)", "s.shutdown(1)", "s.close()"):
            end = two.connect()
            two.first(CORK)
            two.second("s.send(b'evil')" if way != "s.close()" else "s.send(b'evil'); s.close()")
            two.first(way)
            assert never(end, 0.7) == b"", way


def test_writer_has_ended(world):
    """Before the kernel has sent what it wrote."""
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect()
        two.first(CORK + "; os.set_inheritable(s.fileno(), True)")
        two.first(f"subprocess.run(['{two.other}', '-c', 'import os, sys; "
                  "os.write(int(sys.argv[1]), b\"evil\")', str(s.fileno())], close_fds=False)")
        assert never(end) == b""
        two.first(UNCORK)
        assert never(end) == b""
        # The same program in the same process.
        runner = two.agent()
        runner("s = tcp('10.66.0.1', 80)")
        end = Peers(world).tcp("10.66.0.1", 80)
        runner(CORK + "; os.set_inheritable(s.fileno(), True)")
        with contextlib.suppress(AssertionError):
            runner(f"os.execv('{two.other}', ['{two.other}', '-c', 'import os, sys, time; "
                   "os.write(int(sys.argv[1]), b\"evil\"); time.sleep(2)', str(s.fileno())])")
        assert never(end) == b""


def test_behind_a_closed_window(world):
    """An acknowledgement lets it out."""
    with guarded(world) as guard:
        two = Two(world, guard)
        for address in ADDRESSES:
            end = two.connect(80, address, 4096)
            two.first("s.setsockopt(1, 7, 1 << 20)")  # SO_SNDBUF
            filled = two.first("fill(s, 200000)")
            assert two.second("s.send(b'evil')") == 4
            got = never(end, 2.5)
            assert len(got) <= filled, (len(got), filled)
            guard.event(action="BLOCKED", protocol="tcp", exe=two.other, addr=address)


def test_blocked_in_the_middle(world):
    """A write that waits for room goes on when there is some: its bytes are its own, too."""
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect(80, size=4096)
        two.first("s.setsockopt(1, 7, 16384)")
        two.first("fill(s)")
        two.second("t = threading.Thread(target=lambda: s.sendall(b'evil' * 50000), daemon=True); t.start()")
        time.sleep(0.3)
        never(end, 2.5)


MPTCP = 262


def mptcp_server(world, port):
    """A listener that speaks it, under an address of its own."""
    try:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    except OSError as error:
        raise Skip(f"no MPTCP: {error}")
    harness.run("ip", "addr", "add", "10.66.0.7/24", "dev", "lo", check=False)
    server.bind(("10.66.0.7", port))
    server.listen(8)
    world.listeners[("10.66.0.7", port)] = server


def test_multipath(world):
    """MPTCP has a queue of its own."""
    with guarded(world) as guard:
        two = Two(world, guard)
        mptcp_server(world, 80)
        for port in (80,):
            end = two.connect(port, "10.66.0.7", protocol=MPTCP)
            two.first(CORK)
            assert two.second("s.send(b'evil')") == 4
            if b"evil" in take_all(end, 1.2):
                named = guard.status()["not_covered"]
                assert "delayed sends on MPTCP and UDP sockets passed by descriptor" in named, named


def test_paced(world):
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect()
        two.first("s.setsockopt(1, 47, 100000); s.setsockopt(1, 7, 1 << 20)")  # SO_MAX_PACING_RATE
        two.first("fill(s, 60000)")
        assert two.second("s.send(b'evil')") == 4
        never(end, 2.5)


def test_goes_on_when_it_may(world):
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect()
        two.first(CORK)
        assert two.first("s.send(b'data')") == 4
        assert two.second("s.send(b'evil')") == 4
        never(end)
        reload(world, guard, MARK + "* * * * * allow\n")
        wait_for(lambda: arrived(end) == b"dataevil", 60, "what was held back")
        # From here on the queue is empty again: the one that is let is not held for the other.
        reload(world, guard, two.rules)
        assert two.first(UNCORK + "; s.send(b'data')") is None
        wait_for(lambda: arrived(end) == b"data", 60, "data of the one that is let")


def test_a_reader_holds_nothing_back(world):
    """Only writers have bytes in the queue."""
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect()
        end.send(b"question")
        assert two.second("s.recv(100).decode()") == "question"
        assert two.first("s.send(b'data')") == 4
        wait_for(lambda: arrived(end) == b"data", 60, "data of the one that is let")


def test_many_writers(world):
    """Workers with one connection: all are let, more than are kept with a socket; then one is not."""
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect(80, size=4096)
        two.first("s.setsockopt(1, 7, 1 << 20)")
        filled = two.first("fill(s, 100000)")
        two.first("def work(text):\n"
                  "    child = os.fork()\n"
                  "    if not child:\n"
                  "        s.send(text); os._exit(0)\n"
                  "    os.waitpid(child, 0)\n")
        two.first("[work(b'data') for _ in range(40)]")
        got = b""

        def all_there():
            nonlocal got
            got += arrived(end)
            return len(got) == filled + 160
        wait_for(all_there, 60, lambda: f"all of it: {len(got)} of {filled + 160}")
        filled = two.first("fill(s, 100000)")
        two.first("[work(b'data') for _ in range(20)]")
        assert two.second("s.send(b'evil')") == 4
        two.first("[work(b'data') for _ in range(20)]")
        never(end, 2.5)


def test_another_user(world):
    """A process that gives its rights up before it writes."""
    with guarded(world) as guard:
        two = Two(world, guard)
        reload(world, guard, MARK + "*:80 * * nobody * deny\n* * * * * allow\n")
        runner = two.agent()
        runner("s = tcp('10.66.0.1', 80)")
        end = Peers(world).tcp("10.66.0.1", 80)
        runner(CORK + "; os.setresuid(65534, 65534, 65534); s.send(b'evil')")
        assert never(end) == b""
        assert guard.event(action="BLOCKED", port=80)["uid"] == 65534


def test_another_cgroup(world):
    """A socket made in one cgroup, written to from another."""
    with guarded(world) as guard:
        two = Two(world, guard)
        inner = guard.cgroup + "/inner"
        os.mkdir(inner)
        root = guard.cgroup.rsplit("/", 1)[0]
        reload(world, guard, MARK + f"*:80 * * * * deny cgroup={inner[len(root):]}\n* * * * * allow\n")
        with open(inner + "/cgroup.procs", "w") as procs:
            procs.write(str(two.second.process.pid))
        for port in (443, 80):
            end = two.connect(port)
            two.first(CORK)
            assert two.second("s.send(b'evil')") == 4
            if port == 443:
                wait_for(lambda end=end: arrived(end) == b"evil", what="what is let through")
            else:
                assert never(end) == b""


def test_one_process_alone(world):
    """Is as fast as ever: a lot, through a small window, by a thread each for reading and writing."""
    with guarded(world) as guard:
        two = Two(world, guard)
        end = two.connect(80, size=8192)
        two.first("t = threading.Thread(target=lambda: s.sendall(b'data' * 50000)); t.start()")
        got = 0

        def all_there():
            nonlocal got
            got += len(arrived(end))
            return got == 200000
        wait_for(all_there, 60, lambda: f"all of it: {got}")
        assert not guard.events(action="BLOCKED")


if __name__ == "__main__":
    harness.main(globals())
