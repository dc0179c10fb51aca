"""Names and questions, and programs that would make them mean something else: networks of their own, packets that
change on their way, what is left behind at exit, data beside a question."""

import os
import socket
import struct
import time

from evasion_test import CODE
from guarded import guarded, harness
from names_test import RESOLVER, Resolver
from run_test import GROUP, HOST, USER, add_group, run, words
from verdict_test import PYTHON

NOBODY = 65534
GOOD, EVIL = "203.0.113.1", "203.0.113.66"
DNS = f"[dns]\nresolver {RESOLVER}\ngrace 1h\n"
NAMES = f"[egress]\n{RESOLVER}:domain * * * * allow\nfiles.example.org:443 * * * * allow\ninternet * * * * deny\n"
LISTED = (f"{DNS}queries listed\n[egress]\n{RESOLVER}:domain * * * * allow\nfiles.example.org:443 * * * * allow\n"
          "* * * * * deny\n")
QUESTIONS = """
R = ("127.0.0.53", 53)
def q(name="files.example.org", counts=(1, 0, 0, 0), behind=b"", ident=b"ab"):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    return ident + struct.pack("!5H", 0x0100, *counts) + labels + b"\\0\\0\\1\\0\\1" + behind
def framed(text):
    return struct.pack("!H", len(text)) + text
"""


def tells(guard, expression, before="", user=NOBODY):
    done = guard.run(PYTHON, "-c", CODE + QUESTIONS + f"\n{before}\nprint(repr(({expression})))", user=user, group=user)
    assert done.returncode == 0, done.stderr[-3000:]
    return eval(done.stdout)


def arrives(listener, seconds):
    """What arrives on each connection within that time."""
    found, ends = [], time.monotonic() + seconds
    listener.settimeout(.2)
    streams = []
    while time.monotonic() < ends:
        try:
            streams.append(listener.accept()[0])
            streams[-1].settimeout(.2)
        except TimeoutError:
            pass
        for stream in streams:
            try:
                found.append(stream.recv(4096))
            except OSError:
                pass
    return b"".join(found)


def test_a_network_of_their_own(world):
    """There a user answers from 127.0.0.53, or from any other address."""
    code = f"""
import subprocess, threading
uid = os.getuid()
assert libc.unshare(0x10000000 | 0x40000000) == 0
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {{uid}} 1"), ("gid_map", f"0 {{uid}} 1")):
    with open("/proc/self/" + name, "w") as file: file.write(text)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = udp()
server.bind(("127.0.0.53", 53))
def serve():
    while True:
        text, peer = server.recvfrom(4096)
        server.sendto(text[:2] + b"\\x81\\x80" + struct.pack("!4H", 1, 1, 0, 0) + text[12:] + b"\\xc0\\x0c" +
                      struct.pack("!HHIH", 1, 1, 3600, 4) + socket.inet_aton("{EVIL}"), peer)
threading.Thread(target=serve, daemon=True).start()
"""
    with guarded(world) as guard:
        guard.start_with(DNS + NAMES)
        resolver = Resolver(RESOLVER)
        resolver.says("files.example.org", GOOD)
        assert tells(guard, "len(ask('files.example.org')) > 0", code) is True, "it answers itself"
        assert tells(guard, f"goes('{EVIL}', 443)", user=1000) is False
        assert tells(guard, f"len(ask('files.example.org')) > 0, goes('{GOOD}', 443)") == (True, True)


def test_a_source_that_is_made_up(world):
    """IPV6_FREEBIND binds any address, and a port above 1023 is anybody's."""
    far = world.host("far")
    rules = NAMES.replace(f"{RESOLVER}:domain", "[2a00:53::53]:5353")
    code = f"""
s = socket.socket(10, 2)
s.bind(("{far.host6}", 6000))
s.settimeout(3)
text = q()
asked = outcome(s.sendto, text, ("2a00:53::53", 5353))
a = socket.socket(10, 2)
a.setsockopt(41, 78, 1)
a.setsockopt(0, 15, 1)
a.bind(("2a00:53::53", 5353))
a.sendto(text[:2] + b"\\x81\\x80" + struct.pack("!4H", 1, 1, 0, 0) + text[12:] + b"\\xc0\\x0c" +
         struct.pack("!HHIH", 1, 1, 3600, 4) + socket.inet_aton("{EVIL}"), ("{far.host6}", 6000))
came = outcome(s.recv, 1000)
"""
    with guarded(world) as guard:
        world.ip("-6", "route", "add", "2a00::/16", "via", far.v6)
        guard.start_with("[dns]\nresolver [2a00:53::53]:5353\ngrace 1h\n" + rules)
        assert tells(guard, f"asked, came, goes('{EVIL}', 443)", code) == ("ok", "ok", False)
        assert tells(guard, f"goes('{EVIL}', 443)", user=1000) is False


