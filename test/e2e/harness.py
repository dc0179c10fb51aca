"""A private world for each test, and the programs of this project running in it.

A test file defines functions test_NAME(world) and ends with `harness.main(globals())`. The whole
file runs in its own mount, network and process namespaces: whatever happens to it, kill -9
included, the kernel ends everything it started and forgets everything it mounted. Each test gets
a fresh network namespace and a fresh /run on top of that, with sockets and database in it.

A test fails by an exception (assert, or Failure with the reason), and is skipped by Skip.
Waiting is always for something: wait_for() polls a condition and is bounded.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback

from programs import (ABUSIVE, BAD_USER, BUILD, DATABASE, FAIL, OK, PATIENCE, PLAIN_BUILD, SOURCE, VERIFIED,
                      Daemon, Failure, Library, Skip, artefact, free_environment, libc, run,
                      sanitized, sockaddr, wait_for)

NOBODY = 65534
AS_INSTALLED = "--as-installed"  # runs egressd as its systemd unit does: test/egress/as_unit.py
EXEMPTION = r"\.(pass|hold)(\.(proto|port|all))?$"  # a set of who passes blocks, not a block
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
IP_FREEBIND, IPV6_FREEBIND = 15, 78


# --- the world ---------------------------------------------------------------------------------

class Namespace:
    """Another host: a network namespace held by a sleeping child, with a wire to ours."""

    def __init__(self, world, name, number):
        self.name = name
        self.pid = os.fork()
        if self.pid == 0:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if libc.unshare(CLONE_NEWNET) != 0:
                os._exit(1)
            os.kill(os.getpid(), signal.SIGSTOP)
            while True:
                signal.pause()
        os.waitpid(self.pid, os.WUNTRACED)
        os.kill(self.pid, signal.SIGCONT)
        self.v4, self.v6 = f"10.77.{number}.2", f"fd77:{number}::2"
        self.host4, self.host6 = f"10.77.{number}.1", f"fd77:{number}::1"
        link = f"to-{name}"[:15]
        world.ip("link", "add", link, "type", "veth", "peer", "name", "up0", "netns", str(self.pid))
        world.ip("addr", "add", f"{self.host4}/24", "dev", link)
        world.ip("addr", "add", f"{self.host6}/64", "dev", link, "nodad")
        world.ip("link", "set", link, "up")
        self.run("ip", "addr", "add", f"{self.v4}/24", "dev", "up0")
        self.run("ip", "addr", "add", f"{self.v6}/64", "dev", "up0", "nodad")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "up0", "up")

    def command(self, *command):
        return ["nsenter", "-t", str(self.pid), "-n", "--", *command]

    def run(self, *command, **keywords):
        return run(*self.command(*command), **keywords)

    @contextlib.contextmanager
    def entered(self):
        """Sockets made in here belong to that host."""
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        theirs = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(theirs, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            libc.setns(ours, CLONE_NEWNET)
            os.close(ours)
            os.close(theirs)


class World:
    """The network namespace of one test. The host is 10.66.0.1 and fd66::1; every other address
    of 10.66.0.0/16, fd66::/32 and 192.0.2.0/24 is a client that can be played from here."""

    def __init__(self, name):
        self.name = name
        self.scratch = "/run/egress-test"
        self.daemons = []
        self.counted = 0
        self.listeners = {}
        self.keep = []
        self._library = None
        mount("tmpfs", "/run")
        for path in ("/run/egress", self.scratch, DATABASE):
            os.mkdir(path, 0o755)
        if os.path.isdir("/sys/fs/bpf"):
            mount("tmpfs", "/sys/fs/bpf")  # nothing is pinned in the machine's own
        self.ip("link", "set", "lo", "up")
        self.ip("addr", "add", "10.66.0.1/32", "dev", "lo")
        self.ip("addr", "add", "fd66::1/128", "dev", "lo", "nodad")
        for net in ("10.66.0.0/16", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"):
            self.ip("route", "add", "local", net, "dev", "lo")
        for net in ("fd66::/16", "2001:db8::/32"):
            self.ip("-6", "route", "add", "local", net, "dev", "lo")

    # paths and programs

    def counter(self):
        self.counted += 1
        return self.counted

    def path(self, name):
        return os.path.join(self.scratch, name)

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def ip(self, *arguments):
        return run("ip", *arguments)

    def daemon(self, conf, *options, **keywords):
        return Daemon(self, conf, *options, **keywords)

    def host(self, name):
        return Namespace(self, name, self.counter())

    @property
    def library(self):
        if self._library is None:
            self._library = Library()
        return self._library

    def ctl(self, *arguments, check=False, **keywords):
        environment = {**free_environment(), **keywords.pop("environment", {})}
        return run(artefact("ctl/egressctl"), *arguments, check=check, env=environment, **keywords)

    def ctl_json(self, *arguments):
        done = self.ctl(*arguments, "--json", check=True)
        return json.loads(done.stdout)

    # sockets

    def listener(self, address, port):
        """A TCP server socket, made once per address and port."""
        key = (address, port)
        if key not in self.listeners:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            server = socket.socket(family)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(512)
            self.listeners[key] = server
        return self.listeners[key]

    def tcp(self, remote, local="10.66.0.1", port=2222):
        """The server's end of a TCP connection from `remote`. The client's end stays open."""
        server = self.listener(local, port)
        client = socket.socket(server.family)
        free_bind(client)
        client.bind((remote, 0))
        client.settimeout(10)
        client.connect((local, port))
        accepted, _ = server.accept()
        return Pair(accepted, client, self)

    def udp(self, local="10.66.0.1", port=2222, remote=None):
        """A UDP server socket, connected where `remote` is given."""
        server = socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET,
                               socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((local, port))
        if remote:
            server.connect((remote, 4000))
        self.keep.append(server)
        return server

    def fail(self, connection, times=1, action=FAIL, message="test"):
        """The same report several times, each through a connection of its own."""
        for _ in range(times):
            self.library.report(action, connection, message)

    # the firewall

    def elements(self, name=None):
        """What the kernel holds: one dict per set element of table inet egress."""
        done = run("nft", "-j", "list", "table", "inet", "egress", check=False)
        if done.returncode != 0:
            return []
        found = []
        for item in json.loads(done.stdout)["nftables"]:
            if "set" in item and not re.search(EXEMPTION, item["set"]["name"]):
                found += [parse_element(item["set"], raw) for raw in item["set"].get("elem", [])]
        return [element for element in found if name is None or element["name"] == name]

    def element(self, address):
        """The element of one address or prefix (None if there is none)."""
        found = [element for element in self.elements() if element["addr"] == address]
        if len(found) > 1:
            raise Failure(f"several elements for {address}: {found}")
        return found[0] if found else None

    def wait_element(self, address, timeout=60):
        return wait_for(lambda: self.element(address), timeout, f"a set element for {address}")

    def wait_no_element(self, address, timeout=60):
        wait_for(lambda: not self.element(address), timeout, f"the set element of {address} to go")

    def close(self):
        for daemon in self.daemons:
            if daemon.alive():
                daemon.stop()
            daemon.log_file.close()


class Pair:
    """The accepted socket of a connection, its client's end kept alive beside it."""

    def __init__(self, server, client, world):
        self.server, self.client = server, client
        world.keep.append(self)

    def fileno(self):
        return self.server.fileno()


