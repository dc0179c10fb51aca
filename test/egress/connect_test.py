"""connect() of a datagram socket sends nothing and is no attempt: the first datagram is judged."""

import json
import socket

from guarded import guarded, harness
from harness import wait_for
from packet_test import Agent, DENY_80, MARK, arrived, knows_sender, reload
from verdict_test import PYTHON, copy_of

CODE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)

class Part(ctypes.Structure):
    _fields_ = [("at", ctypes.c_char_p), ("size", ctypes.c_size_t)]

class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("length", ctypes.c_uint), ("parts", ctypes.POINTER(Part)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("room", ctypes.c_size_t),
                ("flags", ctypes.c_size_t), ("sent", ctypes.c_size_t)]

def many(s):
    part = Part(b"data", 4)
    messages = (Message * 2)(*[Message(None, 0, ctypes.pointer(part), 1) for _ in range(2)])
    done = libc.sendmmsg(s.fileno(), messages, 2, 0)
    if done < 0:
        raise OSError(ctypes.get_errno(), "sendmmsg")
    return done

def spliced(s):
    r, w = os.pipe(); os.write(w, b"data")
    return os.splice(r, s.fileno(), 4) if hasattr(os, "splice") else libc_splice(r, s)

def libc_splice(r, s):
    done = libc.splice(r, None, s.fileno(), None, ctypes.c_size_t(4), 0)
    if done < 0:
        raise OSError(ctypes.get_errno(), "splice")
    return done

def corked(s, to=None):
    s.setsockopt(17, 1, 1)
    s.send(b"data")
    if to:
        s.connect(to)
    s.setsockopt(17, 1, 0)

def parts(s):
    s.send(b"da", 0x8000); return s.send(b"ta")

def disconnect(s):
    done = libc.connect(s.fileno(), bytes(16), 16)
    if done < 0:
        raise OSError(ctypes.get_errno(), "connect")
"""
# Each way to send on a connected socket.
WAYS = ("sent(u)", "os.write(u.fileno(), b'data')", "u.sendmsg([b'data'])", "many(u)", "spliced(u)",
        "parts(u)", "sent(u, u.getpeername())")
CORKED = "corked(u)"  # the kernel does not pass on what became of it


ends = {}  # the servers, by address and port; each test has its process


def started(world, guard, rules, *options):
    for address in ("10.66.0.1", "fd66::1"):
        for port in (80, 443):
            world.listener(address, port)
            ends[address, port] = world.udp(address, port)
            ends[address, port].setblocking(False)
    guard.start(rules, *options)
    agent = Agent(guard)
    agent(CODE)
    return agent


def received(server, count):
    """So many datagrams, and no more."""
    for number in range(count):
        wait_for(lambda: arrived(server), what=f"datagram {number + 1} of {count}")
    assert not arrived(server)


def test_connect_is_no_attempt(world):
    with guarded(world) as guard:
        agent = started(world, guard, DENY_80)
        for address in ("10.66.0.1", "fd66::1", "::ffff:10.66.0.1", "127.0.0.1", "0.0.0.0", "::"):
            agent(f"udp('{address}', 80)")
        # As getaddrinfo() sorts what it has found.
        agent("found = socket.getaddrinfo('10.66.0.1', 80)")
        agent("udp('10.66.0.1', 443)")
        looks = guard.status()["looks"]
        assert looks["connect4"] == 0 == looks["connect6"] and looks["packet"] == 0, looks
        assert not guard.events(port=80)
        assert agent("sent(udp('10.66.0.1', 80))") == "EPERM"
        guard.event(action="BLOCKED", port=80)
        # A connection does send.
        assert agent("tcp('10.66.0.1', 80)") == "EPERM"

        def lessons():
            done = world.ctl("learn", "-D", harness.DATABASE, "--refused", "--json", check=True)
            return json.loads(done.stdout)
        wait_for(lambda: len(lessons()) == 2, 60, lambda: f"what was sent, and no more: {lessons()}")
        assert sorted((each["protocol"], each["ports"], each["count"]) for each in lessons()) == [
            ("tcp", ["80"], 1), ("udp", ["80"], 1)]


def test_the_unspecified_address_is_loopback(world):
    """The kernel would take the address that the socket is bound to, which a line may refuse."""
    with guarded(world) as guard:
        agent = started(world, guard, "10.66.0.1 * * * * deny\n")
        here = world.listener("127.0.0.1", 8080)
        there = [world.listener("10.66.0.1", 8080), world.udp("10.66.0.1", 8080)]
        for prefix in ("", "::ffff:"):
            agent(f"t = socket.socket({10 if prefix else 2}); t.bind(('{prefix}10.66.0.1', 0))")
            agent(f"t.connect(('{prefix}0.0.0.0', 8080))")
            assert agent("t.getpeername()[0]") == prefix + "127.0.0.1"
            here.accept()[0].close()
            agent(f"u = socket.socket({10 if prefix else 2}, 2); u.bind(('{prefix}10.66.0.1', 0))")
            agent(f"sent(u, ('{prefix}0.0.0.0', 8080))")
            # IP_PKTINFO with a source.
            agent("u = socket.socket(2, 2)")
            agent("u.sendmsg([b'x'], [(0, 8, struct.pack('=i4s4s', 0, socket.inet_aton('10.66.0.1'), bytes(4)))], 0, "
                  "('0.0.0.0', 8080))")
        for server in there:
            server.setblocking(False)
            try:
                server.recv(100) if server.type == socket.SOCK_DGRAM else server.accept()
                raise harness.Failure("the refused address was reached")
            except BlockingIOError:
                pass


def test_every_way_to_send(world):
    with guarded(world) as guard:
        agent = started(world, guard, DENY_80)
        for address, end in (("10.66.0.1", "10.66.0.1"), ("fd66::1", "fd66::1"),
                             ("::ffff:10.66.0.1", "10.66.0.1")):
            for way in WAYS:
                agent(f"u = udp('{address}', 80)")
                assert agent(way) == "EPERM", (address, way)
                assert agent(way) == "EPERM", (address, way)
                agent(f"u = udp('{address}', 443)")
                assert agent(way) in (2, 4), (address, way)
            agent(f"u = udp('{address}', 80)")
            agent(CORKED)
            agent(f"u = udp('{address}', 443)")
            agent(CORKED)
            received(ends[end, 443], len(WAYS) + 2)  # one sends two
            received(ends[end, 80], 0)


def test_connected_again(world):
    """What was judged for one peer holds for no other."""
    with guarded(world) as guard:
        agent = started(world, guard, DENY_80)
        agent("u = udp('10.66.0.1', 443)")
        assert agent("sent(u)") == 4
        agent("u.connect(('10.66.0.1', 80))")
        assert agent("sent(u)") == "EPERM"
        agent("u.connect(('10.66.0.1', 443))")
        assert agent("sent(u)") == 4
        # Connected to one, sent to another, and the other way round.
        agent("u = udp('10.66.0.1', 443)")
        assert agent("sent(u, ('10.66.0.1', 80))") == "EPERM"
        agent("u = udp('10.66.0.1', 80)")
        assert agent("sent(u, ('10.66.0.1', 443))") == 4
        assert agent("sent(u)") == "EPERM"
        # Begun for one peer, finished under another.
        agent("u = udp('10.66.0.1', 80)")
        agent("corked(u, ('10.66.0.1', 443))")
        agent("u = udp('10.66.0.1', 80); u.send(b'data', 0x8000); disconnect(u)")
        agent("u.setsockopt(17, 1, 0)")
        received(ends["10.66.0.1", 80], 0)


def test_peers_changed_by_another_thread(world):
    """The socket is connected to and fro while another thread sends: nothing gets to the one that is refused."""
    with guarded(world) as guard:
        agent = started(world, guard, DENY_80)
        agent("""
