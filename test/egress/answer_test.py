"""Answers of UDP services: back to where a datagram came from, from the same socket, for 30 seconds."""

import os
import socket
import struct
import time

from guarded import guarded, harness
from harness import wait_for
from packet_test import Agent, reload

DENY = "* * * * * deny\n"
IPV6_FREEBIND = 78
FORGED = "a source that is another user's"
CODE = """
def bound(address, port, reuse=0):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in address:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
    if ":" in address: s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    s.bind((address, port)); s.settimeout(10); return s

def told(source):  # the source of one datagram (IPV6_PKTINFO, IP_PKTINFO)
    if ":" in source: return [(socket.IPPROTO_IPV6, 50, socket.inet_pton(socket.AF_INET6, source) + bytes(4))]
    return [(socket.IPPROTO_IP, 8, bytes(4) + socket.inet_aton(source) + bytes(4))]

def asked(s):
    data, peer = s.recvfrom(100); return peer

def emptied(s):
    s.setblocking(False)
    try:
        while True: s.recv(100)
    except BlockingIOError: s.settimeout(10)
"""


class Client:
    """Outside of the cgroup."""

    def __init__(self, address, port=0):
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(10)
        self.socket.bind((address, port))
        self.name = self.socket.getsockname()[:2]

    def ask(self, *server):
        self.socket.sendto(b"question", server)

    def answer(self):
        return self.socket.recv(100)


def served(guard, rules=DENY):
    guard.start(rules)
    agent = Agent(guard)
    agent(CODE)
    agent("s = bound('::', 5300)")
    return agent


def remote(world, *addresses):
    peer = world.host("peer")
    with peer.entered():
        return [Client(address) for address in addresses]


def test_a_service_answers(world):
    """From here and from elsewhere; nobody else gets anything, and nothing is reported."""
    far4, far6 = remote(world, "10.77.1.2", "fd77:1::2")
    near = [(Client(address), address) for address in ("127.0.0.1", "::1", "10.66.0.1", "fd66::1")]
    with guarded(world) as guard:
        agent = served(guard)
        for client, server in [(far4, "10.77.1.1"), (far6, "fd77:1::1"), *near]:
            assert agent(f"s.sendto(b'too soon', ('{'' if ':' in client.name[0] else '::ffff:'}{client.name[0]}', "
                         f"{client.name[1]}))") == "EPERM"
            client.ask(server, 5300)
            agent("peer = asked(s)")
            assert agent("s.sendto(b'answer', peer)") == 6, client.name
            assert agent("s.sendmsg([b'again'], [], 0, peer)") == 5, client.name
            assert [client.answer(), client.answer()] == [b"answer", b"again"]
            # That peer, that port and that socket.
            assert agent("s.sendto(b'x', (peer[0], peer[1] ^ 1))") == "EPERM"
            assert agent("sent(udp(peer[0], peer[1]))") == "EPERM"
            assert agent("s.sendto(b'x', ('::ffff:10.77.1.9', peer[1]))") == "EPERM"
        refused = guard.events(action="BLOCKED")
        wait_for(lambda: len(guard.events(action="BLOCKED")) >= 12, 20, "the refusals")
        # The first of each was before the question; the answers are in no event.
        assert all(each["count"] == 1 for each in refused), refused


def test_connected_for_one_client(world):
    """A socket of its own for a client, as DTLS servers have it."""
    client, early = Client("10.66.0.1"), Client("10.66.0.1")
    with guarded(world) as guard:
        agent = served(guard)
        # Who has been sent to first, in vain, does not ask: a firewall that saw the datagram may now let
        # in what it else keeps out.
        agent(f"e = bound('10.66.0.1', 5302); e.connect({early.name!r})")
        assert agent("sent(e)") == "EPERM"
        early.ask("10.66.0.1", 5302)
        agent("asked(e)")
        assert agent("sent(e)") == "EPERM"
        agent(f"c = bound('10.66.0.1', 5301); c.connect({client.name!r})")
        client.ask("10.66.0.1", 5301)
        agent("asked(c)")
        assert agent("sent(c)") == 4 and client.answer() == b"data"
        # Elsewhere, and disconnected.
        assert agent("c.sendto(b'x', ('10.66.0.1', 9))") == "EPERM"
        agent("import ctypes; ctypes.CDLL(None).connect(c.fileno(), bytes(16), 16)")
        assert agent("c.sendto(b'x', ('10.66.0.1', 9))") == "EPERM"
        agent("c.bind(('10.66.0.1', 5301))")
        client.ask("10.66.0.1", 5301)
        agent("asked(c)")
        assert agent(f"sent(c, {client.name!r})") == 4


