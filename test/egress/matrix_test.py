"""Every way out of a process under every kind of policy: each cell of the table is tried and asserted.

bypass/ goes out by the path that it is told, and says what came of it; whether its bytes arrived is
asked of the receivers, which are another host behind a wire and, for 0.0.0.0, this one. A cell that
does better than the table says fails as well: then the table is what is wrong.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import time

from guarded import guarded, harness
from harness import Failure, wait_for

PORT = 7777
TEST_PROTOCOL = 253  # RFC 3692: for experiments
UDPLITE = getattr(socket, "IPPROTO_UDPLITE", 136)
# The other host has two addresses of each family: one that the rules are about, and another.
V4, V6 = "10.77.1.2", "fd77:1::2"
OTHER4, OTHER6 = "10.77.1.3", "fd77:1::3"

# --- the table ---------------------------------------------------------------------------------

ALL = "* * * * * {}\n"
# Column: the rules, which program goes out (the rules name `first`), and to which address.
COLUMNS = {
    "deny-all": (ALL.format("deny"), "first", "here"),
    "reject-all": (ALL.format("reject"), "first", "here"),
    "deny-address": (f"{V4} * * * * deny\n[{V6}] * * * * deny\nlocal * * * * deny\n", "first", "here"),
    "deny-program": ("* * * * {first} deny\n", "first", "here"),
    "allow-program": ("* * * * {first} allow\n" + ALL.format("deny"), "first", "here"),
    "other-program": ("* * * * {first} allow\n" + ALL.format("deny"), "second", "here"),
    "allow-address": (f"{V4} * * * * allow\n[{V6}] * * * * allow\nlocal * * * * allow\n" +
                      ALL.format("deny"), "first", "here"),
    "other-address": (f"{V4} * * * * allow\n[{V6}] * * * * allow\n" + ALL.format("deny"),
                      "first", "there"),
}

P, R = "EPERM", "ECONNREFUSED"
ARRIVES = "arrives"      # as it should
OPEN = "open"            # it arrives, though the rules refuse it: named by status and selftest
ELSEWHERE = "elsewhere"  # it goes to the other address, which is allowed, and not to this one
LOST = "lost"            # the process sees nothing, but its packets are dropped, and counted

# Kind of path: what becomes of it in each column.
KINDS = {
    #               deny-all   deny-address  allow-program  allow-address
    #                   reject-all  deny-program  other-program  other-address
    "judged":      (P,    R,   P,      P,     ARRIVES,  P,   ARRIVES,  P),
    # connect() sends nothing; the packet hook judges the first datagram, and knows one error.
    "judged later": (P,   P,   P,      P,     ARRIVES,  P,   ARRIVES,  P),
    # Its kind when it is made, its address packet by packet.
    "made":        (P,    R,   P,      P,     ARRIVES,  P,   ARRIVES,  P),
    # The kernel does not pass on that the packet was dropped.
    "made mutely": (P,    R,   LOST,   P,     ARRIVES,  P,   ARRIVES,  LOST),
    # Older than the rules, or made by a program that may: judged packet by packet.
    "held":        (P,    P,   P,      P,     ARRIVES,  P,   ARRIVES,  P),
    "held stream": (LOST, LOST, LOST,  LOST,  ARRIVES, LOST, ARRIVES,  LOST),
    # Connected by a program that may, which then executes one that may not.
    "handed down": (P,    P,   P,      P,     ARRIVES,  P,   ARRIVES,  P),
    # For the other address by way of this one.
    "routed":      (P,    R,   P,      P,     ARRIVES,  P,   P,        P),
    "routed later": (P,   P,   P,      P,     ARRIVES,  P,   P,        P),
    # The other way round; seen where it stops first.
    "routed back": (P,    R,   P,      P,     ELSEWHERE, P,  P,        P),
    # The first of two addresses is what counts, and that is the other one.
    "corked":      (P,    R,   ELSEWHERE, P,  ELSEWHERE, P,  ARRIVES,  ELSEWHERE),
    # To a peer that has asked: an answer, as on an accepted connection.
    "answer":      (ARRIVES,) * 8,
    # Past the sockets of the network families.
    "uncovered":   (OPEN, OPEN, OPEN,  OPEN,  ARRIVES, OPEN, ARRIVES,  OPEN),
}

PATHS = {
    # First, as they take time to be lost: the kernel sends again and again what is dropped.
    **dict.fromkeys(("passed-late4", "passed-late6", "passed-tcp4", "passed-tcp6", "before-tcp4", "before-tcp6"),
                    "held stream"),
    **dict.fromkeys((
        "tcp4", "tcp6", "tcp-mapped", "tcp-zero4", "tcp-zero6", "tcp-mapped-zero", "tcp-nonblocking",
        "tcp-bound", "tcp-again", "tcp-fast-open", "tcp-fast-open6", "tcp-fast-open-mapped",
        "tcp-fast-open-nonblocking", "tcp-fast-open-connect", "mptcp4", "mptcp6", "mptcp-fast-open",
        "tcp-sendfile", "tcp-splice",
        "udp4", "udp6", "udp-mapped", "udp-v4-on-v6", "udp-zero4", "udp-zero6", "udp-mapped-zero",
        "udp-unspecified", "udp-connect-mapped", "udp-elsewhere4",
        "udp-elsewhere6", "udp-dissolved", "udp-corked", "udp-more", "udp-many",
        "thread", "forked", "renamed", "reargued", "other-exe", "new-net", "new-user-net",
        "ring-tcp", "ring-tcp-async", "ring-tcp-polled", "ring-tcp-polled-async",
        "ring-udp", "ring-udp-async", "ring-udp-polled",
        "passed-new-tcp", "passed-new-udp", "inherited-new",
        # Judged when they are made, and by their addresses again: these pass the hooks of UDP.
        "udplite4", "udplite6", "ping-connect"), "judged"),
    **dict.fromkeys(("udp-connect4", "udp-connect6", "udp-splice"), "judged later"),
    **dict.fromkeys((
        "udplite-connect", "ping4",
        "raw4", "raw6", "raw-header", "raw-lying", "raw-hdrincl", "raw6-header",
        "ring-raw"), "made"),
    **dict.fromkeys(("passed-udp4", "passed-udp6", "passed-raw", "before-udp4", "before-udp6",
                     "before-raw"), "held"),
    **dict.fromkeys(("ping6", "sctp", "sctp-many"), "made mutely"),
    "inherited-connected": "handed down",
    "udp-source-routed": "routed",
    "udp-source-routed-connect": "routed later",
    "udp-segment-routed": "routed",
    "udp-segment-routed-connect": "routed later",
    **dict.fromkeys(("raw-source-routed", "raw6-segment-routed"), "routed"),
    "raw-source-routed-back": "routed back",
    "udp-more-elsewhere": "corked",
    **dict.fromkeys(("udp-answered4", "udp-answered6"), "answer"),
    **dict.fromkeys(("packet", "tun", "vsock"), "uncovered"),
}
# How status names what is OPEN, by path or kind.
NAMED = {"packet": "AF_PACKET", "tun": "tun devices", "vsock": "vsock"}
# Where to listen for what a path sends: TCP and UDP unless said here.
HERE = ("tcp-zero4", "tcp-zero6", "tcp-mapped-zero", "udp-zero4", "udp-zero6", "udp-mapped-zero", "tun")


# --- the receivers -----------------------------------------------------------------------------

class Receivers:
    """Everything that arrives, by address; nothing is ever thrown away."""

    def __init__(self, peer):
        self.got = {}  # address -> bytes
        self.sockets = {}  # socket -> address
        with peer.entered():
            for address in (V4, OTHER4, V6, OTHER6):
                self.listen(address)
            self.sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.sniffer.bind(("up0", 0))
            self.sniffer.setblocking(False)
        for address in ("127.0.0.1", "::1", "10.66.0.1"):
            self.listen(address)

    def listen(self, address):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        icmp = socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP
        for kind, protocol in ((socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 0),
                               (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
                               (socket.SOCK_DGRAM, UDPLITE), (socket.SOCK_RAW, TEST_PROTOCOL),
                               (socket.SOCK_RAW, icmp)):
            try:
                server = socket.socket(family, kind, protocol)
            except OSError:
                continue  # then the paths cannot be gone either
            server.bind((address, PORT if kind != socket.SOCK_RAW else 0))
            if kind == socket.SOCK_STREAM:
                server.listen(64)
            server.setblocking(False)
            self.sockets[server] = address

    def collect(self):
        waiting = True
        while waiting:
            waiting, _, _ = select.select(list(self.sockets), [], [], 0)
            for each in waiting:
                self.take(each)
        try:
            while True:
                self.sniffed(self.sniffer.recv(65536))
        except BlockingIOError:
            pass

    def take(self, each):
        address = self.sockets[each]
        if each.type == socket.SOCK_STREAM and each.getsockopt(socket.SOL_SOCKET,
                                                               socket.SO_ACCEPTCONN):
            accepted, _ = each.accept()
            accepted.setblocking(False)
            self.sockets[accepted] = address
            return
        try:
            data = each.recv(65536)
        except OSError:
            data = b""
        self.got[address] = self.got.get(address, b"") + data + b"\n"
        if not data and each.type == socket.SOCK_STREAM:
            del self.sockets[each]
            each.close()

    def sniffed(self, frame):
        """Of what is addressed to it and is not for it: a host that is only passed through."""
        kind, = struct.unpack("!H", frame[12:14])
        if kind == 0x0800 and frame[14] > 0x45:
            address = socket.inet_ntop(socket.AF_INET, frame[30:34])
        elif kind == 0x86dd and frame[20] == 43:
            address = socket.inet_ntop(socket.AF_INET6, frame[38:54])
        else:
            return
        self.got[address] = self.got.get(address, b"") + frame + b"\n"

    def ask(self, address, to):
        """Sends questions from there, in a process of its own."""
        asker = next(each for each, at in self.sockets.items() if at == address and
                     each.type == socket.SOCK_DGRAM and each.proto in (0, socket.IPPROTO_UDP))
        child = os.fork()
        while not child:
            with contextlib.suppress(OSError):  # nobody is there yet
                asker.sendto(b"question", (to, PORT + 1))
            time.sleep(0.1)
        return child

    def arrived(self, token, addresses):
        self.collect()
        return any(token.encode() in self.got.get(address, b"") for address in addresses)


# --- a run -------------------------------------------------------------------------------------

class Column:
    """One policy in force, and what is held from before it."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        rules, self.program, self.where = COLUMNS[name]
        self.to = (V4, V6, OTHER4, OTHER6) if self.where == "here" else (OTHER4, OTHER6, V4, V6)
        bench.put_in_force(ALL.format("allow"))
        self.holders = {program: bench.hold(program, f"{name}-{program}", self.to)
                        for program in ("first", "second")}
        bench.put_in_force(rules.format(first=bench.programs["first"]))
        self.rest = "second" if self.program == "first" else "first"

    def token(self, path):
        return f"<{self.name}/{path}>"

    def go(self, path):
        """What the process saw: the last word of the program."""
        token = self.token(path)
        if path.startswith("before-"):
            return self.ask(f"send {path[7:]} {token}")
        program, extra = self.program, ""
        if path.startswith("passed-"):
            # Whoever gives it away may have had it: another program, which the rules let.
            giver = self.rest if self.name != "other-program" else "first"
            extra = f"{self.name}-{giver}"
        elif path.startswith("inherited-"):
            # The one that may have it starts the one that may not.
            program = {"deny-program": "second", "other-program": "first"}.get(self.name, program)
            extra = self.bench.programs[self.program]
        elif path in ("raw6-header", "raw6-segment-routed"):
            extra = "fd77:1::1"
        done = self.asked(path, lambda: self.bench.guard.run(self.bench.programs[program], path, *self.to, str(PORT),
                                                             token, extra))
        if done.returncode or not done.stdout:
            raise Failure(f"{self.name} {path}: {done}")
        return done.stdout.strip()

    def asked(self, path, run):
        if not path.startswith("udp-answered"):
            return run()
        v6 = path.endswith("6")
        asker = self.bench.receivers.ask(self.to[v6], "fd77:1::1" if v6 else "10.77.1.1")
        try:
            return run()
        finally:
            os.kill(asker, signal.SIGKILL)
            os.waitpid(asker, 0)

    def ask(self, text):
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.settimeout(60 * harness.PATIENCE)
        link.connect(f"\0{self.name}-{self.program}")
        link.send(text.encode())
        return link.recv(256).decode()

    def addresses(self, path, there=False):
        if path in HERE:
            return ("127.0.0.1", "::1", "10.66.0.1")
        return self.to[2:] if there else self.to[:2]

    def close(self):
        for holder in self.holders.values():
            holder.kill()
            holder.communicate()


