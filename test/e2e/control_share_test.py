"""The control socket under members of its group who hold connections, and give nothing back."""

import contextlib
import ctypes
import json
import os
import select
import socket
import time

import harness
from harness import wait_for

CONF = "[local]\n2222 stream tcp * * 3 1h\n"
GID = 54321
OF_USER, WATCHERS = 24, 8  # what egressctl(8) promises one user
REQUEST_SECONDS, PIECE_SECONDS = 10, 30
HALF = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n"
WATCH = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"


def group(world):
    """A group "egress" for as long as the file's own mount namespace is there."""
    path = world.path("group")
    with open("/etc/group") as before, open(path, "w") as file:
        file.write("".join(line for line in before if not line.startswith("egress:")))
        file.write(f"egress:x:{GID}:\n")
    os.chmod(path, 0o644)
    bind = 4096
    if harness.libc.mount(path.encode(), b"/etc/group", None, bind, None) != 0:
        raise harness.Skip(f"cannot mount a file: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def member(uid):
    """The kernel tells the daemon who connects: the effective user at that moment."""
    os.setgroups([GID])
    os.setegid(GID)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def connect(daemon, uid, data):
    with member(uid):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(daemon.control)
    if data:
        with contextlib.suppress(BrokenPipeError):
            peer.sendall(data)
    return peer


def answer(peer, seconds=5):
    """Status and body of what comes until the peer is hung up, or None: nothing within that time."""
    data, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([peer], [], [], max(end - time.monotonic(), 0))[0]:
            return None
        piece = peer.recv(65536)
        if not piece:
            break
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def ask(daemon, uid):
    peer = connect(daemon, uid, HALF + b"Connection: close\r\n\r\n")
    return answer(peer)


def status_at_once(world, daemon):
    before = time.monotonic()
    status = world.ctl_json("-S", daemon.control, "status")
    assert time.monotonic() - before < 3, time.monotonic() - before
    return status["control"]


def test_half_requests_of_one_member_stop_nobody(world):
    group(world)
    daemon = world.daemon(CONF)
    held = [connect(daemon, 1000, HALF) for _ in range(200)]
    began = time.monotonic()
    control = status_at_once(world, daemon)
    # Those that were turned away know why; the flooder has his share, and nobody has less for it.
    wait_for(lambda: daemon.status()["control"]["turned_away"] == 200 - OF_USER, 10, "the count")
    status, body = answer(held[-1])
    assert status == 503 and "share of one user" in body["error"], (status, body)
    assert {"uid": 1000, "connections": OF_USER} in control["users"], control
    status, body = ask(daemon, 1001)
    assert status == 200 and body["control"]["connections"] <= OF_USER + 2, status
    assert ask(daemon, 1000)[0] == 503
    assert "uid 1000 has 24 connections already" in daemon.log()
    # ... for as long as a request may take.
    status, body = answer(held[0], 2 * REQUEST_SECONDS)
    assert status == 408 and body["error"], (status, body)
    assert time.monotonic() - began >= REQUEST_SECONDS - 1
    wait_for(lambda: daemon.status()["control"]["users"] == [{"uid": 0, "connections": 1}], 5,
             "the half requests to be gone")
    assert daemon.status()["control"]["timed_out"] == OF_USER
    assert ask(daemon, 1000)[0] == 200


def test_members_together_leave_root_its_part(world):
    group(world)
    daemon = world.daemon(CONF)
    held = [connect(daemon, 1000 + number // 20, HALF) for number in range(400)]
    control = status_at_once(world, daemon)
    assert control["connections"] <= control["connections_max"] - 31, control
    assert ask(daemon, 2000)[0] == 503  # another member has nothing now, but is told
    assert len(held) == 400


def test_bodies_byte_by_byte_and_answers_that_are_not_taken(world):
    group(world)
    daemon = world.daemon(CONF)
    for number in range(3000):
        body = {"addr": f"2001:db8::{number:x}", "reason": "x" * 100}
        assert daemon.request("POST", "/v1/blocks", body)[0] == 201
    drip = connect(daemon, 1000, b"POST /v1/blocks HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n")
    deaf = connect(daemon, 1000, b"GET /v1/blocks HTTP/1.1\r\nHost: x\r\n\r\n")
    began, sent = time.monotonic(), 0
    while sent < 60 and not select.select([drip], [], [], 0.5)[0]:
        drip.sendall(b" ")
        sent += 1
    assert REQUEST_SECONDS - 1 <= time.monotonic() - began <= REQUEST_SECONDS + 5
    assert answer(drip)[0] == 408
    # It takes nothing; what is on the way fits into the socket's buffer.
    wait_for(lambda: daemon.status()["control"]["timed_out"] == 2, PIECE_SECONDS + 10,
             "the deaf one to be hung up")
    assert time.monotonic() - began >= PIECE_SECONDS - 2
    deaf.setblocking(True)
    size = 0
    while piece := deaf.recv(65536):
        size += len(piece)
    assert 0 < size < 900_000, size
    # One that takes its answer slowly, but takes it, gets all of it.
    slow = connect(daemon, 1000, b"GET /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    data = b""
    while piece := slow.recv(16384):
        data += piece
        time.sleep(0.02)
    assert data.endswith(b"0\r\n\r\n") and data.count(b'"addr"') == 3000


def test_watchers_have_a_share_and_all_the_time(world):
    group(world)
    daemon = world.daemon(CONF)
    watchers = [connect(daemon, 1000, WATCH) for _ in range(WATCHERS)]
    wait_for(lambda: daemon.status()["egress"]["events"]["watchers"] == WATCHERS, 10, "the watchers")
    peer = connect(daemon, 1000, WATCH.replace(b"Host", b"Connection: close\r\nHost"))
    status, body = answer(peer)
    assert status == 503 and "share of one user" in body["error"], (status, body)
    held = [connect(daemon, 1000, HALF) for _ in range(OF_USER - WATCHERS)]
    assert ask(daemon, 1000)[0] == 503  # they count towards the share of connections
    other = connect(daemon, 1001, WATCH)
    root = connect(daemon, 0, WATCH)
    time.sleep(PIECE_SECONDS + 3)  # longer than anything else may take
    assert daemon.status()["egress"]["events"]["watchers"] == WATCHERS + 2
    assert answer(held[0])[0] == 408
    for each in [*watchers, other, root]:
        each.close()
    wait_for(lambda: daemon.status()["egress"]["events"]["watchers"] == 0, 10, "all to be gone")
    wait_for(lambda: daemon.status()["control"]["connections"] == 1, 10, "their places to be free")


harness.main(globals())
