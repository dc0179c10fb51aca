"""Packets that name the way they take: every address on it is judged, not only where they end."""

import socket

from guarded import guarded, harness
from harness import wait_for
from packet_test import ALLOW, MARK, Agent, Peers, arrived, knows_sender, open_raw, reload, servers

DENY_2 = MARK + "10.66.0.2 * * * * deny\n[fd66::2] * * * * deny\n* * * * * allow\n"
UNREAD = "a source route that cannot be judged"

HELPERS = """
def by(*stops, kind=131):
    option = bytes([1, kind, 3 + 4 * len(stops), 4])
    return option + b"".join(socket.inet_aton("10.66.0.%d" % stop) for stop in stops)

def way(s, options):
    s.setsockopt(0, socket.IP_OPTIONS, options)

def turn(s, options):  # a connection keeps its way until it has to look for another
    way(s, options); s.setsockopt(1, 36, 1 + len(options))

def segments(*stops, kind=4, next=0, left=None, last=None):
    body = b"".join(socket.inet_pton(10, "fd66::%d" % stop if stop else "::") for stop in stops)
    end = len(stops) - 1 if last is None else last
    return struct.pack("!BBBBI", next, 2 * len(stops), kind, len(stops) - 1 if left is None else left,
                       end << 24 if kind == 4 else 0) + body

def way6(s, *stops, **keywords):
    s.setsockopt(41, 57, segments(*stops, **keywords))

def own_packet(to, options):
    options += bytes(-len(options) % 4)
    size = 20 + len(options)
    return struct.pack("!BBHHHBBH4s4s", 0x40 + size // 4, 0, size + 4, 1, 0, 64, 253, 0, bytes(4),
                       socket.inet_aton("10.66.0.%d" % to)) + options + b"data"

def said(call, *words):
    try:
        call(*words); return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


def agent_of(guard):
    agent = Agent(guard)
    agent(HELPERS)
    return agent


def test_datagrams(world):
    servers(world)
    with guarded(world) as guard:
        guard.start(DENY_2)
        agent = agent_of(guard)
        agent("u = udp('10.66.0.1', 80)")
        agent("v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        agent("w = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)")
        sends = ("sent, u", "sent, v, ('10.66.0.1', 80)", "sent, w, ('::ffff:10.66.0.1', 80)")
        for name, send in zip("uvw", sends):
            for stops, expected in (("3", "ok"), ("2", "EPERM"), ("3, 2", "EPERM"), ("2, 3", "EPERM"),
                                    ("3, 3, 3, 3, 3, 3, 3, 2", "EPERM"), ("3, 3, 3", "ok")):
                for kind in (131, 137):
                    agent(f"way({name}, by({stops}, kind={kind}))")
                    assert agent(f"said({send})") == expected, (name, stops, kind)
            agent(f"way({name}, b'')")
            assert agent(f"said({send})") == "ok", name
            agent(f"way({name}, bytes([7, 7, 4, 0, 0, 0, 0, 0]))")  # records its route: names none
            assert agent(f"said({send})") == "ok", name
            agent(f"way({name}, b'')")
        # With one message alone.
        agent("def one(stop): v.sendmsg([b'data'], [(0, 7, by(stop))], 0, ('10.66.0.1', 80))")
        assert agent("[said(one, 3), said(one, 2)]") == ["ok", "EPERM"]
        event = guard.event(action="BLOCKED", addr="10.66.0.2", port=80, protocol="udp", type="dgram")
        assert event["rule"].endswith(":5:1") and event["reason"] == "deny", event
        # Where it ends is judged as ever.
        assert agent("[way(v, by(3)), said(sent, v, ('10.66.0.2', 80))][1]") == "EPERM"


def test_datagrams6(world):
    servers(world)
    with guarded(world) as guard:
        guard.start(DENY_2)
        agent = agent_of(guard)
        agent("u = udp('fd66::1', 80)")
        agent("v = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)")
        if agent("said(way6, u, 0, 3)") != "ok":
            raise harness.Skip("this kernel has no segment routing")
        for name, send in (("u", "sent, u"), ("v", "sent, v, ('fd66::1', 80)")):
            for stops, expected in (("0, 3", "ok"), ("0, 2", "EPERM"), ("0, 2, 3", "EPERM"),
                                    ("0, 3, 2", "EPERM"), ("0, 3, 3", "ok")):
                agent(f"way6({name}, {stops})")
                assert agent(f"said({send})") == expected, (name, stops)
        guard.event(action="BLOCKED", addr="fd66::2", port=80, protocol="udp", type="dgram")
        if agent("said(lambda: way6(v, 3, kind=2, left=1))") == "ok":  # of mobile hosts
            assert agent("said(sent, v, ('fd66::1', 80))") == "ok"
            agent("way6(v, 2, kind=2, left=1)")
            assert agent("said(sent, v, ('fd66::1', 80))") == "EPERM"


def test_connections(world):
    servers(world)
    with guarded(world) as guard:
        guard.start(DENY_2)
        agent = agent_of(guard)
        # On its way before it is there; what is dropped is sent again and again, and told once.
        agent("s = socket.socket(); s.setblocking(False); way(s, by(2))")
        assert agent("said(s.connect, ('10.66.0.1', 80))") == "EINPROGRESS"
        guard.event(action="BLOCKED", addr="10.66.0.2", port=80, protocol="tcp", type="stream")
        agent("s.close()")
        # Once it is there.
        agent("t = tcp('10.66.0.1', 443)")
        peer = Peers(world).tcp("10.66.0.1", 443)
        agent("turn(t, by(2))")
        assert agent("sent(t)") == 4  # into the socket's own queue
        guard.event(action="BLOCKED", addr="10.66.0.2", port=443, protocol="tcp", type="stream")
        assert arrived(peer) == b""
        agent("turn(t, b'')")
        wait_for(lambda: arrived(peer) == b"data", 60, "what was held back")
        world.listener("10.66.0.1", 80).setblocking(False)
        try:
            world.listener("10.66.0.1", 80).accept()
            raise harness.Failure("the connection was made")
        except BlockingIOError:
            pass


def test_answers_of_a_server(world):
    """They are not judged by their peer; but by the way that the server has them take."""
    with guarded(world) as guard:
        guard.start(DENY_2)
        knows_sender(guard)
        agent = agent_of(guard)
        agent("l = socket.socket(); l.bind(('10.66.0.1', 7000)); l.listen()")
        made = socket.create_connection(("10.66.0.1", 7000), 10)
        made.setblocking(False)
        agent("a = l.accept()[0]; turn(a, by(2))")
        assert agent("sent(a)") == 4
        port = made.getsockname()[1]
        guard.event(action="BLOCKED", addr="10.66.0.2", port=port, protocol="tcp", type="stream")
        assert arrived(made) == b""
        agent("turn(a, b'')")
        wait_for(lambda: arrived(made) == b"data", 60, "what was held back")


def test_raw_packets(world):
    with guarded(world) as guard:
        guard.start(DENY_2)
        agent = agent_of(guard)
        open_raw(agent)
        agent("def go(to, options): own.sendto(own_packet(to, options), ('10.66.0.1', 0))")
        for packet, expected in (
                ("1, by(3)", "ok"), ("1, by(2)", "EPERM"), ("2, by(1)", "EPERM"), ("1, by(3, 2, 3)", "EPERM"),
                ("1, by(2, kind=137)", "EPERM"), ("1, bytes([7, 7, 4, 0, 0, 0, 0])", "ok"),
                ("1, bytes([7, 7, 4, 0, 0, 0, 0]) + by(2)", "EPERM"), ("1, bytes([0]) + by(2)[1:]", "ok"),
                # None that anybody could follow; who knows who tries.
                ("1, by(3) + by(3)", "EPERM"), ("1, bytes([131, 3, 4])", "EPERM"),
                ("1, bytes([131, 8, 4, 0, 0, 0, 0, 0])", "EPERM"), ("1, bytes([7, 1, 4])", "EPERM"),
                ("1, bytes([131, 39, 4])", "EPERM")):
            assert agent(f"said(go, {packet})") == expected, packet
        event = guard.event(action="BLOCKED", addr="10.66.0.1", reason=UNREAD)
        assert event["type"] == "raw" and "rule" not in event, event
        assert len(guard.events(reason=UNREAD)) == 1, guard.events(reason=UNREAD)  # and then counted


def test_raw_packets6(world):
    with guarded(world) as guard:
        guard.start(DENY_2)
        agent = agent_of(guard)
        open_raw(agent)
        agent("def go(to, *headers, first=43):\n"
              "    packet = own6_packet('fd66::%d' % to, first, b''.join(headers) + b'data')\n"
              "    own6.sendto(packet, ('fd66::1', 0))")
        agent("pad = lambda kind, next: struct.pack('!BB6x', next, 0)")
        agent("piece = lambda next, at: struct.pack('!BBHI', next, 0, at, 1)")
        end = "next=253"
        for words, expected in (
                (f"1, segments(3, 3, {end})", "ok"), (f"1, segments(2, 3, {end})", "EPERM"),
                (f"1, segments(3, 2, {end})", "EPERM"), (f"2, segments(3, {end})", "EPERM"),
                (f"1, segments(3, kind=0, {end})", "ok"), (f"1, segments(3, 2, kind=0, {end})", "EPERM"),
                (f"1, segments(2, kind=2, {end})", "EPERM"), (f"1, segments(3, kind=2, {end})", "ok"),
                (f"1, segments(2, left=0, {end})", "EPERM"),
                (f"1, pad(60, 43), segments(2, {end}), first=60", "EPERM"),
                (f"1, pad(0, 60), pad(60, 43), segments(2, {end}), first=0", "EPERM"),
                (f"1, pad(0, 60), pad(60, 43), segments(3, {end}), first=0", "ok"),
                (f"1, piece(43, 1), segments(2, {end}), first=44", "EPERM"),
                (f"1, piece(43, 8), segments(2, {end}), first=44", "ok"),  # not a header, so late
                # None that can be judged.
                (f"1, segments(3, kind=3, {end})", "EPERM"), (f"1, segments(kind=0, left=0, {end})", "EPERM"),
                (f"1, segments(3, last=7, {end})", "EPERM"), (f"1, segments(*[3] * 17, {end})", "EPERM"),
                (f"1, segments(3, next=43), segments(3, {end})", "EPERM"),
                ("1, segments(3, next=43)", "EPERM"), (f"1, segments(*[3] * 16, {end})", "ok")):
            assert agent(f"said(lambda: go({words}))") == expected, words
        guard.event(action="BLOCKED", addr="fd66::2", type="raw")
        guard.event(action="BLOCKED", addr="fd66::1", type="raw", reason=UNREAD)


def test_only_watched(world):
    """Nothing is refused where the rules only look on."""
    servers(world)
    with guarded(world) as guard:
        guard.start("10.66.0.2 * * * * deny audit\n* * * * * allow\n")
        agent = agent_of(guard)
        agent("u = udp('10.66.0.1', 80); way(u, by(2))")
        assert agent("said(sent, u)") == "ok"
        guard.event(action="MONITOR", addr="10.66.0.2", port=80, protocol="udp")
        # What cannot be judged is refused by no rule, hence whatever they say.
        open_raw(agent)
        agent("odd = lambda: own.sendto(own_packet(1, by(3) + by(3)), ('10.66.0.1', 0))")
        assert agent("said(odd)") == "EPERM"
        reload(world, guard, ALLOW)
        assert agent("said(sent, u)") == "ok"
        guard.daemon.stop()
        guard.start(DENY_2, "-m")
        assert agent("said(sent, u)") == "ok" and agent("said(odd)") == "ok"
        guard.event(action="MONITOR", addr="10.66.0.2", port=80, protocol="udp", reason="deny, monitoring only")
        guard.event(action="MONITOR", addr="10.66.0.1", type="raw", reason=UNREAD)


if __name__ == "__main__":
    harness.main(globals())
