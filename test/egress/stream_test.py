"""Answers over TCP that come in any number of segments, and questions that leave so."""

import contextlib
import os
import socket
import struct
import sys
import threading
import time

from guarded import guarded, harness

RESOLVER = "127.0.0.53"
RULES = f"""[dns]
resolver {RESOLVER}
grace 1h
[egress]
{RESOLVER}:domain * * * * allow
**.example:9999 stream tcp * * allow
* * * * * deny
"""

# Of the asking program. `cuts`: after how many bytes a question is cut, and sent in parts.
CLIENT = """
import errno, os, socket, struct, sys, time

def question(name):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    text = os.urandom(2) + bytes([1, 0]) + struct.pack("!4H", 1, 0, 0, 0) + labels + bytes(1) + struct.pack("!HH", 1, 1)
    return struct.pack("!H", len(text)) + text

def reach(stream=None):
    stream = stream or socket.socket()
    stream.settimeout(20)
    stream.connect(("127.0.0.53", 53))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream

def take(stream, size):
    text = b""
    while len(text) < size:
        part = stream.recv(size - len(text))
        assert part, "the resolver has closed the connection"
        text += part
    return text

def answer(stream):
    return take(stream, struct.unpack("!H", take(stream, 2))[0])

def ask(name, stream=None, cuts=()):
    with stream or reach() as stream:
        text = question(name)
        for start, end in zip((0, *cuts), (*cuts, len(text))):
            stream.sendall(text[start:end])
            time.sleep(.02 if cuts else 0)
        return answer(stream)

def goes(address):
    with socket.socket() as s:
        s.setblocking(False)
        return s.connect_ex((address, 9999)) != errno.EPERM
"""


def addresses(name):
    """As many as its first label says, beginning with the second."""
    count, third = (int(each) for each in name.split(".")[:2])
    return [f"198.18.{third + i // 250}.{1 + i % 250}" for i in range(count)]


def framed(text):
    end = text.index(b"\0", 12) + 5
    at, labels = 12, []
    while text[at]:
        labels.append(text[at + 1:at + 1 + text[at]].decode())
        at += 1 + text[at]
    found = addresses(".".join(labels))
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(each) for each in found)
    text = text[:2] + b"\x81\x80" + struct.pack("!4H", 1, len(found), 0, 0) + text[12:end] + records
    return struct.pack("!H", len(text)) + text


def cut(text, sizes):
    """The text in parts of these sizes, the last one again and again."""
    at, sizes = 0, list(sizes)
    while at < len(text):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        yield text[at:at + size]
        at += size


class Resolver:
    """Answers the questions of each connection once it has so many, cut into parts of these sizes."""

    def __init__(self, sizes, together=1, segment=None):
        self.sizes, self.together = sizes, together
        self.pid = os.fork()
        if self.pid == 0:
            self.streams = socket.create_server((RESOLVER, 53), backlog=64)
            if segment:
                self.streams.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
            while True:
                threading.Thread(target=self.serve, args=self.streams.accept()[:1], daemon=True).start()

    def serve(self, stream):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with stream, contextlib.suppress(ConnectionError):
            while True:
                text = b""
                for _ in range(self.together):
                    size = stream.recv(2, socket.MSG_WAITALL)
                    if len(size) < 2:
                        return
                    text += framed(stream.recv(struct.unpack("!H", size)[0], socket.MSG_WAITALL))
                for part in cut(text, self.sizes):
                    stream.sendall(part)
                    time.sleep(.005)

    def __enter__(self):
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex((RESOLVER, 53)) == 0:
                    return self
            time.sleep(.05)
        raise harness.Failure("the resolver does not serve")

    def __exit__(self, *_):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def tells(guard, code):
    return guard.run(sys.executable, "-c", CLIENT + code, check=True).stdout.strip()


def all_go(name, way):
    """Code that asks for the name and says which of its addresses cannot be reached."""
    return f"{way}\nprint([each for each in {addresses(name)!r} if not goes(each)])"


def test_an_answer_in_parts(world):
    with guarded(world) as guard:
        guard.start_with(RULES)
        for sizes in ([1, 1, 5, 1 << 20], [1, 30, 1 << 20], [2, 1 << 20], [20, 3, 1 << 20], [100, 7000, 11, 1 << 20]):
            with Resolver(sizes):
                name = f"600.{sizes[0] % 90}.example"
                assert tells(guard, all_go(name, f"ask({name!r})")) == "[]", sizes
                assert tells(guard, "print(goes('198.18.250.1'))") == "False"
        with Resolver([1]):
            assert tells(guard, all_go("5.100.example", "ask('5.100.example')")) == "[]"


def test_two_thousand_addresses_in_small_segments(world):
    """As over a real network: segments of 536 bytes, of which the kernel puts some together."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        with Resolver([1 << 20], segment=536):
            assert tells(guard, all_go("2000.0.example", "ask('2000.0.example')")) == "[]"
        with Resolver([536]):
            assert tells(guard, all_go("2000.20.example", "ask('2000.20.example')")) == "[]"


def test_a_question_in_parts(world):
    with guarded(world) as guard:
        guard.start_with(RULES)
        with Resolver([1 << 20]):
            for third, cuts in enumerate(((2,), (1,), (1, 2, 10), (14, 20))):
                name = f"3.{third}.example"
                assert tells(guard, all_go(name, f"ask({name!r}, cuts={cuts})")) == "[]", cuts


def test_many_answers_of_one_connection(world):
    """Thirty questions in one segment, their answers in segments that begin and end anywhere."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        names = [f"20.{i}.example" for i in range(30)]
        with Resolver([1, 700, 9, 333], together=30):
            code = f"""
names = {names!r}
stream = reach()
stream.sendall(b"".join(question(each) for each in names))
wrong = []
for name in names:
    answer(stream)
    third = int(name.split(".")[1])
    wrong += [i for i in range(20) if not goes(f"198.18.{{third}}.{{1 + i}}")]
print(wrong)"""
            assert tells(guard, code) == "[]"


def test_a_socket_that_connects_again(world):
    """The numbers of its new connection are others."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        with Resolver([1, 50, 1 << 20]):
            code = all_go("4.9.example", """
import ctypes
stream = reach()
for third in range(8):
    stream.sendall(question(f"4.{third}.example"))
    answer(stream)
    ctypes.CDLL(None).connect(stream.fileno(), bytes(16), 16)  # AF_UNSPEC
    stream = reach(stream)
ask("4.9.example", stream)""")
            assert tells(guard, code) == "[]"


def test_many_at_once(world):
    """More than there is room for: who waits is answered late, and nothing is granted wrongly or refused."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        with Resolver([700, 700, 700, 9000]):
            code = """
import threading
wrong = []
def one(number):
    ask(f"1000.{4 * number}.example")
    wrong.extend(i for i in range(1000) if not goes(f"198.18.{4 * number + i // 250}.{1 + i % 250}"))
threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
for each in threads: each.start()
for each in threads: each.join()
print(wrong)"""
            assert tells(guard, code) == "[]"


if __name__ == "__main__":
    harness.main(globals())
