"""Destinations by name: answers of a resolver are read in the kernel, before the program sees them.

The table of names is filled by hand, through the pins, so that the hooks are tested by themselves.
"""

import ctypes
import json
import mmap
import os
import socket
import struct
import sys
import threading

from guarded import guarded, harness

BPF = 321  # the system call, x86-64
PINS = "/sys/fs/bpf/egress/"
RESOLVER = "127.0.0.53"
A, AAAA = 1, 28
EXACT, ONE, DEEP = 0, 1, 2
REBINDS = 1 << 31
MASK = (1 << 64) - 1
GRACE = 2
OUTCOMES = ("asked read granted negative truncated private unasked late repeated forgotten questions unreadable "
            "chain stream full busy delayed untold").split()
# Offsets in struct egress_base and struct egress_config (daemon/bpf/layout.h).
BASE_SIZE, HAS_NAMES, BUCKETS, NAMES_KEY = 1205312, 52, 64, 72
PATH_KEY, DNS_GRACE, READS_NAMES = 88, 104, 112

RULES = f"{RESOLVER}:domain * * * * allow\n[2001:db8::1] * * * * allow\n* * * * * deny"

CLIENT = """
import errno, os, socket, struct, time

def question(name, kind):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    return (os.urandom(2) + bytes([1, 0]) + struct.pack("!4H", 1, 0, 0, 0) + labels + bytes(1) +
            struct.pack("!HH", kind, 1))

def ask(name, kind=1, way="connected", server="127.0.0.53"):
    text = question(name, kind)
    stream = way == "stream"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        if way == "unconnected":
            s.sendto(text, (server, 53))
            return s.recv(65535)
        s.connect((server, 53))
        s.sendall((struct.pack("!H", len(text)) if stream else b"") + text)
        if not stream:
            return s.recv(65535)
        return s.recv(struct.unpack("!H", s.recv(2, socket.MSG_WAITALL))[0], socket.MSG_WAITALL)

def goes(address, port=9999):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        s.setblocking(False)
        return s.connect_ex((address, port)) != errno.EPERM
"""


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    made = harness.libc.syscall(BPF, command, buffer, 128)
    if made < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return made


def pinned(name):
    path = ctypes.create_string_buffer((PINS + name).encode())
    return bpf(7, struct.pack("=QII", ctypes.addressof(path), 0, 0))


