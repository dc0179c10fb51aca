"""What by-passes allow lists of names elsewhere: each way is tried here, with real rules and [dns].

What names can't see is stated, too: a test says that it goes through.
"""

import os
import socket
import struct
import subprocess
import sys

from guarded import guarded, harness
from harness import wait_for
from names_test import CLIENT, RESOLVER, Resolver

STRANGER = "127.0.0.54"
DNS = f"[dns]\nresolver {RESOLVER}\ngrace 2s\n"
LISTED = "good.example * * * * allow"
GOOD, EVIL = "203.0.113.1", "203.0.113.66"
# Of the asking program: questions as bytes, and every way to send a datagram.
CODE = CLIENT + """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)

def raw(labels, kind=1):
    text = b"".join(bytes([len(each)]) + each for each in labels) + bytes(1)
    return os.urandom(2) + bytes([1, 0]) + struct.pack("!4H", 1, 0, 0, 0) + text + struct.pack("!HH", kind, 1)

def put(text, server="127.0.0.53"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.sendto(text, (server, 53))
        return s.recv(65535)

def given(*labels):  # whether the address that the resolver gives for it can be connected to
    return goes(socket.inet_ntoa(put(raw(labels))[-4:]))

def outcome(call, *arguments):
    try:
        call(*arguments)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else "timeout"

def udp():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("size", ctypes.c_size_t)]

class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("name_size", ctypes.c_uint), ("vectors", ctypes.POINTER(Vector)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
                ("flags", ctypes.c_long), ("sent", ctypes.c_long)]

def many(s, *targets):  # how many datagrams sendmmsg(2) sent, one to each
    vector = Vector(b"data", 4)
    names = [struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(address) + bytes(8)
             for address, port in targets]
    headers = (Header * len(names))(*[Header(each, 16, ctypes.pointer(vector), 1) for each in names])
    return libc.sendmmsg(s.fileno(), headers, len(names), 0)

def source(address):  # IP_PKTINFO
    return [(socket.IPPROTO_IP, 8, bytes(4) + socket.inet_aton(address) + bytes(4))]
"""


class Willing(Resolver):
    """Has an address for whatever is asked, each time another one, and repeats the question as it came."""

    given = 0

    def answer(self, text):
        self.given += 1
        return (text[:2] + b"\x81\x80" + struct.pack("!4H", 1, 1, 0, 0) + text[12:] + b"\xc0\x0c" +
                struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(f"203.0.113.{self.given}"))


def begin(guard, lines=LISTED, dns=DNS, kind=Resolver):
    guard.conf = f"[egress]\n{RESOLVER}:domain * * * * allow\n{lines}\n* * * * * deny\n{dns}"
    guard.start_with(guard.conf)
    guard.resolver = resolver = kind(RESOLVER)  # it ends when nothing refers to it
    resolver.says("good.example", GOOD)
    resolver.says("evil.example", EVIL)
    return resolver


def tells(guard, expression, before=""):
    return eval(guard.run(sys.executable, "-c", CODE + f"\n{before}\nprint(repr({expression}))", check=True).stdout)


def check(guard, expected, expression, before="", what=""):
    found = tells(guard, expression, before)
    assert found == expected, (what, found, expected)


def outcomes(guard):
    return {name: count for name, count in guard.status()["dns"]["outcomes"].items() if count}


# --- other ways to a name or to an address --------------------------------------------------------

def test_a_strange_resolver(world):
    """By UDP, TCP and the port of DoT; and where lines let it be asked, what it answers counts for nothing."""
    with guarded(world) as guard:
        begin(guard)
        stranger = Resolver(STRANGER)
        stranger.says("good.example", EVIL)
        tries = ", ".join(f"outcome(ask, 'good.example', 1, {way!r}, {STRANGER!r})"
                          for way in ("connected", "unconnected", "stream"))
        check(guard, ["EPERM"] * 3, f"[{tries}]")
        check(guard, [False, False], f"[goes({STRANGER!r}, 853), goes({RESOLVER!r}, 853)]")
        world.write("egress.conf", guard.conf.replace("good.example", f"{STRANGER} * * * * allow\ngood.example"))
        assert world.ctl("reload", "--force").returncode == 0
        for way in ("connected", "unconnected", "stream"):
            check(guard, [False, False], f"[goes({GOOD!r}), goes({EVIL!r})]",
                  f"assert ask('good.example', 1, {way!r}, {STRANGER!r})", way)