def test_many_in_turn(world):
    """The hook keeps whom the last datagram came from: others in between are noted as well."""
    clients = [Client(address) for address in ("10.66.0.1", "10.66.0.1", "127.0.0.1", "fd66::1")]
    optional = Client("10.66.0.1")
    optional.socket.setsockopt(socket.IPPROTO_IP, 4, bytes([1] * 4))  # IP_OPTIONS: the ports come later
    with guarded(world) as guard:
        agent = served(guard)
        for turn in range(12):
            client = [*clients, optional][turn * 3 % 5]
            for _ in range(turn % 3 + 1):
                client.ask(client.name[0], 5300)
                agent("peer = asked(s)")
            assert agent("s.sendto(b'answer', peer)") == 6, (turn, client.name)
            assert client.answer() == b"answer"
            assert agent("s.sendto(b'x', (peer[0], peer[1] ^ 1))") == "EPERM"
        for client in (*clients, optional):
            name = client.name if ":" in client.name[0] else ("::ffff:" + client.name[0], client.name[1])
            assert agent(f"s.sendto(b'answer', {name!r})") == 6 and client.answer() == b"answer", name


def test_another_socket_on_the_port(world):
    clients = [Client("10.66.0.1") for _ in range(40)]
    with guarded(world) as guard:
        agent = served(guard)
        agent("a = bound('10.66.0.1', 5302, 1); b = bound('10.66.0.1', 5302, 1)")
        for client in clients:
            client.ask("10.66.0.1", 5302)
        agent("""
def turns(s, other):
    s.setblocking(False); out = []
    try:
        while True:
            peer = s.recvfrom(100)[1]
            try: other.sendto(b"wrong", peer); out.append("sent")
            except PermissionError: out.append("EPERM")
            out.append(s.sendto(b"right", peer))
    except BlockingIOError: return out
""")
        assert agent("turns(a, b) + turns(b, a)") == ["EPERM", 5] * 40
        assert all(client.answer() == b"right" for client in clients)


def test_a_socket_in_other_hands(world):
    """What it may answer goes with the socket, as an accepted connection does; nothing else does."""
    client = Client("10.66.0.1")
    with guarded(world) as guard:
        agent = served(guard)
        path = world.path("hand")
        taker = Agent(guard)
        taker("os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)")
        agent(f"l = unix({path!r}); os.chmod({path!r}, 0o777)")
        os.chmod(os.path.dirname(path), 0o755)
        taker(CODE)
        taker(f"t = bound('10.66.0.1', 5303); hand_over(t, {path!r})")
        agent("t = take_over(l)")
        for who in (agent, taker):
            assert who(f"sent(t, {client.name!r})") == "EPERM"
        client.ask("10.66.0.1", 5303)
        agent("asked(t)")
        for who in (agent, taker):
            assert who(f"sent(t, {client.name!r})") == 4 and client.answer() == b"data"
            assert who("sent(t, ('10.66.0.1', 9))") == "EPERM"


def test_who_speaks_first(world):
    """A client whose line is gone is cut off, however much its server goes on sending."""
    server, = remote(world, "10.77.1.2")
    with guarded(world) as guard:
        agent = served(guard, "* * * * * allow\n")
        agent("u = bound('10.77.1.1', 5304); c = bound('10.77.1.1', 5305)")
        agent(f"c.connect({server.name!r})")
        assert agent(f"[sent(u, {server.name!r}), sent(c)]") == [4, 4]
        for port in (5304, 5305):
            server.ask("10.77.1.1", port)
        agent("[asked(u), asked(c)]")
        reload(world, guard, "10.77.1.2 * * * * deny\n* * * * * allow\n")
        for port in (5304, 5305):
            server.ask("10.77.1.1", port)
        agent("[asked(u), asked(c)]")
        assert agent(f"sent(u, {server.name!r})") == "EPERM" == agent("sent(c)")


