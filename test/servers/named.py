"""A patched named, and clients that ask, transfer, update and control."""

import base64
import contextlib
import glob
import hmac
import itertools
import os
import pwd
import re
import secrets
import shutil
import socket
import struct
import subprocess
import time

import built
import harness
from harness import run, wait_for

VERSIONS = ("bind9-9.18.49", "bind9-9.20.26")
KEY, WRONG_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
NAMES = ("upd", "xfer", "rndc-key")
CONF = """{keys}
options {{
    directory "{inside}";
    listen-on {{ any; }};
    listen-on-v6 {{ any; }};
    listen-on port 853 tls ephemeral {{ any; }};
    listen-on-v6 port 853 tls ephemeral {{ any; }};
    listen-on port 443 tls ephemeral http default {{ any; }};
    listen-on-v6 port 443 tls ephemeral http default {{ any; }};
    pid-file none;
    {more}
    recursion {recursion};
    allow-recursion {{ none; }};
    allow-query-cache {{ none; }};
    dnssec-validation no;
    empty-zones-enable no;
    notify no;
    tcp-idle-timeout 20;
    {options}
}};
controls {{
    inet * port 953 allow {{ {masters} }} keys {{ rndc-key; }};
    inet :: port 953 allow {{ {masters} }} keys {{ rndc-key; }};
}};
zone "open.test" {{ type primary; file "open"; allow-transfer {{ key xfer; }};
                    allow-update {{ key upd; }}; }};
zone "closed.test" {{ type primary; file "closed"; allow-query {{ none; }};
                      allow-transfer {{ none; }}; allow-update {{ key upd; }}; }};
zone "static.test" {{ type primary; file "static"; allow-transfer {{ none; }}; }};
zone "policy.test" {{ type primary; file "policy";
                      update-policy {{ grant upd name ok.policy.test. ANY; }}; }};
"""
MORE = {
    "bind9-9.18.49": "lock-file none;",
    "bind9-9.20.26": """listen-on port 5300 proxy plain { any; };
    listen-on-v6 port 5300 proxy plain { any; };
    allow-proxy { any; };""",
}
ZONE = """$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 192.0.2.1
www A 192.0.2.2
alias CNAME www.closed.test.
@ MX 10 www.closed.test.
"""


