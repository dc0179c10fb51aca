"""A patched sshd, and clients that behave in known ways."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading

import built
import harness
import stock
from harness import run, wait_for

VERSIONS = ("openssh-9.2p1", "openssh-10.0p1")
CONF = """Port {port}
HostKey /etc/ssh/test_host_key
PidFile none
UseDNS no
UsePAM {pam}
PasswordAuthentication yes
KbdInteractiveAuthentication {pam}
MaxAuthTries {tries}
LoginGraceTime {grace}
MaxStartups 100
LogLevel VERBOSE
{more}
"""


class Sshd(stock.Sshd):
    """sshd of that version, in the foreground, in a Debian of which nothing stays behind."""

    def __init__(self, world, version, pam="yes", tries=6, grace=120, listen=True, port=22,
                 directory=None):
        for program in ("ssh", "sshpass", "ssh-keygen", "useradd"):
            if not shutil.which(program):
                raise harness.Skip(f"{program} is not installed (test/deps installs it)")
        self.directory = directory or built.path(version)
        if pam == "yes" and not os.path.exists("/etc/pam.d/sshd"):
            raise harness.Skip("there is no PAM service sshd (test/deps installs openssh-server)")
        self.modern = version != "openssh-9.2p1"
        if not os.path.exists("/etc/ssh/test_host_key"):
            stock.overlay(world, "/etc", "/var")
            stock.add_user("alice")
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/test_host_key")
        os.makedirs("/run/sshd", exist_ok=True)
        more = "PerSourcePenalties no" if self.modern else ""  # egress is what blocks here
        self.port = port
        self.conf = world.write(f"sshd_config.{world.counter()}", CONF.format(
            port=port, pam=pam, tries=tries, grace=grace, more=more))
        self.command = [os.path.join(self.directory, "sshd"), "-f", self.conf, "-e"]
        self.log_path = world.path(f"sshd.{world.counter()}.log")
        self.log = open(self.log_path, "ab")
        self.process = None
        if listen:
            self.process = subprocess.Popen([*self.command, "-D"], stdin=subprocess.DEVNULL,
                                            stdout=self.log, stderr=self.log,
                                            env=built.environment())
            wait_for(self.listens, what="sshd to listen")

    def listens(self):
        if self.process.poll() is not None:
            raise harness.Failure(f"sshd ended: {self.text()}")
        return f":{self.port} " in run("ss", "-Hltn").stdout

    def serve(self, connection):
        """One connection as inetd would hand it over; the process."""
        return subprocess.Popen([*self.command, "-i"], stdin=connection, stdout=connection,
                                stderr=self.log, env=built.environment())

    def processes(self, name):
        """Processes of ours whose program is called that; the newest last."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == name:
                    found.append(int(pid))
        return sorted(found)


@contextlib.contextmanager
def inetd(sshd, port=22):
    """Accepts on that port, over both families, for "sshd -i"."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    children = []

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    children.append(sshd.serve(connection))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()
        for child in children:
            child.wait(60)


class Client:
    """ssh on another host. `six` chooses the family."""

    def __init__(self, world, name, six=False, port=22):
        self.world = world
        self.port = port
        self.host = world.host(name)
        self.use(six)
        self.askpass = world.write(f"askpass-{name}", '#!/bin/sh\n'
                                   '[ ! -e "$0.used" ] || [ -z "$HANG" ] || exec sleep 100\n'
                                   ': >"$0.used"\necho "$ANSWER"\n', 0o755)

    def use(self, six):
        self.target = self.host.host6 if six else self.host.host4
        self.address = self.host.v6 if six else self.host.v4

    def start(self, user="alice", answer="wrong", tries=1, methods="password", options=(), hang=False,
              patience=20):
        """Starts ssh, which gives the same answer to every question of so many tries; with `hang`
        it never answers the second."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.askpass + ".used")
        command = ["ssh", "-F", "/dev/null", "-p", str(self.port), "-o", "StrictHostKeyChecking=no", "-o",
                   "UserKnownHostsFile=/dev/null", "-o", f"ConnectTimeout={patience}", "-o",
                   "LogLevel=ERROR", "-o", f"PreferredAuthentications={methods}", "-o",
                   f"NumberOfPasswordPrompts={tries}", "-o", "IdentitiesOnly=yes"]
        for option in options:
            command += ["-o", option]
        environment = {**harness.free_environment(), "SSH_ASKPASS": self.askpass, "ANSWER": answer,
                       "SSH_ASKPASS_REQUIRE": "force", "HANG": "1" if hang else ""}
        environment.pop("SSH_AUTH_SOCK", None)
        return subprocess.Popen(self.host.command(*command, f"{user}@{self.target}", "echo in"),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=environment)

    def ssh(self, *arguments, **keywords):
        """The same, to its end; whether it got in."""
        process = self.start(*arguments, **keywords)
        out, self.said = process.communicate(timeout=90)
        return out == "in\n"

    def log_in(self):
        return self.ssh(answer=stock.PASSWORD)

    def keys(self, number):
        """ssh options for so many keys that no server knows."""
        options = []
        for index in range(number):
            path = f"{self.askpass}.key-{index}"
            if not os.path.exists(path):
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
            options.append(f"IdentityFile={path}")
        return options

    def connect(self):
        """A bare connection."""
        with self.host.entered():
            return socket.create_connection((self.target, self.port), timeout=60)

    def garbage(self, text=b"GET / HTTP/1.0\r\n\r\n"):
        """Says something else than SSH; returns when the server has hung up."""
        with self.connect() as connection:
            connection.sendall(text)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