def gets_through(world, remote, port, local="10.66.0.1"):
    """Whether a connection from `remote` is established in half a second."""
    world.listener(local, port)
    with socket.socket() as client:
        client.settimeout(0.5)
        client.bind((remote, 0))
        try:
            client.connect((local, port))
            return True
        except TimeoutError:
            return False


def free_bind(sock):
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)


def parse_element(set_, raw):
    """nft's JSON of one element, as plain fields. The helper names its sets
    NAME.vFAMILY.LENGTH.ACTION[.WITHOUT]: the suffix says which parts of the key stand for any."""
    match = re.fullmatch(r"_?(.+)\.v([46])\.(\d+)\.(drop|reject)(?:\.(all|proto|protocol|port))?",
                         set_["name"])
    if not match:
        raise Failure(f"unexpected set name {set_['name']}")
    detail = raw.get("elem", raw) if isinstance(raw, dict) else {"val": raw}
    value = detail["val"]
    fields = value["concat"] if isinstance(value, dict) else [value]
    shape = match[5] or "exact"
    proto = fields[1] if shape in ("exact", "proto", "protocol") else None
    port = fields[-1] if shape in ("exact", "port") else None
    length = int(match[3])
    host = length == (32 if match[2] == "4" else 128)
    return {"set": set_["name"], "name": match[1], "action": match[4],
            "addr": fields[0] if host else f"{fields[0]}/{length}", "proto": proto, "port": port,
            "timeout": detail.get("timeout"), "expires": detail.get("expires"),
            "packets": detail.get("counter", {}).get("packets", 0)}


def mount(kind, path, options="mode=0755"):
    if libc.mount(kind.encode(), path.encode(), kind.encode(), 0, options.encode()) != 0:
        code = ctypes.get_errno()
        raise Skip(f"cannot mount a {kind} on {path}: {os.strerror(code)}")


def need_reachable(path=BUILD):
    """Skips what another user must run, where a directory above the build shuts everybody else out."""
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            raise Skip(f"other users cannot reach the build: {path} is closed to them")
        path = os.path.dirname(path)


