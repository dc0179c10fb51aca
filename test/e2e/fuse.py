"""A file system of an ordinary user's own, whose files never answer: what he maps from it keeps a
system call waiting in the middle, and what closes one of its descriptors waits too."""

import array
import contextlib
import mmap
import os
import signal
import socket
import stat
import struct
import threading

from harness import NOBODY, Skip, libc

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_NOSUID, MS_NODEV = 2, 4
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT = 1, 2, 3, 14, 15, 18, 25, 26, 36
FOLDER = 0o40755
FILE, SIZE = 2, 1 << 20  # its number, its bytes


def attributes(node):
    mode = FOLDER if node == 1 else 0o100666
    return struct.pack("=6Q10I", node, SIZE, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node):
    """The reply's body; None: never."""
    if opcode == INIT:
        return struct.pack("=IIIIHHIIHHI", 7, 31, 0, 0, 8, 8, 4096, 1, 0, 0, 0) + bytes(28)
    if opcode == LOOKUP:
        return struct.pack("=QQQQII", FILE, 0, 1000, 1000, 0, 0) + attributes(FILE)
    if opcode == GETATTR:
        return struct.pack("=QII", 1000, 0, 0) + attributes(node)
    if opcode == OPEN:
        return struct.pack("=QII", 1, 0, 0)
    return None if opcode in (READ, FLUSH) else b""


def serve(device):
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:
            return
        _, opcode, unique, node = struct.unpack("=IIQQ", request[:24])
        if opcode in (FORGET, INTERRUPT):
            continue
        body = answer(opcode, node)
        if body is not None:
            os.write(device, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)


def mount(world, place):
    """As uid 65534 in a user namespace of its own; the device to serve."""
    node = world.path("fuse")
    if not os.path.exists(node):
        raise Skip("no FUSE device")
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        raise Skip("no user namespaces for ordinary users")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"),
                       ("gid_map", f"0 {NOBODY} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    device = os.open(node, os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"fuse", place.encode(), b"fuse", MS_NOSUID | MS_NODEV, options) != 0:
        raise Skip("no FUSE for ordinary users")
    return device


def make_device(world):
    """Where /dev/fuse is root's alone, a node of the test's own stands for the usual 0666."""
    try:
        os.mknod(world.path("fuse"), 0o666 | stat.S_IFCHR, os.makedev(10, 229))
        os.chmod(world.path("fuse"), 0o666)
    except OSError as error:
        raise Skip(f"no device node: {error}") from error


def play(world, place, body, tell):
    """The attacker's life. Its file system is served by a process apart, which alone holds the
    device: so the file system ends with that process, whatever else still waits on it."""
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(4, 1)  # PR_SET_DUMPABLE: its /proc is its own again
    device = mount(world, place)
    server = os.fork()
    if server == 0:
        tell.close()
        serve(device)
        os._exit(0)
    os.close(device)
    tell.send(str(server).encode())
    fds = body(os.open(f"{place}/x", os.O_RDWR))
    tell.sendmsg([b"y"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                 if fds else [])
    signal.pause()


def take(ours):
    text, control, _, _ = ours.recvmsg(1000, socket.CMSG_SPACE(4 * 8))
    assert text == b"y", text
    fds = array.array("i")
    for _, _, data in control:
        fds.frombytes(data)
    return list(fds)


@contextlib.contextmanager
def attacker(world, body):
    """Runs body(file) as uid 65534 with a file of its own file system, until the end of the block.
    Gives a function that waits for body and takes the descriptors that it returned. A process that
    has taken one does not end before the file system does: never the test itself."""
    make_device(world)
    place = world.path("own")
    os.makedirs(place, exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            play(world, place, body, theirs)
        except Skip as reason:
            theirs.send(b"S" + str(reason).encode())
        except BaseException as reason:
            theirs.send(b"E" + repr(reason).encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    theirs.close()
    server = 0
    try:
        ours.settimeout(30)
        text = ours.recv(1000)
        if text[:1] == b"S":
            raise Skip(text[1:].decode())
        server = int(text)
        yield lambda: take(ours)
    finally:
        if server:
            os.kill(server, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def hold_lock(sock, file):
    """From now on a send() of this socket sleeps on a page of the file, with the socket's lock."""
    pages = mmap.mmap(file, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    threading.Thread(target=lambda: sock.send(memoryview(pages)[:4096]), daemon=True).start()
