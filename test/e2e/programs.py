"""The programs under test, and what is common to all who drive them.

wait_for() is the only way to wait: it polls a condition and is bounded.
"""

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("EGRESS_TEST_BUILD", os.path.join(SOURCE, "build"))
# A second build without sanitizers, for code that is loaded into foreign programs.
PLAIN_BUILD = os.environ.get("EGRESS_TEST_PLAIN_BUILD", BUILD)
DATABASE = "/run/egress-db"
# How many times longer than usual everything may take: an emulated machine sets it.
PATIENCE = float(os.environ.get("EGRESS_TEST_PATIENCE", "1"))
OK, FAIL, ABUSIVE, BAD_USER, VERIFIED = 0, 1, 2, 3, 0x100

libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def sanitized(build=None):
    """Whether that build has the address sanitizer in it."""
    try:
        with open(os.path.join(build or BUILD, "CMakeCache.txt")) as cache:
            return "EGRESS_SANITIZE:BOOL=ON" in cache.read()
    except OSError:
        return False


def artefact(*names, build=None):
    """The path of a built file: the first of `names` (below the build directory) that exists."""
    for name in names:
        path = os.path.join(build or BUILD, name)
        if os.path.exists(path):
            return path
    raise Failure(f"{names[0]} is not built in {build or BUILD}")


def wait_for(condition, timeout=15.0, what="the condition"):
    """Polls until condition() is true, and returns what it gave. `what` may be a function, called
    only when the wait was in vain."""
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"waited {timeout:g} s in vain for {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def run(*command, check=True, timeout=60, **keywords):
    """Runs a program and returns what it did; output is text."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                          stdin=keywords.pop("stdin", subprocess.DEVNULL) if "input" not in keywords
                          else None, timeout=timeout * PATIENCE, **keywords)
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(command)} exited {done.returncode}: {done.stderr or done.stdout}")
    return done


def free_environment():
    """The environment for programs of ours: nothing of the tester's own egress set-up."""
    environment = {k: v for k, v in os.environ.items()
                   if k not in ("LD_PRELOAD", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID",
                                "WATCHDOG_USEC", "JOURNAL_STREAM")}
    environment["LC_ALL"] = "C.UTF-8"
    environment["EGRESS_COUNTERS"] = "*"  # packets that were dropped show that a block works
    return environment


# --- the library -------------------------------------------------------------------------------

class Library:
    """The real libegress, called as a server would."""

    def __init__(self, build=None):
        self.path = artefact("lib/libegress.so.1", build=build)
        lib = ctypes.CDLL(self.path, use_errno=True)
        lib.egress_open.restype = ctypes.c_void_p
        for name, arguments in {
                "egress_report": [ctypes.c_int, ctypes.c_int, ctypes.c_char_p],
                "egress_report_sa": [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
                                     ctypes.c_char_p],
                "egress_report_r": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_char_p],
                "egress_report_sa_r": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
                                       ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p],
                "egress_close": [ctypes.c_void_p]}.items():
            getattr(lib, name).argtypes = arguments
        self.lib = lib

    def report(self, action, fd, message="test", sa=None, salen=None, check=True):
        """One report, one connection. `sa` is the bytes of a struct sockaddr. Returns 0 or errno."""
        number = fd if isinstance(fd, int) else fd.fileno()
        text = message if isinstance(message, bytes) else message.encode()
        if sa is None:
            bad = self.lib.egress_report(action, number, text)
        else:
            bad = self.lib.egress_report_sa(action, number, sa,
                                            len(sa) if salen is None else salen, text)
        code = ctypes.get_errno() if bad else 0
        if check and bad:
            raise Failure(f"egress_report: {os.strerror(code)}")
        return code

    @contextlib.contextmanager
    def connection(self):
        handle = self.lib.egress_open()
        if not handle:
            raise Failure(f"egress_open: {os.strerror(ctypes.get_errno())}")
        try:
            yield lambda action, fd, message=b"test": self.lib.egress_report_r(
                handle, action, fd if isinstance(fd, int) else fd.fileno(), message)
        finally:
            self.lib.egress_close(handle)


def sockaddr(address, port=0):
    """The bytes of a struct sockaddr_in or sockaddr_in6."""
    if ":" in address:
        return (socket.AF_INET6.to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") + bytes(4) +
                socket.inet_pton(socket.AF_INET6, address) + bytes(4))
    return (socket.AF_INET.to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") +
            socket.inet_aton(address) + bytes(8))


# --- the daemon --------------------------------------------------------------------------------

class Daemon:
    """egressd in the foreground, with its log in a file."""

    def __init__(self, world, conf, *options, helper=None, environment=None, wrapper=(),
                 database=None, wait=True, pass_fds=()):
        self.world = world
        self.conf = world.write("egress.conf", conf) if "\n" in conf else conf
        self.database = database or DATABASE
        self.log_path = world.path(f"egressd.{world.counter()}.log")
        self.control = "/run/egress/control.sock"
        self.socket = "/run/egress/report.sock"
        helper = helper or artefact("helper/egress-helper")
        if os.environ.get("EGRESS_TEST_AS_INSTALLED"):
            wrapper = [*wrapper, sys.executable, "-B", os.path.join(SOURCE, "test/egress/as_unit.py"), BUILD]
        command = [*wrapper, artefact("daemon/egressd"), "-d", "-c", self.conf, "-C", helper,
                   "-D", self.database, "-s", self.socket, "-S", self.control, *options]
        if "-G" not in options:  # never the machine's own cgroups
            command += ["-G", "/run/egress/no-cgroup"]
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=self.log_file, pass_fds=pass_fds,
                                        env={**free_environment(), **(environment or {})})
        world.daemons.append(self)
        if wait:
            self.wait_ready()

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise Failure(f"egressd ended with {self.process.returncode}:\n{self.log()}")
            try:
                return self.get("/v1/status", timeout=5)[0] == 200
            except OSError:
                return False
        wait_for(ready, 30, "egressd to answer on its control socket")

    def log(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="backslashreplace")

    def request(self, method, path, body=None, timeout=30):
        """(status, parsed JSON or text) from the control socket."""
        timeout *= PATIENCE
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        try:
            connection.sock.connect(self.control)
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def get(self, path, timeout=30):
        return self.request("GET", path, timeout=timeout)

    def status(self):
        code, body = self.get("/v1/status")
        assert code == 200, (code, body)
        return body

    def blocks(self, state="all"):
        code, body = self.get(f"/v1/blocks?state={state}")
        assert code == 200, (code, body)
        return body

    def row(self, address):
        """The row of one counted address (None, or a Failure if there are several)."""
        rows = [row for row in self.blocks() if row["addr"] == address]
        if len(rows) > 1:
            raise Failure(f"several rows for {address}: {rows}")
        return rows[0] if rows else None

    def taken(self):
        """Reports taken or refused so far: what the daemon has read."""
        status = self.status()
        return status["reports"]["taken"] + sum(status["refused"].values())

    def open_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def open_files(self):
        """What the descriptors are, for messages."""
        directory = f"/proc/{self.pid}/fd"
        return sorted(os.readlink(os.path.join(directory, number)) for number in os.listdir(directory))

    def alive(self):
        return self.process.poll() is None

    def send(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=30):
        return self.process.wait(timeout * PATIENCE)

    def stop(self, number=signal.SIGTERM):
        """Ends the daemon and returns its exit status."""
        if self.alive():
            self.send(number)
        code = self.wait()
        if number == signal.SIGTERM and sanitized() and "Sanitizer" in self.log():
            raise Failure(f"sanitizer report:\n{self.log()}")
        return code