FROM_ELSEWHERE = """
listener = socket.socket(10, 1)
listener.bind((here, 6001))
listener.listen()
def reach(source, port):
    s = socket.socket(10, 1)
    s.setsockopt(41, 78, 1)
    s.bind((source, port))
    s.setblocking(False)
    return s, s.connect_ex((here, 6001))
"""


def test_a_connection_from_elsewhere(world):
    """Who accepts it sends to where it seems to come from, and no answer over TCP is judged."""
    far = world.host("far")
    own = "fd66:1::7"
    world.ip("-6", "addr", "add", f"{own}/128", "dev", "lo", "nodad")
    rules = (f"[egress]\n[{far.host6}] * * * * allow\n[{far.v6}]:7000 * * * * allow\n[{own}] * * 1000 * allow\n"
             "* * * * * deny\n")

    def told():
        with open(f"/proc/{far.pid}/net/snmp") as file:
            lines = [line.split() for line in file if line.startswith("Tcp:")]
            return int(dict(zip(*lines))["InSegs"])

    def sent(guard, source, port=6002, user=NOBODY):
        before = told()
        found = tells(guard, "wait(reach(*where)[0])",
                      f"where, here = ({source!r}, {port}), {far.host6!r}\n{FROM_ELSEWHERE}"
                      "def wait(s):\n    time.sleep(.3)\n    return outcome(s.getpeername) == 'ok'", user=user)
        return found, told() > before

    with guarded(world) as guard:
        guard.start_with(rules)
        assert sent(guard, far.v6) == (False, False)
        assert guard.event(action="BLOCKED", addr=far.v6, port=6002)
        assert sent(guard, far.v6, 7000) == (False, True), "a line allows to connect there"
        assert sent(guard, far.host6) == (True, False), "from the address itself"
        assert sent(guard, own, user=1000) == (True, False), "from another address of this host"
        assert sent(guard, own) == (False, False)
        # Nor when who connects has ended, and another process keeps the socket.
        before = told()
        code = FROM_ELSEWHERE + """
s = socket.socket(10, 1)
s.setsockopt(41, 78, 1)
s.bind((there, 6003))
s.setblocking(False)
if os.fork() == 0:
    s.connect_ex((here, 6001))
    os._exit(0)
os.wait()
time.sleep(4)
"""
        tells(guard, "0", f"there, here = ({far.v6!r}, {far.host6!r})\n{code}")
        assert told() == before, "the kernel sent it again"


LEAVES = """
import sys
def leave(kind):
    s = socket.socket(2, 1, kind)
    s.setsockopt(6, 1, 1)
    s.connect(R)
    outcome(s.send, framed(q("leak.evil.example")))
    time.sleep(.3)
leave(0)
try:
    leave(262)
except OSError:
    pass # no MPTCP
"""


def test_what_is_left_at_exit(world):
    """A question that was held back does not leave when its process ends."""
    with guarded(world) as guard:
        guard.start_with(LISTED)
        with socket.create_server((RESOLVER, 53)) as listener:
            guard.run(PYTHON, "-c", CODE + QUESTIONS + LEAVES, user=NOBODY, check=True)
            assert b"leak" not in arrives(listener, 8)


def test_what_a_run_leaves(world):
    """Nor when the run ends with it, and no rules have names any more."""
    add_group(world)
    with guarded(world) as guard:
        guard.start_with(DNS + "[egress]\n* * * * * allow\n")
        with socket.create_server((RESOLVER, 53)) as listener:
            done = run(guard, PYTHON, "-c", CODE + QUESTIONS + LEAVES, options=("--allow", "good.example"), user=USER)
            assert done.returncode == 0 and " 0 connections" not in done.stderr, done
            assert b"leak" not in arrives(listener, 8)
        assert guard.daemon.status()["egress"]["runs"] == 0


def test_what_a_run_leaves_in_a_socket_from_outside(world):
    """Its question waits there when it has ended, and when who made the socket ends, too."""
    add_group(world)
    code = f"""
import os, socket, struct, subprocess, sys, time
s = socket.create_connection(("{RESOLVER}", 53))
s.set_inheritable(True)
subprocess.run(sys.argv[1:] + [sys.executable, "-c", {CODE + QUESTIONS!r} +
               f"s = socket.socket(fileno={{s.fileno()}}); outcome(s.send, framed(q('leak.evil.example'))); time.sleep(.3)"],
               pass_fds=(s.fileno(),), check=True)
time.sleep(4)
"""
    with guarded(world) as guard:
        guard.start_with(DNS + "[egress]\n* * * * * allow\n")
        with socket.create_server((RESOLVER, 53)) as listener:
            outer = guard.run(PYTHON, "-c", code, *words(guard, options=("--allow", "good.example")), user=USER, group=GROUP)
            assert outer.returncode == 0 and "1 connection refused" in outer.stderr, outer
            assert b"leak" not in arrives(listener, 8)


