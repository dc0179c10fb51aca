"""Debian's own vsftpd and dovecot as their packages ship them, and clients of both."""

import contextlib
import ftplib
import imaplib
import os
import poplib
import shutil
import socket
import ssl
import subprocess

import harness
import stock
from harness import run, wait_for

# What dovecot's package leaves to the administrator: where the mail is, a certificate, and log-ins
# without TLS, which hydra needs.
DOVECOT = """disable_plaintext_auth = no
mail_location = maildir:/tmp/mail/%u
log_path = {log}
auth_verbose = yes
"""


class Server:
    """A stock server in the foreground."""

    program = port = None

    def __init__(self, world, *command):
        self.log_path = world.path(os.path.basename(self.program) + ".log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([self.program, *command], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=harness.free_environment())
        wait_for(self.listens, 30, lambda: f"{self.program} to listen: {self.text()}")

    @classmethod
    def needed(cls):
        if not os.path.exists(cls.program):
            raise harness.Skip(f"{cls.program} is not installed (test/deps installs it)")

    def listens(self):
        if self.process.poll() is not None:
            raise harness.Failure(f"{self.program} ended: {self.text()}")
        return f":{self.port} " in run("ss", "-Hltn").stdout

    def text(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="backslashreplace")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Vsftpd(Server):
    program, port, service = "/usr/sbin/vsftpd", 21, "ftp"

    def __init__(self, world, **settings):
        os.makedirs("/var/run/vsftpd/empty", exist_ok=True)
        # No change to the shipped configuration but what a test asks for.
        with open("/etc/vsftpd.conf") as shipped:
            conf = world.write("vsftpd.conf", shipped.read() + "".join(
                f"{key}={value}\n" for key, value in settings.items()))
        super().__init__(world, conf)

    @staticmethod
    def log_in(address, user, password):
        with contextlib.closing(ftplib.FTP(timeout=60)) as ftp:
            ftp.connect(address)
            try:
                ftp.login(user, password)
                return True
            except ftplib.error_perm as error:
                return refused(error, "530")


class Dovecot(Server):
    program, port, service = "/usr/sbin/dovecot", 143, "imap"

    def __init__(self, world, more=""):
        os.makedirs("/tmp/mail", 0o1777, exist_ok=True)
        os.chmod("/tmp/mail", 0o1777)
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            "/CN=test", "-keyout", "/etc/dovecot/private/dovecot.key", "-out",
            "/etc/dovecot/private/dovecot.pem")
        with open("/etc/dovecot/local.conf", "w") as conf:
            conf.write(DOVECOT.format(log=world.path("dovecot.log")) + more)
        super().__init__(world, "-F")

    @staticmethod
    def log_in(address, user, password, encrypted=False):
        kind = TrustingImap if encrypted else imaplib.IMAP4
        with hung_up(kind(address, timeout=60)) as client:
            try:
                client.login(user, password)
                return True
            except imaplib.IMAP4.error as error:
                return refused(error, "AUTHENTICATIONFAILED")

    @staticmethod
    def log_in_pop3(address, user, password):
        client = poplib.POP3(address, 110, timeout=60)
        with contextlib.closing(client):
            try:
                client.user(user)
                client.pass_(password)
                return True
            except poplib.error_proto as error:
                return refused(error, "[AUTH]")


class TrustingImap(imaplib.IMAP4_SSL):
    """The certificate is of nobody's."""

    def __init__(self, *arguments, **keywords):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(*arguments, ssl_context=context, **keywords)


@contextlib.contextmanager
def hung_up(client):
    """Hangs up in the end, without the farewell for which imaplib would wait."""
    try:
        yield client
    finally:
        client.shutdown()


def refused(error, sign):
    """False for an answer that says no; anything else is no answer to a log-in."""
    if sign not in str(error):
        raise error
    return False


class Client:
    """Somebody on another host. `six` chooses the family."""

    def __init__(self, world, name, six=False):
        self.host = world.host(name)
        self.use(six)

    def use(self, six):
        self.target = self.host.host6 if six else self.host.host4
        self.address = self.host.v6 if six else self.host.v4

    def log_in(self, how, user="alice", password=stock.PASSWORD, **keywords):
        """`how` is one of the functions above; whether the server let us in."""
        with self.host.entered():
            return how(self.target, user, password, **keywords)

    def gets_through(self, port, patience=2):
        """Whether so much as a connection is possible."""
        with self.host.entered(), socket.socket(
                socket.AF_INET6 if ":" in self.target else socket.AF_INET) as probe:
            probe.settimeout(patience)
            try:
                probe.connect((self.target, port))
            except OSError:
                return False
            return True


def set_up(world, *servers):
    """egress installed, its PAM profile taken, two users."""
    for server in servers:
        server.needed()
    for program in ("useradd", "chpasswd", "openssl", "pam-auth-update"):
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed (test/deps installs it)")
    if harness.sanitized(harness.PLAIN_BUILD):
        raise harness.Skip("a sanitized PAM module cannot be loaded into a stock server; "
                           "EGRESS_TEST_PLAIN_BUILD names a plain build")
    stock.install(world, harness.PLAIN_BUILD)
    stock.enable_pam()
    stock.add_user("alice")
    stock.add_user("bob")