def test_doh_and_literal_addresses(world):
    """Port 443 of a public resolver, in every spelling of its address: no look-up gave it."""
    spellings = ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8"]
    with guarded(world) as guard:
        resolver = begin(guard, "internet:443 stream tcp * * allow resolved")
        resolver.says("public.example", "9.9.9.9")
        check(guard, [False] * 4, f"[goes(each, 443) for each in {spellings!r}]")
        check(guard, [True, False, False], "[goes('9.9.9.9', 443), goes('9.9.9.9', 853), goes('9.9.9.10', 443)]",
              "ask('public.example')")
        # Numbers that look like names are no questions: libc reads them itself.
        for host in ("8.8.8.8", "134744072", "0x08080808", "010.8.8.8"):
            done = guard.run("curl", "-sS", "-m", "5", f"https://{host}/")
            assert done.returncode == 7, (host, done)


def test_a_virtual_host(world):
    """What names can't see: another site behind an allowed address is the same destination. It goes through."""
    with guarded(world) as guard:
        begin(guard)
        page = world.write("page", "which site\n")
        guard.started.append(subprocess.Popen([sys.executable, "-m", "http.server", "8080", "--bind", GOOD,
                                               "--directory", os.path.dirname(page)],
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(lambda: harness.run("curl", "-sS", f"http://{GOOD}:8080/page", check=False).returncode == 0, 20,
                 "the server")
        fetch = ("curl", "-sS", "-m", "10", "-H", "Host: evil.example", f"http://{GOOD}:8080/page")
        assert guard.run(*fetch).returncode == 7, "without a look-up"
        tells(guard, "len(ask('good.example'))")
        assert guard.run(*fetch).stdout == "which site\n"


def test_every_way_to_send(world):
    """sendto, sendmsg with a source, sendmmsg, TCP Fast Open: as with connect."""
    with guarded(world) as guard:
        begin(guard)
        check(guard, ["EPERM", "EPERM"], "[outcome(udp().sendto, b'x', (a, 9)) for a in (G, E)]",
              f"G, E = {GOOD!r}, {EVIL!r}")
        found = tells(guard, """{
    "sendto": [outcome(udp().sendto, b"x", (a, 9)) for a in (G, E)],
    "sendmsg": [outcome(udp().sendmsg, [b"x"], [], 0, (a, 9)) for a in (G, E)],
    "source": [outcome(udp().sendmsg, [b"x"], source("10.66.0.1"), 0, (a, 9)) for a in (G, E)],
    "fast open": [outcome(socket.socket().sendto, b"x", socket.MSG_FASTOPEN, (a, 9)) for a in (G, E)],
    "sendmmsg": [many(udp(), (G, 9), (G, 8)), many(udp(), (G, 9), (E, 9), (G, 9)), many(udp(), (E, 9))],
}""", f"G, E = {GOOD!r}, {EVIL!r}\nask('good.example')")
        assert found == {"sendto": ["ok", "EPERM"], "sendmsg": ["ok", "EPERM"], "source": ["ok", "EPERM"],
                         "fast open": ["ECONNREFUSED", "EPERM"], "sendmmsg": [2, 1, -1]}, found


def test_a_socket_used_again(world):
    """Connected to an allowed name's address, then used for another one, and back."""
    with guarded(world) as guard:
        begin(guard)
        servers = [world.udp(GOOD, 9), world.udp(EVIL, 9)]
        code = f"""
ask("good.example")
u = udp()
found = []
def send(to):
    u.connect((to, 9))
    found.append(outcome(u.send, b"x"))
for to in ({GOOD!r}, {EVIL!r}, {GOOD!r}, {EVIL!r}):
    send(to)
found.append(outcome(u.sendto, b"x", ({EVIL!r}, 9)))
send({GOOD!r})
found.append(outcome(u.sendto, b"x", ({EVIL!r}, 9)))
libc.connect(u.fileno(), bytes(16), 16)  # disconnected
found.append(outcome(u.sendto, b"x", ({EVIL!r}, 9)))
found.append(many(u, ({EVIL!r}, 9)))
"""
        check(guard, ["ok", "EPERM", "ok", "EPERM", "EPERM", "ok", "EPERM", "EPERM", -1], "found", code)
        servers[1].setblocking(False)
        try:
            raise harness.Failure(f"{servers[1].recv(100)} came to the other address")
        except BlockingIOError:
            pass


# --- answers that lie -----------------------------------------------------------------------------

def record(owner, kind, data):
    return f"({owner} + struct.pack('!HHIH', {kind}, 1, 0, len({data})) + {data})"


def message(question, answers=(), others=()):
    """An expression that is an answer with these records, those of the last two sections behind it."""
    counts = f"struct.pack('!4H', 1, {len(answers)}, {len(others)}, {len(others)})"
    return (f"text[:2] + b'\\x81\\x80' + {counts} + {question}" + "".join(
        f" + {each}" for each in (*answers, *others, *others)))


ASKED = "text[12:end]"
AT = "b'\\xc0\\x0c'"  # the name that was asked
NAME = "b'\\x04{}\\x07example\\0'"
ADDRESS = f"socket.inet_aton('{EVIL}')"


def test_a_resolver_that_lies(world):
    """Records of another owner, in other sections, of another question; a CNAME to a name that a line has."""
    good, evil, third = (NAME.format(each) for each in ("good", "evil", "self"))
    lies = {
        "a record of another owner": ("good", message(ASKED, [record(evil, 1, ADDRESS)])),
        "of a name below": ("good", message(ASKED, [record("b'\\x01x' + " + AT, 1, ADDRESS)])),
        "other sections": ("good", message(ASKED, [], [record(AT, 1, ADDRESS)])),
        "an alias that leads on to another": ("good", message(ASKED, [record(AT, 5, third), record(evil, 1, ADDRESS)])),
        "an alias of another name": ("good", message(ASKED, [record(third, 5, evil), record(evil, 1, ADDRESS)])),
        "another class": ("good", message(ASKED, [record(AT, 1, ADDRESS).replace("', 1, 1, 0", "', 1, 3, 0")])),
        "another type": ("good", message(ASKED, [record(AT, 28, ADDRESS)])),
        "another question": ("good", message(f"{evil} + text[end - 4:end]", [record(AT, 1, ADDRESS)])),
        # The name that was asked for counts, and no line has it.
        "an alias to a name of a line": ("evil", message(ASKED, [record(AT, 5, good), record(good, 1, ADDRESS)])),
        "a question for a name of a line": ("evil", message(f"{good} + text[end - 4:end]", [record(AT, 1, ADDRESS)])),
        "a record of a name of a line": ("evil", message(ASKED, [record(good, 1, ADDRESS)])),
    }
    with guarded(world) as guard:
        resolver = begin(guard)
        for name, (asked, lie) in lies.items():
            resolver.spoils(lie)
            for way in ("connected", "stream"):
                check(guard, False, f"goes({EVIL!r})", f"assert ask('{asked}.example', way={way!r})", what=(name, way))
        assert not outcomes(guard).get("granted"), outcomes(guard)
        # The truth, in the same form: the name's own alias counts as the name.
        resolver.spoils(message(ASKED, [record(AT, 5, evil), record(evil, 1, ADDRESS)]))
        check(guard, True, f"goes({EVIL!r})", "ask('good.example')")


def test_rebinding(world):
    """A name from outside that leads to this host, the network, or the cloud's metadata."""
    private = ["127.0.0.1", "10.66.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
               "::1", "::ffff:127.0.0.1", "fd66::1", "fe80::1", "::"]
    with guarded(world) as guard:
        resolver = begin(guard)
        resolver.says("good.example", GOOD, *private)
        before = "ask('good.example'); ask('good.example', 28)"
        # Some of them can't be connected to here: they are looked at as the kernel holds them.
        check(guard, [True, False, False, False, False],
              f"[goes(each) for each in {[GOOD, *private[:2], 'fd66::1', '::1']!r}]", before)
        assert guard.status()["dns"]["grants"] == 1, guard.status()["dns"]
        assert outcomes(guard)["private"] == len(private), outcomes(guard)


def test_fragments_of_an_answer(world):
    """The answer is read when it is whole: all of its addresses count, and a part alone gives none."""
    addresses = [f"198.18.{i // 250}.{1 + i % 250}" for i in range(400)]
    with guarded(world) as guard:
        resolver = begin(guard)
        resolver.says("good.example", *addresses)
        harness.run("ip", "link", "set", "lo", "mtu", "1280")
        before = counter("ReasmOKs")
        check(guard, True, f"all(goes(each) for each in {addresses!r})", "ask('good.example')")
        assert counter("ReasmOKs") > before, "it came in one piece"


def counter(name):
    """Of the IP of this network namespace."""
    with open("/proc/self/net/snmp") as file:
        names, values = (next(file).split() for _ in range(2))
    return int(values[names.index(name)])


FRAGMENTS = f"""
def packet(part, offset, more):
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), 7, more << 13 | offset // 8, 64, 17, 0,
                       socket.inet_aton("127.0.0.1"), socket.inet_aton("{RESOLVER}")) + part

def fragments(text, at):
    whole = struct.pack("!4H", 4000, 53, 8 + len(text), 0) + text
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    parts = [packet(whole, 0, 0)] if at is None else [packet(whole[:at], 0, 1), packet(whole[at:], at, 0)]
    return [outcome(s.sendto, each, ("{RESOLVER}", 0)) for each in parts]
"""


def test_a_question_in_fragments(world):
    """"queries listed" looks at the name, wherever the kernel cuts what is behind it. To cut by hand takes a raw
    socket, which lines for the types and protocols of the DNS do not allow."""
    with guarded(world) as guard:
        begin(guard, dns=DNS + "queries listed\n")
        world.write("egress.conf", guard.conf.replace("domain * * * *", "domain dgram udp * *"))
        assert world.ctl("reload", "--force").returncode == 0
        harness.run("ip", "link", "set", "lo", "mtu", "1280")
        long = "raw([b'{}', b'example']) + bytes(3000)"
        check(guard, ["EPERM"] * 2, f"[outcome(put, {long.format('good')}), outcome(put, {long.format('evil')})]")
        for at in (None, 8, 16, 24, 32):
            found = tells(guard, f"fragments(raw([b'evil', b'example']), {at})", FRAGMENTS)
            assert set(found) == {"EPERM"}, (at, found)


def test_a_question_from_a_raw_socket(world):
    """Where the line of the resolver allows any type, "queries listed" holds for raw packets, too."""
    with guarded(world) as guard:
        begin(guard, dns=DNS + "queries listed\n")
        for at in (None, 8, 16, 24, 32):
            found = tells(guard, f"fragments(raw([b'evil', b'example']), {at})", FRAGMENTS)
            assert "EPERM" in found, (at, found)


# --- names in other spellings ---------------------------------------------------------------------

def test_spellings_of_a_name(world):
    """Upper case and a dot at the end are the same name; NUL, a dot inside a label, spaces are not."""
    lines = "Good.Example. * * * * allow\nxn--mnchen-3ya.example * * * * allow"
    same = ["b'good', b'example'", "b'GOOD', b'eXAMPLE'", "b'xn--mnchen-3ya', b'example'",
            "b'XN--MNCHEN-3YA', b'example'"]
    other = ["b'good\\0', b'example'", "b'good\\0x', b'example'", "b'good.example'", "b'good', b'example\\0'",
             "b'good', b'example', b'\\0'", "b'\\0', b'good', b'example'", "b'good ', b'example'",
             "b'g/od', b'example'",
             "b'good', b'example', b'evil'", "b'm\\xc3\\xbcnchen', b'example'", "b'm\\xfcnchen', b'example'"]
    with guarded(world) as guard:
        begin(guard, lines, kind=Willing)
        for labels, expected in [*((each, False) for each in other), *((each, True) for each in same)]:
            check(guard, expected, f"given({labels})", what=labels)


def test_names_that_are_too_long(world):
    """A label of 63 bytes is one; a longer one and a name of more than 255 bytes are none."""
    longest = "l" * 63
    with guarded(world) as guard:
        begin(guard, f"{longest}.example * * * * allow\n**.deep.example * * * * allow", kind=Willing)
        check(guard, [True, True, False], f"[given(b'{longest}', b'example'), given(*deep(120)), given(*deep(122))]",
              "def deep(count): return [b'x'] * count + [b'deep', b'example']")
        # The others are no names. Whether this resolver answers them does not matter.
        for question in (f"[b'{longest}l', b'example']", "[b'x'] * 200 + [b'deep', b'example']",
                         "[b'x' * 255, b'deep', b'example']", "[b'x' * 192, b'deep', b'example']", "[]"):
            check(guard, "ok", f"outcome(put, raw({question}))", what=question)
        assert outcomes(guard)["granted"] == 2, outcomes(guard)


def test_a_name_with_a_nul_from_a_program(world):
    """Checked as one name, resolved as another: what goes is what was asked of the resolver."""
    with guarded(world) as guard:
        begin(guard)
        code = """
def found(name):
    class Result(ctypes.Structure):
        _fields_ = [("flags", ctypes.c_int * 4), ("size", ctypes.c_uint), ("address", ctypes.c_void_p)]
    out = ctypes.POINTER(Result)()
    return libc.getaddrinfo(name, b"9999", None, ctypes.byref(out))
"""
        with_hosts(world)
        check(guard, [0, False], f"[found(b'evil.example\\0.good.example'), goes({EVIL!r})]", code)
        check(guard, [0, True, False],
              f"[found(b'good.example\\0.evil.example'), goes({GOOD!r}), goes({EVIL!r})]", code)


def with_hosts(world):
    """The files that libc goes by, for this test's mount namespace."""
    for name, text in (("nsswitch.conf", "hosts: dns\n"), ("resolv.conf", f"nameserver {RESOLVER}\n")):
        harness.libc.mount(world.write(name, text).encode(), b"/etc/" + name.encode(), None, 4096, None)


if __name__ == "__main__":
    harness.main(globals())