def test_forged_here(world):
    """Programs of this host can choose a source that is not theirs: it permits nothing."""
    world.host("peer")
    with guarded(world) as guard:
        agent = served(guard)

        def forged(source, target, how):
            how(source, target)
            got = agent("asked(s)[0]")
            assert source in got, got
            to = source if ":" in source else "::ffff:" + source
            assert agent(f"s.sendto(b'x', ('{to}', 7000))") == "EPERM", (source, target)

        def bound_freely(source, target):  # as any user
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            s.bind((source, 7000))
            s.sendto(b"x", (target, 5300))

        def raw4(source, target):
            s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            s.sendto(struct.pack("!BBHHHBBH4s4sHHHH", 0x45, 0, 29, 1, 0, 64, 17, 0, socket.inet_aton(source),
                                 socket.inet_aton(target), 7000, 5300, 9, 0) + b"x", (target, 0))

        def looped(source, target):  # the copy of a multicast carries another device's number
            agent("s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, "
                  f"'{target}') + socket.if_nametoindex('to-peer').to_bytes(4, 'little'))")
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            s.bind((source, 7000))
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex('to-peer'))
            s.sendto(b"x", (target, 5300))
        forged("fd77:1::2", "::1", bound_freely)
        forged("fd77:1::2", "fd66::1", bound_freely)
        forged("10.77.1.2", "127.0.0.1", raw4)
        forged("10.77.1.2", "10.66.0.1", raw4)
        forged("fd77:1::2", "ff05::1234", looped)


