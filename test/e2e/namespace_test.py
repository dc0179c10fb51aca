"""Reports of sockets that belong to another network namespace than the daemon's."""

import contextlib
import ctypes
import os
import re
import socket
import subprocess

import harness
from programs import FAIL, Skip, libc, wait_for

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_DUMPABLE = 4
SO_PEERPIDFD = 77
NOBODY = harness.NOBODY


def enter_own_network(addresses):
    """As an ordinary user: a network namespace in which he is root and has these addresses."""
    libc.prctl(PR_SET_DUMPABLE, 1)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise Skip(f"no user namespaces for ordinary users: {os.strerror(ctypes.get_errno())}")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {os.getuid()} 1"),
                       ("gid_map", f"0 {os.getgid()} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in addresses:
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)


def connection(remote, local, port):
    """Both ends of a connection inside the namespace where this process is."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((local, port))
    server.listen(8)
    client = socket.socket()
    client.bind((remote, 0))
    client.connect((local, port))
    return server.accept()[0], client


def test_a_user_cannot_have_anybody_blocked_from_a_network_of_his_own(world):
    """There he may take any address and any port; the kernel's word about such a socket is his."""
    daemon = world.daemon("[local]\n22 stream tcp * * 1 10m\n")

    def forge():
        try:
            enter_own_network(["10.66.0.1", "203.0.113.9"])
        except Skip as reason:
            return str(reason)
        accepted, client = connection("203.0.113.9", "10.66.0.1", 22)
        world.library.report(FAIL, accepted)
        client.close()
        return ""
    reason = harness.as_user(NOBODY, forge)
    if reason:
        raise Skip(reason)
    wait_for(lambda: daemon.taken() == 1, what="the report")
    assert daemon.status()["refused"]["other_namespace"] == 1, daemon.status()["refused"]
    assert not daemon.blocks() and not world.elements()
    world.fail(world.tcp("10.66.9.7", port=22))  # the same from the host's own network counts
    world.wait_element("10.66.9.7")


# --- servers in containers ---------------------------------------------------------------------

class Container:
    """A process of an ordinary user in a network namespace and a cgroup of its own, with the host's
    report socket in its view, as a container has it."""

    def __init__(self, world, cgroup, uid=NOBODY):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        harness.need_reachable()
        self.pid = os.fork()
        if self.pid == 0:
            with open(f"{cgroup}/cgroup.procs", "w") as file:
                file.write("0")
            if libc.unshare(CLONE_NEWNET) != 0:
                os._exit(1)
            for words in (("link", "set", "lo", "up"), ("addr", "add", "172.17.0.2/32", "dev", "lo"),
                          ("addr", "add", "203.0.113.9/32", "dev", "lo")):
                subprocess.run(["ip", *words], check=True)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            self.serve(world, theirs)
        theirs.close()

    @staticmethod
    def serve(world, orders):
        kept = []
        while True:
            word, port, source = orders.recv(100).decode().split()
            if word == "end":
                os._exit(0)
            if word == "report":
                kept.append(connection(source, "172.17.0.2", int(port)))
                world.library.report(FAIL, kept[-1][0])
            elif word == "last":  # reports, and is gone before anybody could look
                accepted, client = connection(source, "172.17.0.2", int(port))
                if os.fork() == 0:
                    world.library.report(FAIL, accepted)
                    os._exit(0)
                os.wait()
            else:
                world.library.report(FAIL, -1, sa=harness.sockaddr(source))
            orders.send(b"done")

    def order(self, word, port, source):
        self.ours.send(f"{word} {port} {source}".encode())
        assert self.ours.recv(100) == b"done"

    def end(self):
        self.ours.send(b"end 0 -")
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def cgroups(*names):
    """Cgroups of our own; their directories, and the path of the first one's parent."""
    root = next((line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2"), None)
    if root is None:
        raise Skip("no cgroup2 hierarchy is mounted")
    top = f"{root}/egress-test-{os.getpid()}-{os.urandom(4).hex()}"
    made = [top, *(f"{top}/{name}" for name in names)]
    try:
        for path in made:
            os.mkdir(path)
    except OSError as error:
        raise Skip(f"no cgroup of our own: {error}") from error
    try:
        yield made[1:], top[len(root):]
    finally:
        for path in reversed(made):
            wait_for(lambda: not open(f"{path}/cgroup.procs").read(), what="the cgroup to be empty")
            os.rmdir(path)


def example():
    """The rules of egress.conf(5) for a server in a container."""
    with open(f"{harness.SOURCE}/man/egress.conf.5") as page:
        return re.search(r"\ndocker run .*?\n(\[local\]\n.*?)\.Ed", page.read(), re.S)[1]


def need_peers():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    except OSError as error:
        raise Skip(f"the kernel does not tell the peer's process: {error}") from error
    theirs.close()


def test_a_container_is_trusted_by_its_cgroup(world):
    """As the example of egress.conf(5) has it; another cgroup, and another port, gain nothing by it."""
    need_peers()
    with cgroups("mail", "mail/inner", "mailbox") as ((mail, inner, mailbox), top):
        daemon = world.daemon(example().replace("/mail.slice", f"{top}/mail") + "[local]\n2526 stream tcp * * 1 10m\n")
        there = [Container(world, path) for path in (mail, inner, mailbox)]
        try:
            there[2].order("report", 2525, "203.0.113.9")
            there[2].order("say", 0, "203.0.113.9")
            there[0].order("report", 2526, "203.0.113.9")
            wait_for(lambda: daemon.taken() == 3, what="the reports")
            refused = daemon.status()["refused"]
            assert (refused["other_namespace"], refused["no_fd"]) == (2, 1), refused
            assert not daemon.blocks() and not world.elements()
            for container, word in ((there[0], "report"), (there[1], "report"), (there[0], "say")):
                for _ in range(6):
                    container.order(word, 2525, "203.0.113.9")
                element = world.wait_element("203.0.113.9")
                assert element["proto"] is element["port"] is None, element
                world.ctl("unblock", "203.0.113.9", check=True, environment={"EGRESS_CONTROL": daemon.control})
                world.wait_no_element("203.0.113.9")
            assert daemon.status()["reports"]["unproved"] == 0
            if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 16):
                for _ in range(6):
                    there[0].order("last", 2525, "203.0.113.9")
                world.wait_element("203.0.113.9")
        finally:
            for container in there:
                container.end()


def test_who_moved_into_the_cgroup_no_longer_reports_from_without(world):
    """The kernel says where the process is that opened the connection, not what a message says."""
    need_peers()
    with cgroups("mail", "other") as ((mail, other), top):
        daemon = world.daemon(f"[local]\n2525 stream tcp * * 1 10m\n[trusted]\n2525 * * * cgroup={top}/mail\n")
        container = Container(world, other)
        try:
            container.order("last", 2525, "203.0.113.9")
            container.order("report", 2525, "203.0.113.9")
            wait_for(lambda: daemon.taken() == 2, what="the reports")
            assert daemon.status()["refused"]["other_namespace"] == 2
            with open(f"{mail}/cgroup.procs", "w") as file:
                file.write(str(container.pid))
            container.order("report", 2525, "203.0.113.9")
            assert world.wait_element("203.0.113.9")["port"] == 2525
        finally:
            container.end()


if __name__ == "__main__":
    harness.main(globals())
