"""A service on a port and a host beyond the firewall that tries it, from several addresses of its own."""

import socket

PORT = 2222
PATIENCE = 0.7  # seconds without an answer that mean: blocked


def reaches(host, version=4, source=None):
    """True if the host opens a connection to the service, from this address of its own."""
    with host.entered():
        client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
    client.settimeout(PATIENCE)
    with client:
        if source:
            client.bind((source, 0))
        try:
            client.connect((host.host4 if version == 4 else host.host6, PORT))
            return True
        except (socket.timeout, ConnectionRefusedError):
            return False


class Service:
    """A server on the port whose log-ins fail."""

    def __init__(self, world):
        self.world = world
        self.server = socket.socket(socket.AF_INET6)
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.server.bind(("::", PORT))
        self.server.listen(64)

    def fail(self, host, version=4, source=None, times=6):
        with host.entered():
            client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
        with client:
            client.settimeout(10)
            if source:
                client.bind((source, 0))
            client.connect((host.host4 if version == 4 else host.host6, PORT))
            with self.accepted(client.getsockname()[1]) as accepted:
                self.world.fail(accepted, times)

    def accepted(self, port):
        """The server's end of the connection from this port; others waited before it."""
        while True:
            accepted, peer = self.server.accept()
            if peer[1] == port:
                return accepted
            accepted.close()


def lab(world):
    """A host with three addresses of each family."""
    host = world.host("attacker")
    for number in (10, 99):
        host.run("ip", "addr", "add", f"10.77.1.{number}/24", "dev", "up0")
        host.run("ip", "addr", "add", f"fd77:1::{number}/64", "dev", "up0", "nodad")
    assert host.v4.startswith("10.77.1."), host.v4
    return host