class Bench:
    def __init__(self, world, guard, peer):
        self.world, self.guard, self.receivers = world, guard, Receivers(peer)
        self.programs = {}
        for name in ("first", "second"):
            self.programs[name] = world.path(f"bypass-{name}")
            shutil.copy(harness.artefact("test/egress/bypass/bypass"), self.programs[name])

    def put_in_force(self, rules):
        before = self.guard.status()["generation"]
        self.world.write("egress.conf", "[local]\n2222 stream tcp * * 3 1h\n[egress]\n" + rules)
        assert self.guard.daemon.request("POST", "/v1/reload?force=1")[0] == 200
        wait_for(lambda: self.guard.status()["generation"] > before, 60, "the rules in force")

    def hold(self, program, name, to):
        def enter():
            with open(os.path.join(self.guard.cgroup, "cgroup.procs"), "w") as procs:
                procs.write("0")
        holder = subprocess.Popen([self.programs[program], "hold", *to, str(PORT), "-", name],
                                  preexec_fn=enter, stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "ready\n"
        return holder

    def fence(self):
        """What was sent before this has arrived when this has."""
        self.fences = getattr(self, "fences", 0) + 1
        token = f"<fence {self.fences}>"
        for address in (V4, V6, "127.0.0.1", "::1"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            socket.socket(family, socket.SOCK_DGRAM).sendto(token.encode(), (address, PORT))
            wait_for(lambda: self.receivers.arrived(token, [address]), 30, f"{token} at {address}")


def judge(bench, column, path, saw, expected):
    """"", or what is wrong with the cell."""
    def arrives(there=False):
        return bench.receivers.arrived(column.token(path), column.addresses(path, there))

    if expected in (ARRIVES, OPEN, ELSEWHERE) and saw == "sent":
        try:
            wait_for(lambda: arrives(expected == ELSEWHERE), 10)
        except Failure:
            return f"sent, but it did not arrive ({expected})"
        return "it arrived" if expected == ELSEWHERE and arrives() else ""
    if expected in (ARRIVES, OPEN) and saw == "arrived":
        return ""
    if saw != ("sent" if expected == LOST else expected):
        return f"{saw}, not {expected}"
    return "refused, but it arrived" if arrives() else ""


def judge_all(bench, column, cells):
    wrong = []
    for path, saw, expected in cells:
        text = judge(bench, column, path, saw, expected)
        if text:
            wrong.append(f"{column.name} {path}: {text}")
    return wrong


def connected():
    """Connections of this host to the port, but for those that only wait for their number to rest."""
    found = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(name) as file:
            for line in list(file)[1:]:
                fields = line.split()
                if fields[2].endswith(f":{PORT:04X}") and fields[3] not in ("06", "07"):
                    found.append(line)
    return found


def run_column(world, name):
    peer = world.host("peer")
    peer.run("ip", "addr", "add", f"{OTHER4}/24", "dev", "up0")
    peer.run("ip", "addr", "add", f"{OTHER6}/64", "dev", "up0", "nodad")
    for key in ("all", "lo", "up0"):
        peer.run("sysctl", "-q", f"net.ipv6.conf.{key}.seg6_enabled=1", check=False)
    harness.run("sysctl", "-q", "net.ipv4.ping_group_range=0 2147483647", "net.ipv4.tcp_fastopen=3",
                "net.ipv4.tcp_orphan_retries=2")  # or what is dropped is sent for minutes
    with guarded(world) as guard:
        guard.start(ALL.format("allow"))
        bench = Bench(world, guard, peer)
        column = Column(bench, name)
        before = guard.status()["looks"]["packet"]
        index = list(COLUMNS).index(name)
        try:
            wrong, cannot, cells = [], [], []
            for path, kind in PATHS.items():
                saw = column.go(path)
                (cannot if saw.startswith("cannot: ") else cells).append(
                    (path, saw, KINDS[kind][index]))
            bench.fence()
            wrong += judge_all(bench, column, cells)
        finally:
            column.close()
        # What the kernel still has to send when the last descriptor is closed is not let out then.
        wait_for(lambda: bench.receivers.collect() or not connected(), 120, "connections to end")
        for path, _, expected in cells:
            if expected == LOST and bench.receivers.arrived(column.token(path), column.to[:2]):
                wrong.append(f"{name} {path}: it arrived when the socket was closed")
        if LOST in [expected for _, _, expected in cells] and (
                guard.status()["looks"]["packet"] <= before):
            wrong.append(f"{name}: the drops are not counted")
        told = " ".join(guard.status()["not_covered"])
        for path, _, expected in cells:
            if expected == OPEN and (NAMED.get(path) or NAMED.get(PATHS[path], "?")) not in told:
                wrong.append(f"{name} {path}: open, and not named")
        print(f"     {name}: {len(cells)} cells; cannot be tried: "
              + ("; ".join(f"{path} ({saw[8:]})" for path, saw, _ in cannot) or "none"))
        if wrong:
            raise Failure("\n".join(wrong))
        if len(cells) < 60:
            raise harness.Skip(f"only {len(cells)} paths could be tried")


def test_the_table_is_whole(world):
    """Every path that the program knows has its line, but for the two that others start."""
    known = harness.run(harness.artefact("test/egress/bypass/bypass"), "list").stdout.split()
    assert set(known) - {"use-new", "use-connected"} == {
        path for path in PATHS if not path.startswith("before-")}, known
    assert all(len(row) == len(COLUMNS) for row in KINDS.values())


for _name in COLUMNS:
    globals()[f"test_{_name.replace('-', '_')}"] = lambda world, name=_name: run_column(world, name)


if __name__ == "__main__":
    harness.main(globals())
