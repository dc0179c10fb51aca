"""Packets: of connections that were there before the rules, of sockets in other hands, of raw sockets."""

import json
import os
import shutil
import socket
import struct
import subprocess
import time

from guarded import guarded, harness
from harness import Skip, wait_for
from verdict_test import PYTHON, copy_of

# Does line by line what it is told, and answers with the value or the errno.
AGENT = """
import array, errno, json, os, socket, struct, subprocess, sys, threading
for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            answer = {"value": eval(code)}
        except SyntaxError:
            exec(code)
            answer = {"value": None}
    except OSError as error:
        answer = {"value": errno.errorcode.get(error.errno, str(error))}
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer, default=repr), flush=True)
"""
HELPERS = """
def tcp(address, port):
    s = socket.create_connection((address, port), 10); s.settimeout(None); return s

def udp(address, port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((address, port)); return s

def sent(s, *to):
    return s.sendto(b"data", *to) if to else s.send(b"data")

def hand_over(s, path):
    u = socket.socket(socket.AF_UNIX); u.connect(path); socket.send_fds(u, [b"x"], [s.fileno()])

def take_over(listener):
    c, _ = listener.accept(); fd = socket.recv_fds(c, 1, 1)[1][0]; return socket.socket(fileno=fd)

def unix(path):
    u = socket.socket(socket.AF_UNIX); u.bind(path); u.listen(1); return u

def ip_header(to, protocol, payload, fragment=0):
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0,
                       bytes(4), socket.inet_aton(to)) + payload
"""


class Agent:
    """A program inside the cgroup that keeps its sockets from one order to the next."""

    def __init__(self, guard, program=PYTHON, user=None):
        self.process = subprocess.Popen([program, "-u", "-c", AGENT], preexec_fn=guard.entry(user, user), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=harness.free_environment())
        guard.started.append(self.process)
        self(HELPERS)

    def __call__(self, code):
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        assert line, "the agent has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer
        return answer["value"]


class Peers:
    """The other ends, outside of the cgroup."""

    def __init__(self, world):
        self.world = world

    def tcp(self, address, port):
        """The accepted end of the connection that was made last."""
        accepted, _ = self.world.listener(address, port).accept()
        accepted.setblocking(False)
        return accepted


def arrived(peer):
    try:
        return peer.recv(1 << 16)
    except BlockingIOError:
        return b""


def unacknowledged(peer):
    """Segments that the other end has not acknowledged."""
    return struct.unpack_from("I", peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0]


def servers(world):
    for port in (80, 443):
        world.listener("10.66.0.1", port)
        world.listener("fd66::1", port)
    for port in (80, 443):
        world.udp("10.66.0.1", port)
        world.udp("fd66::1", port)


def reload(world, guard, rules):
    before = guard.status()["generation"]
    world.write("egress.conf", "[local]\n2222 stream tcp * * 3 1h\n[egress]\n" + rules + "\n")
    assert guard.daemon.request("POST", "/v1/reload")[0] == 200
    wait_for(lambda: guard.status()["generation"] > before, 60, "the next generation")


def knows_sender(guard):
    if "connected sockets passed by descriptor" in guard.status()["not_covered"]:
        raise Skip("this kernel does not show who sends")


def number_of(guard, agent):
    """The process as the kernel side numbers it, which is not as it is numbered in the test's namespace:
    taken from an event of its own. The rules have to begin with MARK."""
    agent("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('10.66.9.9', os.getpid()))")
    inside = agent("os.getpid()")
    return guard.event(addr="10.66.9.9", port=inside)["pid"]


def opened(agent, world):
    """Connections to both ports, of both families and protocols; the accepted TCP ends by name."""
    ends = {}
    for family, address in ((4, "10.66.0.1"), (6, "fd66::1")):
        for port in (80, 443):
            agent(f"t{family}_{port} = tcp('{address}', {port})")
            ends[f"t{family}_{port}"] = Peers(world).tcp(address, port)
            agent(f"u{family}_{port} = udp('{address}', {port})")
    return ends


