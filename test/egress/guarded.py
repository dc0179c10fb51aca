"""A world with the kernel side in it: a cgroup, a bpf file system and a host of the test's own.

Programs are attached to a cgroup that the test made, so that they see nothing else of the machine.
The test's processes get a pid namespace whose first process has their mount namespace: that is "the
host" to egressd.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

import harness  # noqa: E402 (found by the line above)
from harness import Skip, run, wait_for  # noqa: E402

CLONE_NEWPID = 0x20000000
PREFIX = "egress-test-"


def cgroup_mount():
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, after = line.split(" - ")
            if after.split()[0] == "cgroup2":
                return before.split()[4]
    raise Skip("no cgroup2 hierarchy is mounted")


def sweep(root):
    """Removes cgroups that killed tests have left; whoever lives holds a lock on his."""
    for name in os.listdir(root):
        path = os.path.join(root, name)
        with contextlib.suppress(OSError):
            if not name.startswith(PREFIX) or time.time() - os.stat(path).st_mtime < 60:
                continue
            held = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for directory, _, _ in os.walk(path, topdown=False):
                    os.rmdir(directory)
            finally:
                os.close(held)


def may_use_bpf():
    """Whether the kernel lets root make a map. What root may, egressd must get along with."""
    number = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 280)
    attributes = struct.pack("<5I", 2, 4, 8, 1, 0)  # BPF_MAP_CREATE of an array
    made = harness.libc.syscall(number, 0, attributes, len(attributes))
    if made >= 0:
        os.close(made)
    return made >= 0 or ctypes.get_errno() != errno.EPERM


class Guarded:
    """egressd with rules of [egress] over a cgroup; processes are started inside it with run()."""

    def __init__(self, world):
        self.world = world
        root = cgroup_mount()
        sweep(root)
        self.cgroup = os.path.join(root, f"{PREFIX}{os.urandom(4).hex()}")
        try:
            os.mkdir(self.cgroup)
        except OSError as error:
            raise Skip(f"cannot make a cgroup: {error}")
        self.held = os.open(self.cgroup, os.O_RDONLY)
        fcntl.flock(self.held, fcntl.LOCK_SH)
        harness.mount("bpf", "/sys/fs/bpf", "mode=0700")
        if harness.libc.unshare(CLONE_NEWPID) != 0:
            raise Skip("no pid namespace: " + os.strerror(ctypes.get_errno()))
        self.init = os.fork()
        if self.init == 0:
            harness.libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            while True:
                signal.pause()
        self.daemon = None
        self.started = []  # programs inside the cgroup, to be ended with it
        if harness.sanitized():
            # Looking for leaks needs a /proc of the program's own pid namespace, which ours is not.
            os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"

    def start(self, rules, *options, **keywords):
        """egressd with these lines of [egress], once they are in force."""
        conf = "[local]\n2222 stream tcp * * 3 1h\n[egress]\n" + rules + "\n"
        return self.start_with(conf, *options, **keywords)

    def start_with(self, conf, *options, **keywords):
        """The same with a whole rules file, its text or its path."""
        self.daemon = self.world.daemon(conf, "-G", self.cgroup, *options, **keywords)
        wait_for(lambda: self.status()["state"] not in ("starting", "off"), 60,
                 lambda: f"the rules to be in force: {self.status()}")
        state = self.status()
        if state["state"] != "in force":
            if "Operation not permitted" in state["last_error"] and not may_use_bpf():
                raise Skip(f"the kernel does not let us: {state['last_error']}")
            raise harness.Failure(f"{state}\n{self.daemon.log()}")
        return self.daemon

    def gid(self):
        """Of the running daemon."""
        with open(f"/proc/{self.daemon.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Gid:"))

    def status(self):
        return self.daemon.status()["egress"]

    def entry(self, user=None, group=None, cgroup=""):
        """What a new process does to be inside the cgroup, as that uid and gid."""
        def enter():
            with open(os.path.join(self.cgroup + cgroup, "cgroup.procs"), "w") as procs:
                procs.write("0")
            if group is not None:
                os.setgroups([])
                os.setresgid(group, group, group)
            if user is not None:
                os.setresuid(user, user, user)
        return enter

    def spawn(self, *command, user=None, group=None, cgroup="", **keywords):
        """Starts a program inside the cgroup, with pipes for its standard input and output."""
        return subprocess.Popen(command, preexec_fn=self.entry(user, group, cgroup), text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                env=harness.free_environment(), **keywords)

    def run(self, *command, user=None, group=None, cgroup="", check=False, **keywords):
        """Runs a program inside the cgroup, as that uid and gid."""
        done = subprocess.run(command, preexec_fn=self.entry(user, group, cgroup), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60 * harness.PATIENCE,
                              env=harness.free_environment(), **keywords)
        if check and done.returncode:
            raise harness.Failure(f"{command}: {done}")
        return done

    def events(self, **wanted):
        """The events in the log that have these values."""
        found = []
        for line in self.daemon.log().splitlines():
            start = line.find("{\"")
            if start >= 0 and "\"generation\"" in line:
                event = json.loads(line[start:])
                if all(event.get(key) == value for key, value in wanted.items()):
                    found.append(event)
        return found

    def event(self, **wanted):
        return wait_for(lambda: self.events(**wanted), 20,
                        lambda: f"an event with {wanted}; log: {self.daemon.log()[-3000:]}")[0]

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()
        if self.daemon and self.daemon.alive():
            self.daemon.stop()
        wait_for(self.removed, 20, "the cgroup to be empty")

    def removed(self):
        try:
            for directory, _, _ in os.walk(self.cgroup, topdown=False):
                os.rmdir(directory)
            return True
        except OSError:
            return False


@contextlib.contextmanager
def guarded(world):
    made = Guarded(world)
    try:
        yield made
    finally:
        made.close()