def turn(s):
    for _ in range(3000):
        s.connect(('10.66.0.1', 80)); s.connect(('10.66.0.1', 443))
def spray(s):
    n = 0
    for _ in range(6000):
        try: n += s.send(b"data") == 4
        except PermissionError: pass
    passed.append(n)
""")
        agent("u = udp('10.66.0.1', 443); passed = []")
        agent("ts = [threading.Thread(target=f, args=(u,)) for f in (turn, spray, spray)]")
        agent("[t.start() for t in ts]; [t.join() for t in ts]")
        assert agent("sum(passed)") > 0
        received(ends["10.66.0.1", 80], 0)


def test_events_of_the_first_datagram(world):
    """What a line says happens once, with the first datagram to the peer, and not for who gets none."""
    with guarded(world) as guard:
        agent = started(world, guard, MARK + "*:443 dgram udp * * allow log\n* * * * * deny audit\n")
        agent("u = udp('10.66.0.1', 443); v = udp('fd66::1', 80)")
        assert agent("[sent(u, ('10.66.0.1', 80)), sent(v, ('fd66::1', 443))]") == [4, 4]
        guard.event(action="MONITOR", addr="10.66.0.1", port=80)
        guard.event(action="ALLOWED", addr="fd66::1", port=443)
        assert not guard.events(addr="10.66.0.1", port=443) and not guard.events(addr="fd66::1", port=80)
        assert agent("[sent(u) for _ in range(5)] + [sent(v)]") == [4] * 6
        event = guard.event(action="ALLOWED", addr="10.66.0.1", port=443)
        assert event["exe"] == PYTHON and event["type"] == "dgram" and event["count"] == 1, event
        assert event["comm"].startswith("python") and event["pid"], event
        guard.event(action="MONITOR", addr="fd66::1", port=80)
        assert len(guard.events(addr="10.66.0.1", port=443)) == 1
        # The kernel sends these as if each were given the address: reported by the hook that sees that.
        other = Agent(guard)
        assert other("sent(udp('::ffff:10.66.0.1', 443))") == 4
        guard.daemon.stop()
        found = guard.events(addr="10.66.0.1", port=443)[1:]
        assert sum(each["count"] for each in found if each["pid"] != event["pid"]) == 1, found


def test_the_sender_is_judged(world):
    """Who connected it has sent nothing: another program, another user that gets the socket is who asks."""
    with guarded(world) as guard:
        other = copy_of(world, "other-python")
        agent = started(world, guard, MARK + f"*:80 * * * {other} allow\n*:80 * * 1000 * allow\n*:80 * * * * deny\n")
        knows_sender(guard)
        path = world.path("hand")
        taker = Agent(guard, other)
        taker(f"l = unix({path!r})")
        agent(f"u = udp('10.66.0.1', 80); hand_over(u, {path!r})")
        taker("u = take_over(l)")
        assert taker("sent(u)") == 4
        assert agent("sent(u)") == "EPERM"
        assert not guard.events(action="BLOCKED", exe=other)
        # The other way round, and through another user.
        taker("l.close()")
        agent(f"os.unlink({path!r}); l = unix({path!r})")
        taker(f"u = udp('10.66.0.1', 80); hand_over(u, {path!r})")
        agent("u = take_over(l)")
        assert agent("sent(u)") == "EPERM" and taker("sent(u)") == 4
        agent("u = udp('10.66.0.1', 80); os.setresuid(1000, 1000, 0)")
        assert agent("sent(u)") == 4
        agent("os.setresuid(0, 0, 0); u = udp('10.66.0.1', 80)")
        assert agent("sent(u)") == "EPERM"


def test_no_copy_of_a_multicast_gets_out(world):
    """The kernel gives the receivers on this host a copy that no packet hook sees."""
    world.host("peer")  # on the loopback device there is no copy
    harness.run("ip", "route", "add", "224.0.0.0/4", "dev", "to-peer")
    with guarded(world) as guard:
        receivers = []
        for port in (7801, 7802):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            receiver.bind(("", port))
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                                socket.inet_aton("239.1.2.3") + socket.inet_aton("10.77.1.1"))
            receiver.setblocking(False)
            receivers.append(receiver)
        agent = started(world, guard, MARK + "*:7801 * * * * deny\n* * * * * allow\n")

        def goes(address, port, before=""):
            return agent(f"[u := socket.socket(socket.AF_INET, socket.SOCK_DGRAM), {before} "
                         f"u.connect(('{address}', {port})), u.send(b'data')][-1]")
        broadcast = "u.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1),"
        assert goes("239.1.2.3", 7802) == 4
        wait_for(lambda: arrived(receivers[1]) == b"data", what="the datagram that is allowed")
        assert goes("239.1.2.3", 7801) == "EPERM"
        assert goes("10.77.1.255", 7802, broadcast) == 4
        wait_for(lambda: arrived(receivers[1]) == b"data", what="the broadcast that is allowed")
        assert goes("10.77.1.255", 7801, broadcast) == "EPERM"
        assert goes("10.77.1.255", 7801) == "EACCES"
        assert agent("[u := udp('239.1.2.3', 7802), u.connect(('239.1.2.3', 7801))]") == "EPERM"
        assert arrived(receivers[0]) == b""
        guard.event(action="BLOCKED", addr="239.1.2.3", port=7801)
        guard.event(action="BLOCKED", addr="10.77.1.255", port=7801)


def test_lines_of_icmp_are_enough_for_ping(world):
    """ping connects a datagram socket first, to port 1025, to learn its own address."""
    harness.run("sysctl", "-q", "net.ipv4.ping_group_range=0 2147483647")
    with guarded(world) as guard:
        guard.start("* * icmp * * allow\n* * icmp6 * * allow\n* * * * * deny\n")
        agent = Agent(guard)
        for family, protocol, kind, address in (("AF_INET", 1, 8, "10.66.0.1"), ("AF_INET6", 58, 128, "fd66::1")):
            agent(f"udp('{address}', 1025).getsockname()")
            agent(f"p = socket.socket(socket.{family}, socket.SOCK_DGRAM, {protocol}); p.settimeout(10)")
            agent(f"p.connect(('{address}', 0))")
            assert agent(f"p.send(bytes([{kind}]) + bytes(7))") == 8
            assert agent("len(p.recv(100))") == 8
        assert not guard.events(action="BLOCKED"), guard.events()


def test_a_new_policy_judges_again(world):
    with guarded(world) as guard:
        agent = started(world, guard, DENY_80)
        agent("u = udp('10.66.0.1', 80); v = udp('10.66.0.1', 443)")
        reload(world, guard, MARK + "*:443 * * * * deny\n* * * * * allow\n")
        assert agent("sent(u)") == 4 and agent("sent(v)") == "EPERM"


def test_watched_only(world):
    with guarded(world) as guard:
        agent = started(world, guard, DENY_80, "-m")
        agent("u = udp('10.66.0.1', 80)")
        assert not guard.events(port=80)
        assert agent("sent(u)") == 4
        guard.event(action="MONITOR", port=80)


if __name__ == "__main__":
    harness.main(globals())
