"""A stand-in for egressd that takes reports and says exactly what was in them.

egressd counts, so from outside one failure too many and one too few look alike. This reads the
record, the descriptor and the credentials as they came. That egressd takes the same reports is the
business of the tests with a real one.
"""

import collections
import os
import socket
import struct
import threading

from programs import ABUSIVE, BAD_USER, FAIL, OK, VERIFIED, wait_for

NAMES = {OK: "OK", FAIL: "FAIL", ABUSIVE: "ABUSIVE", BAD_USER: "BAD_USER"}
HEAD = struct.Struct("=IHHIHH16sIHH")  # lib/wire.h
MAGIC = 0x31524745

# action by name; remote and local are (address, port); listening: the fd was a listening socket;
# seccomp: the reporter's mode of /proc/PID/status, None where it was gone already
# verified: the reporter vouches for the source of a datagram
Report = collections.namedtuple(
    "Report", "action remote local listening uid pid seccomp message verified")


def unmapped(address):
    return address.removeprefix("::ffff:")


class Recorder:
    def __init__(self, path="/run/egress/report.sock"):
        self.path = path
        self.reports = []
        self.lock = threading.Lock()
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.server.bind(path)
        os.chmod(path, 0o666)
        self.server.listen(512)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.server.accept()
            threading.Thread(target=self.read, args=(connection,), daemon=True).start()

    def read(self, connection):
        with connection:
            while True:
                data, ancillary, _, _ = connection.recvmsg(2048, 256)
                if not data:
                    return
                report = self.decode(data, ancillary)
                with self.lock:
                    self.reports.append(report)

    def decode(self, data, ancillary):
        magic, _, length, action, family, port, raw, _, said, _ = HEAD.unpack_from(data)
        assert magic == MAGIC and length == len(data), data
        pid = uid = descriptor = None
        for _, kind, value in ancillary:
            if kind == socket.SCM_CREDENTIALS:
                pid, uid, _ = struct.unpack("=iII", value)
            elif kind == socket.SCM_RIGHTS:
                (descriptor,) = struct.unpack("=i", value)
        seccomp = self.seccomp(pid)
        remote = local = None
        listening = False
        if family:
            text = socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)
            remote = (unmapped(text), socket.ntohs(port))
        if descriptor is not None:
            with socket.socket(fileno=descriptor) as peer:
                local = (unmapped(peer.getsockname()[0]), peer.getsockname()[1])
                listening = bool(peer.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                if not listening:
                    remote = self.peer(peer) or remote
        return Report(NAMES[action & ~VERIFIED], remote, local, listening, uid, pid, seccomp,
                      data[HEAD.size:HEAD.size + said].decode(errors="replace"),
                      bool(action & VERIFIED))

    @staticmethod
    def peer(connected):
        try:
            name = connected.getpeername()
        except OSError:
            return None  # reset meanwhile
        return unmapped(name[0]), name[1]

    @staticmethod
    def seccomp(pid):
        try:
            with open(f"/proc/{pid}/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Seccomp:"))
        except (OSError, StopIteration):
            return None

    def of(self, address):
        with self.lock:
            return [report for report in self.reports
                    if report.remote and report.remote[0] == address]

    def expect(self, address, actions, timeout=30):
        """Waits for exactly these actions of that address, forgets them and returns the reports."""
        wait_for(lambda: len(self.of(address)) >= len(actions), timeout,
                 lambda: f"{actions} from {address}; there are {self.reports}")
        found = self.of(address)
        assert sorted(report.action for report in found) == sorted(actions), (actions, found)
        with self.lock:
            self.reports = [report for report in self.reports if report not in found]
        return found

    def close(self):
        self.server.close()
        os.unlink(self.path)
