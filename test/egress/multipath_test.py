"""Subflows of MPTCP: the kernel connects them, in a thread of its own, for the process that has the socket.

A remote can make it do so: it announces an address of its own, and the kernel connects there.
"""

import os
import socket

from guarded import guarded, harness
from harness import Skip, wait_for
from packet_test import MARK, Agent, number_of
from verdict_test import PYTHON, copy_of

MPTCP = 262
SERVER, ANNOUNCED = "10.77.1.2", "10.77.1.9"
HERE, HERE_TOO = "10.77.1.1", "10.77.1.5"


def paths(world):
    """Another host that announces its second address; this host has a second address to connect from."""
    if not os.path.exists("/proc/sys/net/mptcp/enabled"):
        raise Skip("the kernel has no MPTCP")
    there = world.host("peer")
    world.ip("addr", "add", HERE_TOO + "/24", "dev", "to-peer")
    there.run("ip", "addr", "add", ANNOUNCED + "/24", "dev", "up0")
    for ip in (there.run, harness.run):
        ip("ip", "mptcp", "limits", "set", "subflows", "4", "add_addr_accepted", "4")
    there.run("ip", "mptcp", "endpoint", "add", ANNOUNCED, "dev", "up0", "signal")
    return there


def listener(there):
    """On all addresses of the other host."""
    with there.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    server.bind(("0.0.0.0", 80))
    server.listen(8)
    return server


def connected(agent, server):
    """`s` of the agent, and the accepted end; some data has gone both ways, as subflows ask for."""
    agent(f"s = socket.socket(2, 1, {MPTCP}); s.connect(('{SERVER}', 80))")
    end, _ = server.accept()
    assert agent("s.send(b'hello')") == 5
    assert end.recv(16) == b"hello" and end.send(b"hello") == 5
    assert agent("s.recv(16)[:0].decode()") == ""
    return end


def established(there, address):
    """Whether the other host has a connection with this address of its own."""
    return bool(there.run("ss", "-Htn", "state", "established", "src", f"{address}:80").stdout.strip())


def test_told_as_its_owners(world):
    there = paths(world)
    with guarded(world) as guard:
        server = listener(there)
        harness.run("ip", "mptcp", "endpoint", "add", HERE_TOO, "dev", "to-peer", "subflow")
        program = copy_of(world, "its-owner")
        guard.start(MARK + "* * * * * allow log\n")
        agent = Agent(guard, program)
        number = number_of(guard, agent)
        end = connected(agent, server)
        for address in (SERVER, ANNOUNCED):
            event = guard.event(addr=address, action="ALLOWED", protocol="tcp")
            assert (event["exe"], event["pid"]) == (program, number), event
            assert event["cgroup"].startswith("/egress-test-"), event
        wait_for(lambda: sum(event["count"] for event in guard.events(addr=SERVER)) > 1,
                 what="the connection from the second address")
        assert not [event for event in guard.events() if event["exe"] != program], guard.events()
        end.close()


def test_refused_as_its_owners(world):
    """By program, by owner: a connection to the announced address would be the process' own."""
    there = paths(world)
    with guarded(world) as guard:
        server = listener(there)
        program = copy_of(world, "its-owner")
        os.chmod(program, 0o755)
        rules = f"{ANNOUNCED} * * * {program} deny\n{ANNOUNCED} * * 1000 * deny\n"
        guard.start(rules)
        for user, name in ((None, program), (1000, PYTHON)):
            agent = Agent(guard, name, user=user)
            end = connected(agent, server)
            event = guard.event(addr=ANNOUNCED, action="BLOCKED", exe=name)
            assert event["uid"] == (user or 0), event
            assert not established(there, ANNOUNCED)
            assert agent("s.send(b'more')") == 4 and end.recv(16) == b"more"
            end.close()
        end = connected(Agent(guard), server)
        wait_for(lambda: established(there, ANNOUNCED), what="what no line refuses")
        end.close()


def test_allowed_as_its_owners(world):
    there = paths(world)
    with guarded(world) as guard:
        server = listener(there)
        guard.start("* * * 1000 * allow\n* * * * * deny\n")
        end = connected(Agent(guard, user=1000), server)
        wait_for(lambda: established(there, ANNOUNCED), what="the announced address")
        assert not guard.events(addr=ANNOUNCED)
        end.close()


def test_in_other_hands(world):
    """The process that used the socket last has it."""
    there = paths(world)
    there.run("ip", "mptcp", "endpoint", "flush")
    with guarded(world) as guard:
        server = listener(there)
        other = copy_of(world, "other-python")
        guard.start(MARK + f"{ANNOUNCED} * * * {other} deny\n")
        first, second = Agent(guard), Agent(guard, other)
        second(f"l = unix('{world.path('hand-over')}')")
        end = connected(first, server)
        first(f"hand_over(s, '{world.path('hand-over')}'); s.close()")
        second("s = take_over(l)")
        assert second("s.send(b'more')") == 4 and end.recv(16) == b"more"
        there.run("ip", "mptcp", "endpoint", "add", ANNOUNCED, "dev", "up0", "signal")
        assert guard.event(addr=ANNOUNCED, action="BLOCKED")["pid"] == number_of(guard, second)
        end.close()


def test_of_a_server(world):
    """It has connected to nobody: of the process only user and cgroup are known, so each line that might refuse
    it by program matches."""
    there = paths(world)
    with guarded(world) as guard:
        program = copy_of(world, "server")
        guard.start(f"{ANNOUNCED} * * 1000 * deny\n{ANNOUNCED} * * 1001 {program} deny\n* * * * * allow log\n")
        for user, action in ((1000, "BLOCKED"), (1001, "BLOCKED"), (1002, "ALLOWED")):
            agent = Agent(guard, user=user)
            agent(f"l = socket.socket(2, 1, {MPTCP}); l.bind(('{HERE}', {8000 + user})); l.listen(8)")
            with there.entered():
                client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
            client.connect((HERE, 8000 + user))
            agent("s, _ = l.accept()")
            assert client.send(b"hello") == 5 and agent("s.recv(16).decode()") == "hello"
            assert agent("s.send(b'hello')") == 5 and client.recv(16) == b"hello"
            event = guard.event(addr=ANNOUNCED, uid=user)
            assert event["action"] == action and event["gid"] == user, event
            assert event["cgroup"].startswith("/egress-test-"), event
            client.close()


if __name__ == "__main__":
    harness.main(globals())