# A service's address, the address on which a forger has the same port, and where to it sends in its name.
SERVICES = [
    ("10.66.0.1", "127.0.0.1", "10.66.0.1"),
    ("127.0.0.1", "10.66.0.1", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.2", "10.66.0.1"),
    ("10.66.0.1", "::ffff:127.0.0.1", "::ffff:10.66.0.1"),
    ("fd66::1", "::1", "fd66::1"),
    ("::1", "fd66::1", "::1"),
    ("fd66::1", "fd77:9::9", "fd66::1"),
]


def test_forged_service(world):
    """A program that has a service's port on another address can't speak in its name, which would make the
    service one that has asked."""
    with guarded(world) as guard:
        guard.start("*:7000-7009 * * * * deny\n* * * * * allow\n")
        agent, forger = Agent(guard), Agent(guard, user=1000)
        agent(CODE)
        forger(CODE)
        agent("s = bound('::', 5300)")
        for port, (real, other, target) in enumerate(SERVICES, 7000):
            server = Client(real, port)
            service = f"('{real if ':' in real else '::ffff:' + real}', {port})"
            assert agent(f"s.sendto(b'x', {service})") == "EPERM"
            assert forger(f"f = bound({other!r}, {port})") is None
            assert forger(f"f.sendmsg([b'forged'], told({real!r}), 0, ({target!r}, 5300))") == "EPERM", (real, other)
            assert agent(f"s.sendto(b'x', {service})") == "EPERM", (real, other)
            if other != "fd77:9::9":  # in its own name it may
                assert forger(f"f.sendto(b'own', ({target!r}, 5300))") == 3, (real, other)
            forger("f.close()")
            agent("emptied(s)")
            server.ask(target.removeprefix("::ffff:"), 5300)  # it may be answered when it asks itself
            agent("peer = asked(s)")
            assert agent("s.sendto(b'answer', peer)") == 6
            assert server.answer() == b"answer", "a datagram that was refused has arrived"
            server.socket.close()
        event = guard.event(action="BLOCKED", reason=FORGED, addr="10.66.0.1", port=5300, protocol="udp")
        assert event["uid"] == 1000 and "rule" not in event, event


def test_forged_service_monitored(world):
    """It is told, and goes on."""
    server = Client("10.66.0.1", 7000)
    with guarded(world) as guard:
        guard.start("* * * * * allow\n", "-m")
        agent, forger = Agent(guard), Agent(guard, user=1000)
        agent(CODE)
        forger(CODE)
        agent("s = bound('::', 5300)")
        forger("f = bound('127.0.0.1', 7000)")
        assert forger("f.sendmsg([b'forged'], told('10.66.0.1'), 0, ('10.66.0.1', 5300))") == 6
        assert agent("asked(s)[:2]") == ["::ffff:" + server.name[0], 7000]
        assert guard.event(action="MONITOR", reason=FORGED, addr="10.66.0.1", port=5300)


def test_a_source_of_its_own(world):
    """Programs that name the source of what they send, as name servers do, go on: on a socket for all
    addresses, beside another one on the same address, and with a source that nobody else has, or only the
    same user."""
    with guarded(world) as guard:
        guard.start("* * * * * allow\n")
        agent = Agent(guard)
        agent(CODE)
        agent("t4, t6 = bound('10.66.0.1', 5300), bound('fd66::1', 5300)")
        for sockets in ("a = b = bound('::', 7001)", "a, b = bound('::', 7002, 1), bound('::', 7002, 1)",
                        "a, b = bound('127.0.0.1', 7003), bound('::1', 7003)",
                        "a, b, c, d = [bound(each, 7006) for each in ('127.0.0.1', '::1', '10.66.0.1', 'fd66::1')]",
                        "a, b = bound('10.66.0.1', 7004, 1), bound('fd66::1', 7004, 1); "
                        "c, d = bound('10.66.0.1', 7004, 1), bound('fd66::1', 7004, 1)"):
            agent(sockets)
            to4 = "10.66.0.1" if "10.66" in sockets or "127" in sockets else "::ffff:10.66.0.1"
            port = agent("a.getsockname()[1]")
            for _ in range(3):  # the kernel chooses one of the sockets on a port by a hash
                assert agent(f"a.sendmsg([b'named'], told('10.66.0.1'), 0, ({to4!r}, 5300))") == 5, sockets
                assert agent("asked(t4)") == ["10.66.0.1", port]
                assert agent("b.sendmsg([b'named'], told('fd66::1'), 0, ('fd66::1', 5300))") == 5, sockets
                assert agent("asked(t6)[:2]") == ["fd66::1", port]
        # One socket for all clients, and one for a client of its own.
        agent("a, b = bound('::', 7005, 1), bound('::', 7005, 1); b.connect(('::ffff:10.66.0.1', 5300))")
        assert agent("[sent(a, ('::ffff:10.66.0.1', 5300)), sent(b)]") == [4, 4]
        assert not guard.events(action="BLOCKED")


def test_full(world):
    """A flood of peers makes a user's services forget: their answers are judged, and that is told."""
    client = Client("10.66.0.1")
    with guarded(world) as guard:
        agent = served(guard)
        others = []
        for uid in (1001, 1002, 1003):
            other = Agent(guard)
            other(f"os.setresuid({uid}, {uid}, {uid})")
            other(CODE)
            other(f"o = bound('10.66.0.1', {5300 + uid})")
            client.ask("10.66.0.1", 5300 + uid)
            other("asked(o)")
            others.append(other)
        client.ask("10.66.0.1", 5300)
        agent("peer = asked(s)")
        assert agent("s.sendto(b'answer', peer)") == 6
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        target = socket.inet_aton("127.0.0.1")
        for number in range(80000):
            raw.sendto(struct.pack("!BBHHHBBH4sIHHHH", 0x45, 0, 28, 1, 0, 64, 17, 0,
                                   bytes((127, 1, number >> 8 & 255, number & 255)),
                                   struct.unpack("!I", target)[0], 1024 + number % 60000, 5300, 8, 0),
                       ("127.0.0.1", 0))
        assert agent("s.sendto(b'answer', peer)") == "EPERM"
        assert guard.status()["losses"]["answers"]["count"] > 10000
        wait_for(lambda: "peers of UDP services were forgotten early" in guard.daemon.log(), 20, "the warning")
        # Of three other users, at most one or two share its part.
        assert 4 in [other(f"sent(o, {client.name!r})") for other in others]
        # It goes on with the next question.
        client.ask("10.66.0.1", 5300)
        agent("emptied(s)")
        client.ask("10.66.0.1", 5300)
        assert agent("s.sendto(b'answer', asked(s))") == 6


def test_the_time_ends(world):
    client = Client("10.66.0.1")
    with guarded(world) as guard:
        agent = served(guard)
        began = time.monotonic()
        client.ask("10.66.0.1", 5300)
        agent("peer = asked(s)")
        assert agent("s.sendto(b'answer', peer)") == 6
        wait_for(lambda: agent("s.sendto(b'late', peer)") == "EPERM", 60, "the time to end")
        assert time.monotonic() - began > 29


def test_without_the_daemon(world):
    client = Client("10.66.0.1")
    with guarded(world) as guard:
        agent = served(guard)
        guard.daemon.stop(9)
        client.ask("10.66.0.1", 5300)
        agent("peer = asked(s)")
        assert agent("s.sendto(b'answer', peer)") == 6
        guard.start(DENY)
        assert agent("s.sendto(b'answer', peer)") == 6  # the next one knows, too


if __name__ == "__main__":
    harness.main(globals())