def user():
    """The user that named gives up root for: Debian's, or else nobody."""
    for name in ("bind", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise harness.Skip("there is no user to run named as")


class Named:
    """named of that version, in the foreground. It hears on what the host has when it starts."""

    def __init__(self, world, version, recursion="no", masters="any;", options="", chroot=False):
        for program in ("dig", "nsupdate", "rndc", "dnsperf"):
            if not shutil.which(program):
                raise harness.Skip(f"{program} is not installed (test/deps installs it)")
        self.version, self.user = version, user()
        directory = built.path(version)
        self.root = world.path(f"named.{world.counter()}")
        self.inside = "/zones" if chroot else f"{self.root}/zones"
        os.makedirs(f"{self.root}/zones")
        conf = CONF.format(inside=self.inside, recursion=recursion, masters=masters, options=options,
                           keys=keys(KEY, *NAMES),
                           more=MORE[version])
        for name, text in (("conf", conf), *((zone, ZONE) for zone in (
                "open", "closed", "static", "policy"))):
            with open(f"{self.root}/zones/{name}", "w") as file:
                file.write(text)
        for path in (f"{self.root}/zones", *glob.glob(f"{self.root}/zones/*")):
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        libraries = glob.glob(f"{directory}/lib/*/.libs")
        environment = built.environment()
        environment["LD_LIBRARY_PATH"] = ":".join([*libraries, environment["LD_LIBRARY_PATH"]])
        self.command = [f"{directory}/bin/named/.libs/named", "-g", "-n", "2", "-u",
                        self.user.pw_name, "-c", f"{self.inside}/conf",
                        *(["-t", self.root] if chroot else [])]
        self.log_path = world.path(f"named.{world.counter()}.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=environment)
        wait_for(self.runs, 60, lambda: f"named to run: {self.text()}")

    def runs(self):
        if self.process.poll() is not None:
            raise harness.Failure(f"named ended: {self.text()}")
        text = self.text()
        return "all zones loaded" in text and text.rstrip().endswith("running")

    def text(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="backslashreplace")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def holds(self, port):
        """Whether it has a TCP connection with that port of a client."""
        return any(f":{port} " in line and '"named"' in line
                   for line in run("ss", "-Htanp").stdout.splitlines())

    def stop(self):
        """Ends it in order; a crash is a failure."""
        self.process.terminate()
        code = self.process.wait(60)
        assert code == 0, (code, self.text()[-3000:])


def keys(secret, *names):
    return "".join(f'key "{name}" {{ algorithm hmac-sha256; secret "{secret}"; }};\n'
                   for name in names)


class Client:
    """Another host. `six` chooses the family. Each request comes from a port of its own where that can
    be, so that the reports say which it was."""

    def __init__(self, world, name, six=False):
        self.world = world
        self.host = world.host(name)
        self.ports = itertools.count(20001)
        self.port = None  # of the last request, where it is known
        self.use(six)

    def use(self, six):
        self.target = self.host.host6 if six else self.host.host4
        self.address = self.host.v6 if six else self.host.v4

    def dig(self, *question, tcp=False, cookie=None, key=None, timeout=10):
        """The status that named answered with; None without an answer."""
        self.port = next(self.ports)
        name, secret = key or (None, None)
        command = ["dig", "-r", f"@{self.target}", "-b", f"{self.address}#{self.port}", "+tries=1",
                   f"+time={timeout}", "+tcp" if tcp else "+notcp",
                   f"+cookie={cookie}" if cookie else "+nocookie", *question]
        if key:
            command += ["-y", f"hmac-sha256:{name}:{secret}"]
        self.said = self.host.run(*command, check=False, timeout=timeout + 60,
                                  env=harness.free_environment()).stdout
        status = re.search(r"status: (\w+)", self.said)
        if status:
            return status[1]
        if "Transfer failed" in self.said:
            return "REFUSED"
        return "NOERROR" if "XFR size" in self.said else None

    def cookie(self):
        """A cookie that named takes from this address."""
        self.dig("www.open.test", cookie=secrets.token_hex(8))
        return re.search(r"COOKIE: ([0-9a-f]{48})", self.said)[1]

    def update(self, zone, tcp=False, key=None, name="new"):
        """Adds a name to a zone; whether named let us."""
        # Over TCP nsupdate fails to read the answer when it is told which port to use.
        self.port = None if tcp else next(self.ports)
        command = ["nsupdate", "-t", "20", "-u", "20", "-r", "0", *(["-v"] if tcp else [])]
        if key:
            command += ["-y", f"hmac-sha256:{key[0]}:{key[1]}"]
        done = self.host.run(
            *command, check=False, env=harness.free_environment(),
            input=f"local {self.address} {self.port or ''}\nserver {self.target}\nzone {zone}\n"
                  f"update add {name}.{zone} 60 A 192.0.2.9\nsend\n")
        self.said = done.stdout + done.stderr
        return done.returncode == 0

    def rndc(self, *command, secret=KEY, target=None, port=953):
        """Whether named did as told."""
        conf = self.world.write(f"rndc.{self.world.counter()}", keys(secret, "rndc-key"))
        self.port = None
        done = self.host.run("rndc", "-c", conf, "-y", "rndc-key", "-s", target or self.target, "-p",
                             str(port), *command, check=False, env=harness.free_environment())
        self.said = done.stdout + done.stderr
        return done.returncode == 0

    def connect(self, port=53):
        """A bare connection."""
        self.port = None
        with self.host.entered():
            return socket.create_connection((self.target, port), timeout=60)

    def datagram(self, address=None):
        """A UDP socket of that host, with this one of its addresses."""
        family = socket.AF_INET6 if ":" in self.target else socket.AF_INET
        with self.host.entered():
            sender = socket.socket(family, socket.SOCK_DGRAM)
            sender.bind((address or self.address, 0))
        sender.settimeout(30)
        return sender

    def dnsperf(self, name, tcp=False, cookie=None, rate=500, seconds=60, queries=None):
        """An attack with queries for that name; the running process."""
        questions = self.world.write(f"questions.{self.world.counter()}", f"{name} A\n" * 100)
        command = ["dnsperf", "-s", self.target, "-d", questions, "-Q", str(rate), "-l",
                   str(seconds), "-t", "1", "-q", "20", "-c", "4", "-T", "1", "-m",
                   "tcp" if tcp else "udp"]
        if queries:
            command += ["-n", str(queries // 100)]
        if cookie:
            command += ["-e", "-E", f"10:{cookie}"]
        log = self.world.path(f"dnsperf.{self.world.counter()}.log")
        with open(log, "wb") as output:
            process = subprocess.Popen(self.host.command("timeout", "120", *command),
                                       stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       env=harness.free_environment())
        process.log_path = log
        return process


# --- DNS by hand, for what dig does not do -------------------------------------------------------

def wire_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def question(name, kind=1):
    """A query, without EDNS."""
    return (secrets.token_bytes(2) + b"\0\0" + struct.pack(">HHHH", 1, 0, 0, 0) + wire_name(name) +
            struct.pack(">HH", kind, 1))


def signed(message, key, secret, skew=0):
    """The message with a TSIG made so many seconds off our time."""
    algorithm = wire_name("hmac-sha256")
    stamp = (int(time.time()) + skew).to_bytes(6, "big") + struct.pack(">H", 300)
    owner = wire_name(key)
    variables = owner + struct.pack(">HI", 255, 0) + algorithm + stamp + bytes(4)
    mac = hmac.digest(base64.b64decode(secret), message + variables, "sha256")
    data = algorithm + stamp + struct.pack(">H", len(mac)) + mac + message[:2] + bytes(4)
    count = struct.unpack_from(">H", message, 10)[0] + 1
    return (message[:10] + struct.pack(">H", count) + message[12:] + owner +
            struct.pack(">HHIH", 250, 255, 0, len(data)) + data)


def rcode(answer):
    return answer[3] & 15


def proxied(source, target):
    """The PROXYv2 header of a stream or datagram that came from `source`, both IPv4 or IPv6."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, address) for address in (source, target))
    ports = struct.pack(">HH", 4000, 53)
    return (b"\r\n\r\n\0\r\nQUIT\n\x21", bytes([0x21 if ":" in source else 0x11]),
            bytes([0x22 if ":" in source else 0x12]),
            struct.pack(">H", len(addresses + ports)) + addresses + ports)


def exchange(client, message, tcp, port=53, source=None):
    """Sends that message and returns the answer's rcode; with `source` as a proxy that has it from
    there."""
    client.port = None
    start, stream, datagram, rest = proxied(source, client.target) if source else [b""] * 4
    if not tcp:
        with client.datagram() as sender:
            sender.sendto(start + datagram + rest + message, (client.target, port))
            return rcode(sender.recv(4096))
    with client.connect(port) as connection:
        connection.sendall(start + stream + rest + struct.pack(">H", len(message)) + message)
        return rcode(connection.recv(4096)[2:])
