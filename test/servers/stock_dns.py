"""Debian's own named with the query plugin, and clients that ask it."""

import os
import random
import shutil
import socket
import struct
import subprocess

import harness
import stock
from harness import run, wait_for

CONF = """options {{
    directory "/var/cache/bind";
    listen-on-v6 {{ !fe80::/10; any; }};
    recursion yes;
    allow-recursion {{ none; }};
    allow-query-cache {{ none; }};
    dnssec-validation no;
    {options}
}};
zone "open.test" {{ type primary; file "/etc/bind/db.local"; }};
zone "closed.test" {{ type primary; file "/etc/bind/db.local"; allow-query {{ none; }}; }};
{plugin}
"""


VIEWS = """options {{ directory "/var/cache/bind"; listen-on-v6 {{ !fe80::/10; any; }}; recursion no; {options} }};
view "some" {{
    match-clients {{ 10.0.0.0/8; }};
    zone "closed.test" {{ type primary; file "/etc/bind/db.local"; allow-query {{ none; }}; }};
    {plugin}
}};
view "others" {{
    zone "closed.test" {{ type primary; file "/etc/bind/db.local"; allow-query {{ none; }}; }};
    {plugin}
}};
"""


def plugin_path():
    """Where `cmake --install` puts it."""
    return os.path.join(stock.cached("CMAKE_INSTALL_PREFIX", harness.PLAIN_BUILD),
                        stock.cached("EGRESS_BIND_PLUGIN_DIR", harness.PLAIN_BUILD),
                        "named_egress.so")


def plugin(parameters=""):
    """The line for named.conf."""
    return f'plugin query "{plugin_path()}"{parameters};'


def set_up(world):
    """egress installed, with the plugin; the package's configuration otherwise."""
    for program in ("/usr/sbin/named", "/usr/bin/named-checkconf", "/usr/bin/dig"):
        if not os.path.exists(program):
            raise harness.Skip(f"{program} is not installed (test/deps installs it)")
    if harness.sanitized(harness.PLAIN_BUILD):
        raise harness.Skip("a sanitized plugin cannot be loaded into a stock named; "
                           "EGRESS_TEST_PLAIN_BUILD names a plain build")
    if not os.path.exists(os.path.join(harness.PLAIN_BUILD, "lib/named/named_egress.so")):
        raise harness.Skip("the plugin for BIND is not built (test/deps installs bind9-dev)")
    stock.install(world, harness.PLAIN_BUILD)


class Named:
    """Debian's named, in the foreground, as its unit starts it."""

    def __init__(self, world, options="", line=None, conf=CONF, arguments=(), root=""):
        with open("/etc/bind/named.conf", "w") as file:
            file.write(conf.format(options=options, plugin=plugin() if line is None else line))
        self.world = world
        self.ports = (53, 853, 443) if "853" in options else (53,)
        if root:
            shutil.copytree("/etc/bind", root + "/etc/bind")
            for directory in ("/run/named", "/var/cache/bind"):
                shutil.chown(root + directory, "bind", "bind")
        os.makedirs("/run/named", exist_ok=True)
        shutil.chown("/run/named", "bind", "bind")
        self.log_path = world.path(f"named.{world.counter()}.log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(["/usr/sbin/named", "-g", "-u", "bind", *arguments],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=harness.free_environment())
        wait_for(self.runs, 60, lambda: f"named to run: {self.text()}")

    def runs(self):
        if self.process.poll() is not None:
            raise harness.Failure(f"named ended: {self.text()}")
        return "all zones loaded" in self.text()

    def text(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="backslashreplace")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


class Client:
    """dig on another host, to which this named answers. `six` chooses the family."""

    def __init__(self, named, name, six=False):
        self.host = named.world.host(name)
        self.use(six)
        # named follows the addresses of its host, which has just got two new ones.
        for address in (self.host.host4, self.host.host6):
            for port in named.ports:
                wait_for(lambda sign=f", {address}#{port}": sign in named.text(), 30,
                         lambda: f"named to listen on {address}: {named.text()[-2000:]}")

    def use(self, six):
        self.target = self.host.host6 if six else self.host.host4
        self.address = self.host.v6 if six else self.host.v4

    def dig(self, name="example.org", *options, timeout=5):
        """The status that the server answered with; None without an answer."""
        done = self.host.run("dig", "-r", f"@{self.target}", "+tries=1", f"+time={timeout}",
                             *options, name, check=False, env=harness.free_environment())
        for line in done.stdout.splitlines():
            if "status:" in line:
                return line.split("status: ")[1].split(",")[0]
        return None

    def cookie(self):
        """What proves to the server that this client is where it says, for dig's +cookie."""
        done = self.host.run("dig", "-r", f"@{self.target}", "+tries=3", "+cookie", "open.test",
                             env=harness.free_environment())
        for line in done.stdout.splitlines():
            if "COOKIE:" in line and "(good)" in line:
                return line.split("COOKIE: ")[1].split()[0]
        raise harness.Failure(f"no cookie: {done.stdout}")

    def transfer(self, zone):
        """What became of a zone transfer."""
        done = self.host.run("dig", "-r", f"@{self.target}", "+tries=1", zone, "AXFR", check=False,
                             env=harness.free_environment())
        return "failed" if "Transfer failed" in done.stdout else "done"

    def connect(self, port=53):
        with self.host.entered():
            return socket.create_connection((self.target, port), timeout=30)


def question(name, kind=1):
    """A query as it goes over TCP, its length first."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = struct.pack("!HHHHHH", random.randrange(65536), 0x0100, 1, 0, 0, 0)
    text = head + labels + b"\0" + struct.pack("!HH", kind, 1)
    return struct.pack("!H", len(text)) + text


def ask(connection, name):
    """The response code that the server answered with over this connection."""
    connection.sendall(question(name))
    (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
    answer = connection.recv(length, socket.MSG_WAITALL)
    return answer[3] & 15


def ask_and_reset(connection, name):
    """Asks, and is gone before the answer."""
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(question(name))