def test_an_urgent_byte(world):
    """It is no part of the stream to who reads that: the reader would see other messages."""
    code = """
inner = framed(q("evil.example.org"))
text = bytes([1, 0]) + q(ident=bytes([40, 7]))
text += bytes(3 + 40 - len(text)) + inner
text += bytes(2 + 256 - len(text))
s = socket.socket()
s.connect(R)
found = [outcome(s.send, text[:1], 1), outcome(s.send, text[1:])]
time.sleep(1)
"""
    with guarded(world) as guard:
        guard.start_with(LISTED)
        with socket.create_server((RESOLVER, 53)) as listener:
            found = tells(guard, "found", code)
            assert b"\x04evil" not in arrives(listener, 2), found


def test_pages_that_change(world):
    """What is sent from a file's pages is not copied, and may be changed when it has been read."""
    page = world.write("page", "")
    with guarded(world) as guard:
        guard.start_with(LISTED)
        code = f"""
with open({page!r}, "wb") as file: file.write(framed(q()) if stream else q())
size = os.path.getsize({page!r})
file = os.open({page!r}, os.O_RDONLY)
s = socket.socket(2, 1 if stream else 2)
s.connect(R)
first, second = os.pipe()
os.splice(file, second, size)
found = outcome(lambda: os.splice(first, s.fileno(), size))
time.sleep(.5)
"""
        os.chmod(page, 0o666)
        os.chmod(os.path.dirname(page), 0o755)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((RESOLVER, 53))
            server.settimeout(1)
            assert tells(guard, "outcome(udp().sendto, q(), R)") == "ok"
            while server.recv(1000)[:2] != b"ab":
                pass
            found = tells(guard, "found", "stream = False" + code)
            try:
                while True:  # egressd asks for the names of its lines
                    assert server.recv(1000)[:2] != b"ab", found
            except TimeoutError:
                pass
        with socket.create_server((RESOLVER, 53)) as listener:
            found = tells(guard, "found", "stream = True" + code)
            assert b"files" not in arrives(listener, 2), found


def test_data_beside_a_question(world):
    """One question, and a record of EDNS with few options."""
    opt = "b'\\0\\0\\x29\\4\\xd0\\0\\0\\0\\0'"
    cookie = f"{opt} + b'\\0\\x0c\\0\\x0a\\0\\x08' + bytes(8)"
    sends = ["q()", f"q(counts=(1, 0, 0, 1), behind={opt} + b'\\0\\0')", f"q(counts=(1, 0, 0, 1), behind={cookie})",
             "q(behind=b'x')", "q(behind=bytes(3000))", "q(behind=q())", "q(counts=(1, 1, 0, 0), behind=b'\\xc0\\x0c' + bytes(10))",
             "q(counts=(1, 0, 1, 0), behind=b'\\xc0\\x0c' + bytes(10))",
             f"q(counts=(1, 0, 0, 1), behind={opt} + b'\\4\\0' + bytes(1024))", f"q(counts=(1, 0, 0, 2), behind=2 * ({opt} + b'\\0\\0'))"]
    with guarded(world) as guard, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((RESOLVER, 53))
        guard.start_with(LISTED)
        found = tells(guard, "[" + ", ".join(f"outcome(udp().sendto, {each}, R)" for each in sends) + "]")
        assert found == ["ok"] * 3 + ["EPERM"] * 7, found
        lite = "outcome(socket.socket(2, 2, 136).sendto, q('leak.evil.example'), R)"
        assert tells(guard, lite) in ("EPERM", "EPROTONOSUPPORT"), tells(guard, lite)


def test_a_report_through_links(world):
    """The command may write the directory; what it puts at the report's place is not written to."""
    add_group(world)
    precious = world.write("precious", "mine\n")
    with guarded(world) as guard:
        guard.start(HOST)
        for make in (lambda path: os.symlink(precious, path), lambda path: os.symlink(world.path("new"), path),
                     lambda path: os.link(precious, path), os.mkfifo):
            report = world.path("report")
            make(report)
            done = run(guard, "true", options=("--report", report))
            assert done.returncode == 0 and "cannot write" in done.stderr, done
            os.unlink(report)
        with open(precious) as file:
            assert file.read() == "mine\n"
        assert not os.path.exists(world.path("new"))
        assert run(guard, "true", options=("--report", report)).stderr.count("cannot write") == 0
        assert os.path.getsize(report) > 0


def test_egressctl_cannot_be_taken_over(world):
    """The command's parent is outside of the run, and has the same user."""
    add_group(world)
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace(16, os.getppid(), 0, 0)
attached = ctypes.get_errno()
taken = libc.syscall(438, libc.syscall(434, os.getppid(), 0), 1, 0)  # pidfd_getfd, pidfd_open
print(attached, taken)
"""
    with guarded(world) as guard:
        guard.start(HOST)
        assert run(guard, PYTHON, "-c", code, user=USER).stdout == "1 -1\n", run(guard, PYTHON, "-c", code, user=USER)


if __name__ == "__main__":
    harness.main(globals())