def as_user(uid, function):
    """Runs function() in a child with that uid and nothing else; its exception comes back as text."""
    need_reachable()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read_end)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(write_end, json.dumps(function()).encode())
            code = 0
        except BaseException:
            os.write(write_end, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise Failure(f"as uid {uid}: {text}")
    return json.loads(text)


# --- the runner --------------------------------------------------------------------------------

def enter():
    """Starts this program again inside its own namespaces, unless that has happened."""
    if AS_INSTALLED in sys.argv:
        os.environ["EGRESS_TEST_AS_INSTALLED"] = "1"
    if os.environ.get("EGRESS_TEST_WORLD") == "1" and os.getpid() == 1:
        return
    if os.geteuid() != 0:
        skip_all("needs root, for namespaces of its own")
    for program in ("unshare", "nsenter", "ip", "nft"):
        if not shutil.which(program):
            skip_all(f"{program} is not installed (test/deps installs it)")
    command = ["unshare", "-n", "-m", "-p", "-i", "-u", "--fork", "--mount-proc", "--kill-child",
               "--propagation", "private"]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        skip_all(f"no namespaces here: {probe.stderr.strip()}")
    environment = {**os.environ, "EGRESS_TEST_WORLD": "1", "EGRESS_TEST_BUILD": BUILD,
                   "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if sanitized():
        # The sanitized library is loaded into this interpreter, which leaks as it pleases.
        loaded = run("ldd", artefact("lib/libegress.so")).stdout
        environment["LD_PRELOAD"] = re.search(r"=> (\S*asan\S*)", loaded)[1]
        environment["EGRESS_ASAN_OPTIONS"] = environment.get("ASAN_OPTIONS", "")
        environment["ASAN_OPTIONS"] = "detect_leaks=0"
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it outlives exec, not the parent
    os.execvpe("unshare", [*command, sys.executable, *sys.argv], environment)


def skip_all(reason):
    print(f"SKIP {reason}\n0 passed, 0 failed, 1 skipped")
    sys.exit(77)


def run_one(name, function):
    """One test in a child; 'ok', 'FAIL' or 'SKIP' with the reason."""
    sys.stdout.flush()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        os._exit(child(function, name, write_end))
    os.close(write_end)
    # The child's own children may hold the pipe too, so it is read when all are gone; what the child
    # writes fits into it.
    _, status = os.waitpid(pid, 0)
    clean_up()
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    if os.WIFSIGNALED(status):
        return "FAIL", f"killed by signal {os.WTERMSIG(status)}\n{text}"
    return {0: "ok", 77: "SKIP"}.get(os.WEXITSTATUS(status), "FAIL"), text


def child(function, name, report):
    """The body of a test's own process; its exit status."""
    world = None
    os.set_inheritable(report, False)
    if sanitized():
        # The runtime is in this process now; programs that are started bring their own or none.
        os.environ["ASAN_OPTIONS"] = os.environ.get("EGRESS_ASAN_OPTIONS", "")
        os.environ.pop("LD_PRELOAD", None)
    try:
        if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
            raise Skip("no network namespace: " + os.strerror(ctypes.get_errno()))
        world = World(name)
        function(world)
        world.close()
        return 0
    except Skip as reason:
        os.write(report, str(reason).encode())
        return 77
    except BaseException:
        text = traceback.format_exc()
        for daemon in world.daemons if world else []:
            log = daemon.log()
            text += f"--- log of egressd[{daemon.pid}], last part ---\n{log[-6000:]}"
        os.write(report, text.encode(errors="replace")[-60000:])
        return 1


def clean_up():
    """Ends whatever the test left behind. Only ever in a process namespace of our own."""
    if os.getpid() != 1:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main(names):
    enter()
    wanted = [word for word in sys.argv[1:] if word != AS_INSTALLED]
    tests = [(name, function) for name, function in names.items()
             if name.startswith("test_") and callable(function) and
             (not wanted or any(word in name for word in wanted))]
    if wanted and not tests:
        sys.exit(f"no test is called {' or '.join(wanted)}")
    tally = {"ok": 0, "FAIL": 0, "SKIP": 0}
    for name, function in tests:
        start = time.monotonic()
        result, text = run_one(name, function)
        tally[result] += 1
        took = f"({time.monotonic() - start:.1f} s)"
        if result == "SKIP":
            print(f"SKIP {name}: {text}", flush=True)
        elif result == "FAIL":
            print(f"FAIL {name} {took}\n{text}", flush=True)
        else:
            print(f"ok   {name} {took}", flush=True)
    print(f"{tally['ok']} passed, {tally['FAIL']} failed, {tally['SKIP']} skipped")
    if tally["FAIL"]:
        sys.exit(1)
    sys.exit(77 if tally["SKIP"] and not tally["ok"] else 0)
