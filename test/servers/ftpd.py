"""Patched FTP servers, and clients that behave in known ways."""

import contextlib
import ftplib
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading

import built
import harness
import stock
from harness import run, wait_for

PORT = 21
ANONYMOUS_ROOT = "/var/egress-ftp"
PAM = """auth required pam_listfile.so item=user sense=deny file=/etc/ftpusers onerr=succeed
auth required pam_unix.so nodelay
account required pam_unix.so
session required pam_unix.so
"""
# ftpd asks for the user first and for the password later, which of all modules only this one can do.
PAM_FTP = PAM.replace("auth required pam_unix.so", "auth sufficient pam_ftp.so\n"
                      "auth required pam_unix.so use_first_pass")
# What Debian's package sets, and what the tests need.
VSFTPD = """background=NO
listen=NO
listen_ipv6=YES
anonymous_enable=YES
anon_root={anonymous}
local_enable=YES
write_enable=YES
pam_service_name=vsftpd
secure_chroot_dir=/run/vsftpd/empty
userlist_enable=YES
userlist_file=/etc/vsftpd.user_list
delay_failed_login=0
max_per_ip=0
{more}
"""


def set_up(world):
    """A Debian of which nothing stays behind. Users: alice; bob, whom no server lets in; carol, who is
    locked into her home; dan, whose home is his own."""
    for program in ("useradd", "usermod", "chpasswd"):
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed (test/deps installs it)")
    stock.overlay(world, "/etc", "/var")
    for user in ("alice", "bob", "carol", "dan"):
        stock.add_user(user)
    os.mkdir(ANONYMOUS_ROOT)
    if run("id", "ftp", check=False).returncode != 0:
        run("useradd", "--no-create-home", "ftp")
    run("usermod", "--home", ANONYMOUS_ROOT, "ftp")
    for user in ("carol", "dan"):
        os.makedirs(f"/var/home/{user}")
        run("usermod", "--home", f"/var/home/{user}", user)
    shutil.chown("/var/home/dan", "dan")
    for path, text in (("/etc/ftpusers", "bob\nghost\n"), ("/etc/vsftpd.user_list", "bob\nghost\n"),
                       ("/etc/ftpchroot", "carol\n"), ("/etc/pam.d/vsftpd", PAM),
                       ("/etc/pam.d/ftp", PAM_FTP)):
        with open(path, "w") as file:
            file.write(text)
    os.makedirs("/run/vsftpd/empty")


class Server:
    """What the two have in common. `limit`: the failures in a session after which it hangs up."""

    limit = None

    def __init__(self, world, name, program):
        self.world, self.name = world, name
        if not os.path.exists(ANONYMOUS_ROOT):
            set_up(world)
        self.program = os.path.join(built.path(name), program)
        if not os.path.exists(self.program):
            raise harness.Skip(f"{self.program} was not built (no PAM headers?)")
        self.log_path = world.path(f"{name}.{world.counter()}.log")
        self.log = open(self.log_path, "ab")
        self.process = self.pid_file = None

    def launch(self, *command):
        """vsftpd complains on its descriptor 0, whatever that is."""
        return subprocess.Popen(command, stdin=self.log, stdout=self.log, stderr=self.log,
                                env=built.environment())

    def text(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="backslashreplace")

    def listens(self):
        if self.process.poll():
            raise harness.Failure(f"{self.name} ended: {self.text()}")
        return f":{PORT} " in run("ss", "-Hltn").stdout

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid()}/fd"))

    def pid(self):
        """The listening process; None under inetd."""
        return self.process and self.process.pid

    def stop(self):
        if self.pid():
            os.kill(self.pid(), signal.SIGTERM)
        wait_for(lambda: f":{PORT} " not in run("ss", "-Hltn").stdout, 20, f"{self.name} to end")


class Vsftpd(Server):
    limit = 3
    kinds = ("pam", "shadow")

    def __init__(self, world, kind="pam", listen=True, **settings):
        super().__init__(world, "vsftpd-3.0.5", {"pam": "vsftpd", "shadow": "vsftpd-shadow"}[kind])
        more = "".join(f"{key}={value}\n" for key, value in settings.items())
        if not listen:
            more += "listen_ipv6=NO\n"
        self.conf = world.write(f"vsftpd.conf.{world.counter()}",
                                VSFTPD.format(anonymous=ANONYMOUS_ROOT, more=more))
        if listen:
            self.process = self.launch(self.program, self.conf)
            wait_for(self.listens, what=lambda: f"{self.name} to listen")

    def serve(self, connection):
        """One connection as inetd would hand it over; the process."""
        return subprocess.Popen([self.program, self.conf], stdin=connection, stdout=connection,
                                stderr=self.log, env=built.environment())


class Inetutils(Server):
    limit = 6
    kinds = ("pam", "default")

    def __init__(self, world, kind="pam", listen=True, options=()):
        super().__init__(world, "inetutils-2.4", "ftpd/ftpd")
        self.command = [self.program, "-a", kind, *options]
        if kind == "pam" and "PAM" not in run(self.program, "--help", env=built.environment()).stdout:
            raise harness.Skip("ftpd was built without PAM")
        if listen:
            self.pid_file = world.path("ftpd.pid")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pid_file)
            self.process = self.launch(*self.command, "-D", f"--pidfile={self.pid_file}")
            wait_for(self.listens, what=lambda: f"{self.name} to listen")
            wait_for(self.pid, what="ftpd's pid file")

    def pid(self):
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError), open(
                self.pid_file) as file:
            return int(file.read())
        return None

    def serve(self, connection):
        return subprocess.Popen(self.command, stdin=connection, stdout=connection, stderr=self.log,
                                env=built.environment())


@contextlib.contextmanager
def inetd(server):
    """Accepts over both families for a server that serves one connection."""
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    children = []

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    children.append(server.serve(connection))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
        for child in children:
            child.wait(60)


class Session(ftplib.FTP):
    """One control connection. Answers are numbers; 0 when the server has hung up."""

    def __init__(self, host, target, patience=60):
        super().__init__(timeout=patience)
        with host.entered():
            self.greeting = self.connect(target, PORT)
        self.port = self.sock.getsockname()[1]

    def say(self, line):
        try:
            self.putcmd(line)
            return self.answer()
        except (EOFError, ConnectionError):
            return 0

    def answer(self):
        try:
            self.said = self.getmultiline()
            return int(self.said[:3])
        except (EOFError, ConnectionError):
            return 0

    def try_in(self, user, password):
        """USER and, when asked for it, PASS; the last answer."""
        code = self.say(f"USER {user}")
        return self.say(f"PASS {password}") if code == 331 else code

    def hung_up(self):
        """Reads what is left; whether the end comes, within the patience of the connection."""
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(4096):
                pass
        return True

    def reset(self):
        """Gone without a farewell: the other end gets an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Client:
    """Somebody on another host. `six` chooses the family."""

    def __init__(self, world, name, six=False):
        self.host = world.host(name)
        self.use(six)

    def use(self, six):
        self.target = self.host.host6 if six else self.host.host4
        self.address = self.host.v6 if six else self.host.v4

    def session(self, patience=60):
        return Session(self.host, self.target, patience)

    def log_in(self, user="alice", password=stock.PASSWORD, patience=60):
        """A session of one try and QUIT; whether the user got in."""
        with contextlib.closing(self.session(patience)) as session:
            code = session.try_in(user, password)
            assert code in (230, 530), (code, session.said)
            if session.say("QUIT"):
                session.hung_up()
            return code == 230
