"""Reports of sockets that belong to another network namespace than the daemon's."""

import ctypes
import os
import socket
import subprocess

import harness
from programs import FAIL, Skip, libc, wait_for

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_DUMPABLE = 4
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


if __name__ == "__main__":
    harness.main(globals())