def port_80_is_cut(agent, ends, events):
    """... and nothing else."""
    for family in (4, 6):
        assert agent(f"sent(u{family}_80)") == "EPERM"
        assert agent(f"sent(u{family}_443)") == 4
        assert agent(f"sent(t{family}_80)") == 4  # into the socket's own queue
        assert agent(f"sent(t{family}_443)") == 4
        wait_for(lambda family=family: arrived(ends[f"t{family}_443"]) == b"data", what="data")
        events(f"tcp{family}")
        assert arrived(ends[f"t{family}_80"]) == b""


MARK = "10.66.9.9 * * * * deny\n"
DENY_80 = MARK + "*:80 * * * * deny\n* * * * * allow\n"
ALLOW = MARK + "* * * * * allow\n"


def test_connections_from_before_the_rules(world):
    servers(world)
    with guarded(world) as guard:
        agent = Agent(guard)
        ends = opened(agent, world)
        guard.start(DENY_80)

        def event(which):
            found = guard.event(action="BLOCKED", protocol="tcp", port=80,
                                addr="10.66.0.1" if which == "tcp4" else "fd66::1")
            assert found["exe"] == PYTHON and found["reason"] == "deny", found
            assert found["rule"].endswith(":5:1") and found["type"] == "stream", found
            assert found["uid"] == 0 and found["comm"].startswith("python"), found
        port_80_is_cut(agent, ends, event)
        assert guard.status()["looks"]["packet"] > 0
        # What was held back goes on when it may.
        reload(world, guard, ALLOW)
        for name in ("t4_80", "t6_80"):
            wait_for(lambda name=name: arrived(ends[name]) == b"data", 60, f"data on {name}")


def test_answers_of_interrupts_belong_to_the_owner(world):
    """Acknowledgements leave while somebody else runs: here while the peer, outside, sends."""
    servers(world)
    with guarded(world) as guard:
        agent = Agent(guard)
        other = Agent(guard)
        ends = opened(agent, world)
        guard.start(DENY_80)
        for name in ("t4_443", "t6_443", "t4_80", "t6_80"):
            ends[name].send(b"question")
        for address in ("10.66.0.1", "fd66::1"):
            event = guard.event(action="BLOCKED", addr=address, port=80)
            assert event["pid"] == number_of(guard, agent) and event["exe"] == PYTHON, event
        wait_for(lambda: not unacknowledged(ends["t4_443"]), what="the acknowledgement")
        assert unacknowledged(ends["t4_80"]) and unacknowledged(ends["t6_80"])


def test_reload_cuts_what_it_let_through(world):
    servers(world)
    with guarded(world) as guard:
        guard.start(ALLOW)
        agent = Agent(guard)
        ends = opened(agent, world)
        for name, end in ends.items():
            assert agent(f"sent({name})") == 4
            wait_for(lambda end=end: arrived(end) == b"data", what="data")
        events = len(guard.events())
        reload(world, guard, DENY_80)
        port_80_is_cut(agent, ends, lambda which: guard.event(
            action="BLOCKED", protocol="tcp", port=80,
            addr="10.66.0.1" if which == "tcp4" else "fd66::1"))
        # One that is let through as before makes no event.
        assert all(event["port"] == 80 for event in guard.events()[events:])


def test_accepted_connections_are_not_judged(world):
    with guarded(world) as guard:
        agent = Agent(guard)
        for name, address in (("a", "10.66.0.1"), ("b", "fd66::1"), ("c", "10.66.0.1")):
            family = "AF_INET6" if ":" in address else "AF_INET"
            agent(f"{name} = socket.socket(socket.{family})")
            agent(f"{name}.bind(('{address}', {7000 + ord(name)})); {name}.listen()")

        def client(name, address):
            made = socket.create_connection((address, 7000 + ord(name)), 10)
            agent(f"{name}_ends = globals().get('{name}_ends', []) + [{name}.accept()[0]]")
            return made

        def talks(made, name, number):
            made.sendall(b"question")
            assert agent(f"{name}_ends[{number}].recv(100).decode()") == "question"
            assert agent(f"sent({name}_ends[{number}])") == 4
            assert made.recv(100) == b"data"
        before = [client("a", "10.66.0.1"), client("b", "fd66::1"), client("c", "10.66.0.1")]
        agent("c.close()")  # nobody listens there any more
        guard.start("* * * * * deny\n")
        for made, name in zip(before, "abc"):
            talks(made, name, 0)
        after = [client("a", "10.66.0.1"), client("b", "fd66::1")]
        for made, name in zip(after, "ab"):
            talks(made, name, 1)
        agent("a.close(); b.close()")
        for made, name in zip(after, "ab"):
            talks(made, name, 1)
        assert not guard.events(), guard.events()