def look_up(descriptor, key, size):
    key = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(size)
    bpf(1, struct.pack("=I4xQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value), 0))
    return value.raw


def put(descriptor, key, value):
    key = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value, len(value))
    bpf(2, struct.pack("=I4xQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value), 0))


def inner(name, slot):
    return bpf(14, look_up(pinned(name), struct.pack("=I", slot), 4))


def rotated(word, by):
    return (word << by | word >> (64 - by)) & MASK


def siphash(key, words):
    """SipHash-1-3, as daemon/bpf/siphash.h has it."""
    a, b = key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d
    c, d = key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573

    def mixed(a, b, c, d):
        a = (a + b) & MASK
        b = rotated(b, 13) ^ a
        a = rotated(a, 32)
        c = (c + d) & MASK
        d = rotated(d, 16) ^ c
        a = (a + d) & MASK
        d = rotated(d, 21) ^ a
        c = (c + b) & MASK
        b = rotated(b, 17) ^ c
        return a, b, rotated(c, 32), d

    for word in words:
        a, b, c, d = mixed(a, b, c, d ^ word)
        a ^= word
    c ^= 0xff
    for _ in range(3):
        a, b, c, d = mixed(a, b, c, d)
    return a ^ b ^ c ^ d


def key_of(secret, name, kind):
    found = 0
    for label in reversed(name.split(".")):
        text = bytes([len(label)]) + label.encode()
        text = text.ljust(-(-len(text) // 8) * 8, b"\0")
        found = siphash(secret, [found, *struct.unpack(f"<{len(text) // 8}Q", text)])
    return (found + kind * 0x9e3779b97f4a7c15) & MASK


class Resolver:
    """Answers what it is told to, over UDP and TCP. A process of its own: a guard has no threads."""

    def __init__(self, address):
        self.answers = {}
        self.changed = "text"  # how an answer is spoilt
        self.told, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            ours.close()
            return
        self.told.close()
        self.serve(address)
        while text := ours.recv(1 << 16):
            self.answers, self.changed = json.loads(text)
            ours.send(b"heard")
        os._exit(0)

    def serve(self, address):
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind((address, 53))
        self.streams = socket.create_server((address, 53))
        for serve in (self.serve_datagrams, self.serve_streams):
            threading.Thread(target=serve, daemon=True).start()

    def serve_datagrams(self):
        while True:
            text, peer = self.datagrams.recvfrom(4096)
            self.datagrams.sendto(self.answer(text), peer)

    def serve_streams(self):
        while True:
            stream, _ = self.streams.accept()
            with stream:
                text = stream.recv(struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))[0], socket.MSG_WAITALL)
                answer = self.answer(text)
                stream.sendall(struct.pack("!H", len(answer)) + answer)

    def answer(self, text):
        end = text.index(b"\0", 12) + 5
        kind = struct.unpack("!H", text[end - 4:end - 2])[0]
        at, labels = 12, []
        while text[at]:
            labels.append(text[at + 1:at + 1 + text[at]].decode().lower())
            at += 1 + text[at]
        records = []
        for address in self.answers.get(".".join(labels), []):
            family, own = (socket.AF_INET6, AAAA) if ":" in address else (socket.AF_INET, A)
            data = socket.inet_pton(family, address)
            if kind == own:
                records.append(b"\xc0\x0c" + struct.pack("!HHIH", own, 1, 0, len(data)) + data)
        text = b"".join([text[:2], b"\x81\x80", struct.pack("!4H", 1, len(records), 0, 0), text[12:end], *records])
        return eval(self.changed)

    def says(self, name, *addresses):
        self.answers[name] = addresses
        self.tell()

    def spoils(self, how):
        self.changed = how
        self.tell()

    def tell(self):
        self.told.send(json.dumps([self.answers, self.changed]).encode())
        self.told.recv(10)


class Names:
    """A guard whose second line stands for names, and a resolver."""

    def __init__(self, guard, names):
        guard.start(RULES)
        self.guard = guard
        self.config = mmap.mmap(pinned("config"), mmap.PAGESIZE)
        slot = struct.unpack_from("=Q", self.config, 0)[0] % 2
        secret = struct.unpack_from("=2Q", self.config, PATH_KEY)
        host = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
        index = struct.unpack("=I", look_up(inner("hosts6", slot), host, 4))[0]
        bucket = bytearray(64)
        for i, (name, kind, flag) in enumerate(names):
            struct.pack_into("=Q", bucket, 8 * i, key_of(secret, name, kind))
            struct.pack_into("=I", bucket, 40 + 4 * i, index | flag)
        put(inner("names", slot), struct.pack("=I", 0), bytes(bucket))
        base = mmap.mmap(inner("bases", slot), -(-BASE_SIZE // mmap.PAGESIZE) * mmap.PAGESIZE)
        base[NAMES_KEY:NAMES_KEY + 16] = struct.pack("=2Q", *secret)
        struct.pack_into("=I", base, BUCKETS, 1)
        struct.pack_into("=I", base, HAS_NAMES, 1)
        address = socket.inet_pton(socket.AF_INET6, "::ffff:" + RESOLVER)
        put(pinned("resolvers"), address + struct.pack("=H6x", 53), struct.pack("=I", 1))
        struct.pack_into("=Q", self.config, DNS_GRACE, GRACE * 10**9)
        struct.pack_into("=I", self.config, READS_NAMES, 1)
        self.resolver = Resolver(RESOLVER)

    def run(self, code):
        """What the program inside the cgroup prints."""
        return self.guard.run(sys.executable, "-c", CLIENT + code, check=True).stdout.strip()

    def tells(self, expression, before=""):
        return eval(self.run(f"{before}\nprint(repr(({expression})))"))

    def outcomes(self):
        cpus = len(os.listdir("/sys/bus/cpu/devices"))
        counts = pinned("dns_outcomes")
        found = {name: sum(struct.unpack(f"={cpus}Q", look_up(counts, struct.pack("=I", i), 8 * cpus)))
                 for i, name in enumerate(OUTCOMES)}
        return {name: count for name, count in found.items() if count}


def test_an_answer_grants_its_addresses(world):
    with guarded(world) as guard:
        names = Names(guard, [("good.example", EXACT, REBINDS), ("plain.example", EXACT, 0)])
        names.resolver.says("good.example", "203.0.113.1", "10.9.9.9", "2001:db8:5::1")
        names.resolver.says("plain.example", "203.0.113.2", "10.9.9.8")
        names.resolver.says("other.example", "203.0.113.3")
        assert names.tells("goes('203.0.113.1')") is False
        assert names.tells("goes('203.0.113.1'), goes('10.9.9.9'), goes('203.0.113.9'), goes('2001:db8:5::1')",
                           "ask('good.example')") == (True, True, False, False)
        assert names.tells("goes('2001:db8:5::1'), goes('2001:db8:5::2')", "ask('good.example', 28)") == (True, False)
        assert names.tells("goes('203.0.113.2'), goes('10.9.9.8')", "ask('plain.example')") == (True, False), \
            "a private address for a name from outside"
        assert names.tells("goes('203.0.113.3')", "ask('other.example')") is False
        assert names.tells("goes('203.0.113.1')", f"time.sleep({GRACE} + .2)") is False, "TTL and grace are over"
        assert names.outcomes() == {"asked": 3, "read": 3, "granted": 4, "private": 1}


def test_patterns_and_ways_to_ask(world):
    with guarded(world) as guard:
        names = Names(guard, [("one.example", ONE, 0), ("deep.example", DEEP, 0)])
        for i, name in enumerate(("one.example", "a.one.example", "b.a.one.example", "deep.example", "b.a.deep.example",
                                  "x.deep.example")):
            names.resolver.says(name, f"203.0.113.{i}")
        for i, (name, way, goes) in enumerate([
                ("one.example", "connected", False), ("a.one.example", "unconnected", True),
                ("b.a.one.example", "connected", False), ("deep.example", "connected", False),
                ("b.A.deep.Example", "connected", True), ("x.deep.example", "stream", True)]):
            assert names.tells(f"goes('203.0.113.{i}')", f"ask({name!r}, way={way!r})") is goes, name
        names.resolver.says("many.one.example", *(f"198.18.{i // 250}.{i % 250}" for i in range(2000)))
        assert names.tells("all(goes(f'198.18.{i // 250}.{i % 250}') for i in range(2000))",
                           "ask('many.one.example', way='stream')") is True


def test_what_was_not_asked_so_grants_nothing(world):
    """Another id, another case, another name, an error, an end too early."""
    with guarded(world) as guard:
        names = Names(guard, [("good.example", EXACT, 0)])
        names.resolver.says("good.example", "203.0.113.1")
        for change in ("bytes([text[0] ^ 1]) + text[1:]", "text[:13] + text[13:17].swapcase() + text[17:]",
                       "text[:13] + b'evil' + text[17:]", "text[:2] + b'\\x81\\x83' + text[4:]", "text[:-1]"):
            names.resolver.spoils(change)
            assert names.tells("goes('203.0.113.1')", "ask('good.example')") is False
        # The evil name is no rule's, hence counted nowhere.
        assert names.outcomes() == {"asked": 5, "unasked": 2, "negative": 1, "unreadable": 1}


def test_resolve_then_connect(world):
    """In the next instruction, with a TTL of 0."""
    with guarded(world) as guard:
        names = Names(guard, [("good.example", EXACT, 0)])
        names.resolver.says("good.example", "203.0.113.1")
        assert names.run("""
import threading
wrong = []
def rounds():
    for _ in range(2500):
        ask("good.example")
        if not goes("203.0.113.1"):
            wrong.append(1)
threads = [threading.Thread(target=rounds) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print(len(wrong))""") == "0"
        outcomes = names.outcomes()
        outcomes.pop("untold", None)  # the daemon need not keep up
        assert outcomes == {"asked": 10000, "read": 10000, "granted": 10000}


def test_a_connection_outlives_its_grant(world):
    with guarded(world) as guard:
        names = Names(guard, [("good.example", EXACT, REBINDS)])
        names.resolver.says("good.example", "127.7.1.2")
        listener = socket.create_server(("127.7.1.2", 7777))

        if os.fork() == 0:
            stream, _ = listener.accept()
            while text := stream.recv(100):
                stream.sendall(text)
            os._exit(0)
        assert names.tells("alive, goes('127.7.1.2', 7777)", """
ask("good.example")
s = socket.create_connection(("127.7.1.2", 7777), 10)
alive = 0
for _ in range(5):
    s.sendall(b"x")
    alive += len(s.recv(1))
    time.sleep(1)
""") == (5, False)


if __name__ == "__main__":
    harness.main(globals())