def test_raw_sockets_from_before_the_rules(world):
    with guarded(world) as guard:
        agent = Agent(guard)
        open_raw(agent)
        guard.start(MARK + "10.66.0.2 * * * * deny\n[fd66::2] * * * * deny\n"
                    "* * * * * allow\n")
        judged_by_header(guard, agent)


def test_raw_sockets_by_destination(world):
    with guarded(world) as guard:
        guard.start(ALLOW)
        agent = Agent(guard)
        open_raw(agent)
        assert agent("sent(raw, ('10.66.0.2', 0))") == 4
        reload(world, guard, MARK + "10.66.0.2 * * * * deny\n[fd66::2] * * * * deny\n* * * * * allow\n")
        judged_by_header(guard, agent)
        # By port, where the packet has one; a later fragment has none.
        reload(world, guard, "10.66.0.1:80 * tcp * * deny\n* * * * * allow\n")
        agent("syn = lambda port: struct.pack('!HHIIBBHHH', 5, port, 0, 0, 0x50, 2, 0, 0, 0)")
        agent("packet = lambda port, f=0: "
              "own.sendto(ip_header('10.66.0.1', 6, syn(port), f), ('10.66.0.1', 0))")
        assert agent("[packet(443), packet(80, 100)]") == [40, 40]
        assert agent("packet(80)") == "EPERM"
        assert agent("packet(80, 0x2000)") == "EPERM"  # the first fragment
        event = guard.event(action="BLOCKED", addr="10.66.0.1", port=80)
        assert event["type"] == "raw" and event["protocol"] == "tcp", event


def test_raw_sockets_of_a_container(world):
    """By the cgroup that the sender is in when the packet leaves."""
    with guarded(world) as guard:
        inner = f"{guard.cgroup}/cri-containerd-{'0123456789abcdef' * 4}.scope"
        os.mkdir(inner)
        agent = Agent(guard)
        open_raw(agent)
        guard.start("10.66.0.2 * * * * deny container\n10.66.0.3 * * * * deny host\n")
        knows_sender(guard)
        tries = "[said(sent, raw, ('10.66.0.%d' % n, 0)) for n in (1, 2, 3)]"
        agent("def said(call, *words):\n"
              "    try: return call(*words)\n"
              "    except OSError as error: return errno.errorcode[error.errno]")
        for cgroup, expected in ((guard.cgroup, [4, 4, "EPERM"]), (inner, [4, "EPERM", 4]),
                                 (guard.cgroup, [4, 4, "EPERM"])):
            with open(cgroup + "/cgroup.procs", "w") as procs:
                procs.write(str(agent.process.pid))
            assert agent(tries) == expected, cgroup
        assert guard.event(addr="10.66.0.2", action="BLOCKED")["container"] is True
        assert guard.event(addr="10.66.0.3", action="BLOCKED")["container"] is False


def open_raw(agent):
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
        file.write("0 2147483647")
    agent("raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)")
    agent("own = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)")
    agent("raw6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 253)")
    agent("own6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)")
    agent("ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)")
    agent("ping6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)")
    agent("lite = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)")
    agent("echo = bytes([8, 0, 0, 0, 0, 1, 0, 1])")
    agent("echo6 = bytes([128, 0, 0, 0, 0, 1, 0, 1])")
    agent("def own6_packet(to, first=253, payload=b'data'):\n"
          "    return struct.pack('!IHBB16s16s', 6 << 28, len(payload), first, 64,\n"
          "        socket.inet_pton(10, 'fd66::1'), socket.inet_pton(10, to)) + payload")


def judged_by_header(guard, agent):
    """10.66.0.2 and fd66::2 are refused, .1 is not."""
    for code in ("sent(raw, ('10.66.0.{}', 0))", "own.sendto(ip_header('10.66.0.{}', 253, b''), "
                 "('10.66.0.1', 0))",  # the header counts, not where it is sent
                 "sent(raw6, ('fd66::{}', 0))", "own6.sendto(own6_packet('fd66::{}'), ('fd66::1', 0))",
                 "ping.sendto(echo, ('10.66.0.{}', 0))", "sent(lite, ('10.66.0.{}', 7))"):
        assert agent(code.format(1)) not in ("EPERM", "EINVAL"), code
        assert agent(code.format(2)) == "EPERM", code
    # Of this one the kernel drops the error, too.
    assert agent("[ping6.sendto(echo6, ('fd66::1', 0)), ping6.sendto(echo6, ('fd66::2', 0))]") == [8, 8]
    # An extension header in front changes nothing.
    assert agent("own6.sendto(own6_packet('fd66::2', 60, bytes([253, 0]) + bytes(6) + b'data'), "
                 "('fd66::1', 0))") == "EPERM"
    for addr, protocol, kind in (("10.66.0.2", "253", "raw"), ("fd66::2", "253", "raw"),
                                 ("10.66.0.2", "1", "dgram"), ("fd66::2", "58", "dgram"), ("10.66.0.2", "136", "dgram")):
        event = guard.event(action="BLOCKED", addr=addr, protocol=protocol, type=kind)
        assert event["exe"] == PYTHON and event["pid"] == number_of(guard, agent), event


def test_raw_header_of_any_length(world):
    """Ports behind IPv6's extension headers are found."""
    with guarded(world) as guard:
        guard.start("[fd66::1]:80 * udp * * deny\n* * * * * allow\n")
        agent = Agent(guard)
        open_raw(agent)
        agent("datagram = lambda port: struct.pack('!HHHH', 5, port, 8, 0)")
        agent("def behind(n, port, f=None):\n"
              "    kinds = [60] * n + ([44] if f is not None else []) + [17]\n"
              "    body = b''.join(bytes([after, 0]) + bytes(6) if kind == 60 else\n"
              "        struct.pack('!BBHI', after, 0, f, 1) for kind, after in zip(kinds, kinds[1:]))\n"
              "    packet = own6_packet('fd66::1', kinds[0], body + datagram(port))\n"
              "    own6.sendto(packet, ('fd66::1', 0)); return 'ok'")
        for count in (0, 1, 7, 100):
            assert agent(f"behind({count}, 81)") == "ok"
            assert agent(f"behind({count}, 80)") == "EPERM", count
        assert agent("behind(1, 80, 1)") == "EPERM"  # the first of several
        assert agent("behind(1, 80, 8)") == "ok"     # a later one


def test_sockets_in_other_hands(world):
    servers(world)
    with guarded(world) as guard:
        other = copy_of(world, "other-python")
        guard.start(MARK + f"*:80 * * * {other} deny\n* * * * * allow\n")
        knows_sender(guard)
        first = Agent(guard)
        second = Agent(guard, other)
        path = world.path("hand-over")
        second(f"l = unix('{path}')")
        ends = opened(first, world)
        for name in ("t4_80", "t6_80", "u4_80", "u6_80", "t4_443", "u4_443"):
            assert first(f"sent({name})") == 4
            first(f"hand_over({name}, '{path}')")
            second(f"{name} = take_over(l)")
        for name in ("t4_80", "t6_80", "t4_443"):
            wait_for(lambda name=name: arrived(ends[name]) == b"data", what="data")
        assert second("[sent(u4_443), sent(t4_443)]") == [4, 4]
        wait_for(lambda: arrived(ends["t4_443"]) == b"data", what="data")
        assert [second(f"sent({name})") for name in ("u4_80", "u6_80")] == ["EPERM"] * 2
        # Back and forth: each by his own rules, whatever was cached for the other.
        assert [first("sent(u4_80)"), second("sent(u4_80)"), first("sent(u4_80)")] == [4, "EPERM", 4]
        event = guard.event(action="BLOCKED", protocol="udp", exe=other)
        assert event["pid"] == number_of(guard, second), event
        for name in ("t4_80", "t6_80"):
            assert second(f"sent({name})") == 4
        for address in ("10.66.0.1", "fd66::1"):
            guard.event(action="BLOCKED", protocol="tcp", exe=other, addr=address)
        assert arrived(ends["t4_80"]) == b"" == arrived(ends["t6_80"])


def test_inherited_sockets(world):
    servers(world)
    with guarded(world) as guard:
        other = copy_of(world, "other-python")
        guard.start(MARK + f"*:80 * * * {other} deny\n* * * * * allow\n")
        knows_sender(guard)
        agent = Agent(guard)
        code = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).send(b\"data\")"
        for port, wanted in ((80, "PermissionError"), (443, "")):
            agent(f"u = udp('10.66.0.1', {port}); sent(u); os.set_inheritable(u.fileno(), True)")
            # fork and exec
            found = agent(f"subprocess.run(['{other}', '-c', {code!r}, str(u.fileno())], "
                          "close_fds=False, stderr=-1, text=True).stderr")
            assert wanted in found and bool(wanted) == bool(found), found
            # exec in the same process
            runner = Agent(guard)
            runner(f"u = udp('10.66.0.1', {port}); sent(u); os.set_inheritable(u.fileno(), True)")
            runner.process.stdin.write(json.dumps(
                f"os.dup2(1, 2); os.execv('{other}', ['{other}', '-c', {code!r}, str(u.fileno())])")
                + "\n")
            said, _ = runner.process.communicate(timeout=30)
            assert wanted in said and bool(wanted) == bool(said), said


def nothing_is_dropped(world, rules, *options):
    servers(world)
    with guarded(world) as guard:
        agent = Agent(guard)
        ends = opened(agent, world)
        guard.start(rules, *options)
        for name in ends:
            assert agent(f"sent({name})") == 4
            wait_for(lambda name=name: arrived(ends[name]) == b"data", what="data")
        assert agent("[sent(u4_80), sent(u6_80)]") == [4, 4]
        for protocol in ("tcp", "udp"):
            guard.event(action="MONITOR", port=80, protocol=protocol, addr="10.66.0.1")
        assert not guard.events(action="BLOCKED") and not guard.events(port=443)


def test_monitoring_drops_nothing(world):
    nothing_is_dropped(world, "*:80 * * * * deny\n* * * * * allow\n", "-m")


def test_audit_drops_nothing(world):
    nothing_is_dropped(world, "*:80 * * * * deny audit\n* * * * * allow\n")


def test_without_the_daemon(world):
    """Killed, and started anew: verdicts go on, and it is remembered whose a socket is."""
    servers(world)
    with guarded(world) as guard:
        agent = Agent(guard)
        ends = opened(agent, world)
        guard.start(DENY_80)
        agent("late4 = tcp('10.66.0.1', 443); late6 = udp('fd66::1', 443)")
        late = Peers(world).tcp("10.66.0.1", 443)
        guard.daemon.stop(9)
        assert agent("[sent(u4_443), sent(t4_443), sent(late6)]") == [4, 4, 4]
        assert agent("sent(u4_80)") == "EPERM" == agent("sent(u6_80)")
        assert agent("sent(t4_80)") == 4
        guard.start(MARK + "*:443 * * * * deny\n* * * * * allow\n")
        guard.event(action="BLOCKED", protocol="udp", port=80)  # while nobody read
        assert agent("sent(u4_443)") == "EPERM" == agent("sent(late6)")
        wait_for(lambda: arrived(ends["t4_80"]) == b"data", 60, "data that was held back")
        late.send(b"question")  # answered by an interrupt
        event = guard.event(action="BLOCKED", protocol="tcp", port=443)
        assert event["pid"] == number_of(guard, agent), event


def test_repeats_are_one_event(world):
    servers(world)
    with guarded(world) as guard:
        agent = Agent(guard)
        agent("u = udp('10.66.0.1', 80)")
        guard.start(DENY_80)
        tries = 0

        def counted():
            nonlocal tries
            assert agent("sent(u)") == "EPERM"
            tries += 1
            return len(guard.events(action="BLOCKED", port=80)) > 1
        wait_for(counted, 60, "a second event")
        first, second = guard.events(action="BLOCKED", port=80)[:2]
        assert first["count"] == 1 and 1 < second["count"] <= tries, (first, second, tries)


def test_the_kernel_answers(world):
    """Resets and errors come from sockets of the kernel's own, which belong to whoever made the
    network namespace: here somebody inside the cgroup."""
    with guarded(world) as guard:
        guard.start("127.0.0.1:81 * * * * allow\n[::1]:81 * * * * allow\n* * * * * deny\n")
        agent = Agent(guard)
        agent("import ctypes; ctypes.CDLL(None).unshare(0x40000000)")
        agent("subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)")
        for address in ("127.0.0.1", "::1"):
            assert agent(f"tcp('{address}', 81)") == "ECONNREFUSED"
            agent(f"u = udp('{address}', 81); u.settimeout(30)")
            assert agent("sent(u)") == 4
            assert agent("u.recv(1)") == "ECONNREFUSED"
        assert agent("tcp('127.0.0.1', 82)") == "EPERM"


def test_datagrams_are_judged_once(world):
    servers(world)
    with guarded(world) as guard:
        guard.start("10.66.0.1 * * * * allow log\n* * * * * allow\n")
        agent = Agent(guard)
        agent("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        for _ in range(5):
            assert agent("sent(u, ('10.66.0.1', 80))") == 4
        looks = guard.status()["looks"]
        assert looks["packet"] == 0 and looks["sendmsg4"] == 5, looks
        assert len(guard.events(addr="10.66.0.1", protocol="udp")) == 1
        # Several threads with several destinations, and datagrams made of pieces.
        agent("def spray(s, port):\n    for _ in range(300):\n        sent(s, ('10.66.0.1', port))")
        agent("ts = [threading.Thread(target=spray, args=(u, p)) for p in (80, 443, 80, 443)]")
        agent("oops = []; threading.excepthook = lambda args: oops.append(repr(args))")
        agent("[t.start() for t in ts]; [t.join() for t in ts]")
        assert agent("oops") == []
        agent("c = udp('10.66.0.1', 443)")
        more = 0x8000
        assert agent(f"[c.send(b'a', {more}), c.send(b'b')]") == [1, 1]
        assert agent(f"[u.sendto(b'a', {more}, ('10.66.0.1', 80)), u.send(b'b')]") == [1, 1]


def test_connected_here_and_sent_there(world):
    """A datagram to somebody else from a socket whose peer is refused now."""
    servers(world)
    with guarded(world) as guard:
        guard.start(ALLOW)
        agent = Agent(guard)
        agent("u = udp('10.66.0.1', 80); v = udp('::ffff:10.66.0.1', 80)")
        reload(world, guard, DENY_80)
        assert agent("sent(u)") == "EPERM" == agent("sent(v)")
        assert agent("[sent(u, ('10.66.0.1', 443)), sent(v, ('::ffff:10.66.0.1', 443))]") == [4, 4]
        assert agent("sent(u)") == "EPERM" == agent("sent(v)")


def test_address_translation(world):
    """What counts is the address that the program asked for."""
    servers(world)
    if not shutil.which("nft"):
        raise Skip("no nft")
    harness.run("nft", "add table ip t; add chain ip t out { type nat hook output priority -100; }; "
                "add rule ip t out ip daddr 10.66.0.9 dnat to 10.66.0.1")
    with guarded(world) as guard:
        guard.start(ALLOW)
        agent = Agent(guard)
        agent("t = tcp('10.66.0.9', 80); u = udp('10.66.0.9', 80)")
        end = Peers(world).tcp("10.66.0.1", 80)
        reload(world, guard, "10.66.0.1 * * * * deny\n* * * * * allow\n")
        assert agent("[sent(t), sent(u)]") == [4, 4]
        wait_for(lambda: arrived(end) == b"data", what="data")
        reload(world, guard, "10.66.0.9 * * * * deny\n10.66.0.1:443 * * * * deny\n* * * * * allow\n")
        assert agent("sent(t)") == 4
        guard.event(action="BLOCKED", addr="10.66.0.9", protocol="tcp")
        assert arrived(end) == b""


def test_rules_that_end(world):
    """What was let through is cut when its rule ends, without anybody loading anything."""
    servers(world)
    with guarded(world) as guard:
        end = time.time() + 12
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
        guard.start(f"10.66.0.1:80 * * * * allow until={until}\n*:80 * * * * deny\n")
        agent = Agent(guard)
        agent("u = udp('10.66.0.1', 80)")
        if agent("sent(u)") != 4:
            raise Skip("too slow")
        wait_for(lambda: agent("sent(u)") == "EPERM", 60, "the rule to end")
        assert time.time() >= int(end) - 1
    guard.event(action="BLOCKED", port=80, generation=1)


if __name__ == "__main__":
    harness.main(globals())
