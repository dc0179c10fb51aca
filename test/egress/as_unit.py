"""Runs egressd as its systemd unit does, where systemd is not the first process.

    as_unit.py BUILD EGRESSD OPTION...      EGRESSD and what OPTIONs name may lie below BUILD

Everything is read from what `cmake --install` would install (the unit, the tmpfiles snippet) and done by
hand: the user, the capabilities, the files that are seen and may be written, the system calls. A setting
that stands in the unit and is not known here is an error, so that the two cannot part. What -D names stands
for the unit's own StateDirectory=.
"""

import ctypes
import functools
import grp
import os
import pwd
import resource
import stat
import sys

import unit_seccomp as seccomp

STAGE = "/run/egress-as-unit"
UID = 64871  # of the unit's user, where this machine has none of that name
CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
                "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK",
                "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN",
                "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE",
                "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
                "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"]
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 24, 38, 47, 2
# Of these systemd makes nothing that the process could notice in a test, or it is about when it is started.
NOT_OF_THE_PROCESS = {
    "Type", "EnvironmentFile", "ExecStart", "ExecReload", "Restart", "RestartSec", "WatchdogSec", "Sockets", "RuntimeDirectoryPreserve",
    "KillMode", "TimeoutStopSec",  # how the service manager ends it
    "RemoveIPC", "KeyringMode",  # there are none of either
}
KERNEL_TUNABLES = ("/proc/sys", "/proc/sysrq-trigger", "/proc/acpi", "/proc/bus", "/proc/fs", "/proc/irq",
                   "/proc/latency_stats", "/proc/mtrr", "/proc/timer_stats")

libc = ctypes.CDLL(None, use_errno=True)


def check(code, what):
    if code < 0:
        raise OSError(ctypes.get_errno(), what)
    return code


def mount(source, target, kind=None, flags=0, options=None):
    encode = [text.encode() if text else None for text in (source, target, kind, options)]
    check(libc.mount(encode[0], encode[1], encode[2], ctypes.c_ulong(flags), encode[3]), f"mount {target}")


class MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user")]


def set_read_only(path, read_only, recursive=True):
    attributes = MountAttributes(MS_RDONLY if read_only else 0, 0 if read_only else MS_RDONLY, 0, 0)
    check(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), AT_RECURSIVE if recursive else 0,
                       ctypes.byref(attributes), ctypes.sizeof(attributes)), f"mount_setattr {path}")


def read_unit(path):
    """{key: [values]} of the section [Service]."""
    found, section = {}, ""
    with open(path) as file:
        for line in file.read().replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and line[0] not in "#;":
                key, _, value = line.partition("=")
                found.setdefault(key.strip(), []).append(value.strip())
    return found


def known(value, *values):
    if value not in values:
        raise ValueError(f"as_unit does not know the value {value!r}")
    return value


class Unit:
    """What the settings amount to; each of them is a method of its name."""

    def __init__(self, settings, state):
        self.settings = settings
        self.state = state
        self.user = self.group = "root"
        self.uid = self.gid = 0
        self.ambient = []
        self.bounding = None
        self.writable = {}  # path: whether it may be missing
        self.owned = []     # (path, mode)
        self.hidden = []
        self.read_only = []
        self.filters = []
        self.private_proc = self.private_devices = self.private_tmp = self.strict = False
        self.new_privileges = True
        for key, values in settings.items():
            if key in NOT_OF_THE_PROCESS:
                continue
            method = getattr(self, key, None)
            if method is None:
                raise ValueError(f"as_unit does not know {key}=, which stands in the unit: teach it what systemd does")
            method(*(values if key == "SystemCallFilter" else values[-1:]))

    def one(self, key, default):
        return self.settings.get(key, [default])[-1]

    # identity

    def User(self, name):
        self.user = name
        try:
            self.uid = pwd.getpwnam(name).pw_uid
        except KeyError:
            self.uid = UID

    def Group(self, name):
        self.group = name
        try:
            self.gid = grp.getgrnam(name).gr_gid
        except KeyError:
            self.gid = UID

    def AmbientCapabilities(self, names):
        self.ambient = [CAPABILITIES.index(name.removeprefix("CAP_")) for name in names.split()]

    def CapabilityBoundingSet(self, names):
        self.bounding = [CAPABILITIES.index(name.removeprefix("CAP_")) for name in names.split()]

    def NoNewPrivileges(self, value):
        self.new_privileges = known(value, "yes", "no") == "no"

    def UMask(self, value):
        self.umask = int(value, 8)

    def LimitNOFILE(self, value):
        self.files = int(value)

    # files

    def StateDirectory(self, name):
        known(name, "egress")
        self.writable[self.state] = False
        self.owned.append((self.state, int(self.one("StateDirectoryMode", "0755"), 8)))

    def RuntimeDirectory(self, name):
        self.writable["/run/" + name] = False
        self.owned.append(("/run/" + name, int(self.one("RuntimeDirectoryMode", "0755"), 8)))

    def StateDirectoryMode(self, value):
        pass  # see above

    RuntimeDirectoryMode = StateDirectoryMode

    def ReadWritePaths(self, value):
        for path in value.split():
            self.writable[path.removeprefix("-")] = path.startswith("-")

    def ProtectSystem(self, value):
        self.strict = known(value, "strict") == "strict"

    def ProtectHome(self, value):
        homes = ["/home", "/root", "/run/user"]
        if known(value, "yes", "read-only", "no") == "read-only":
            self.read_only += homes
        elif value == "yes":
            self.hidden += homes

    def PrivateTmp(self, value):
        self.private_tmp = known(value, "yes", "no") == "yes"

    def PrivateDevices(self, value):
        self.private_devices = known(value, "yes") == "yes"
        self.filters.append(functools.partial(seccomp.without, "@raw-io"))

    def DevicePolicy(self, value):
        known(value, "closed")  # PrivateDevices leaves no others, and nobody here can make one

    def ProtectClock(self, value):
        known(value, "yes")
        self.filters.append(functools.partial(seccomp.without, "@clock"))

    def ProtectHostname(self, value):
        known(value, "yes")
        check(libc.unshare(CLONE_NEWUTS), "unshare")
        self.filters.append(functools.partial(seccomp.without, "sethostname", "setdomainname"))

    def ProtectKernelLogs(self, value):
        known(value, "yes")
        self.hidden += ["/proc/kmsg", "/dev/kmsg"]
        self.filters.append(functools.partial(seccomp.without, "syslog"))

    def ProtectKernelModules(self, value):
        known(value, "yes")
        self.hidden += ["/usr/lib/modules"]
        self.filters.append(functools.partial(seccomp.without, "@module"))

    def ProtectKernelTunables(self, value):
        known(value, "yes")
        self.read_only += ["/sys", *KERNEL_TUNABLES]
        self.hidden += ["/proc/kallsyms", "/proc/kcore"]

    def ProtectControlGroups(self, value):
        known(value, "yes")
        self.read_only.append("/sys/fs/cgroup")

    def ProtectProc(self, value):
        self.private_proc = known(value, "invisible") == "invisible"

    # system calls

    def RestrictNamespaces(self, value):
        known(value, "yes")
        self.filters.append(seccomp.no_namespaces)

    def RestrictRealtime(self, value):
        known(value, "yes")
        self.filters.append(seccomp.no_realtime)

    def RestrictSUIDSGID(self, value):
        known(value, "yes")
        self.filters.append(seccomp.no_suid_files)

    def LockPersonality(self, value):
        known(value, "yes")
        self.filters.append(seccomp.one_personality)

    def MemoryDenyWriteExecute(self, value):
        known(value, "yes")
        self.filters.append(seccomp.no_new_code)

    def RestrictAddressFamilies(self, value):
        self.filters.append(functools.partial(seccomp.only_families, value))

    def SystemCallArchitectures(self, value):
        known(value, "native")  # what libseccomp makes refuses all others

    def SystemCallFilter(self, *lines):
        code = getattr(seccomp.errno, self.one("SystemCallErrorNumber", "ENOSYS"))
        self.filters.append(functools.partial(seccomp.only_calls, list(lines), code))

    def SystemCallErrorNumber(self, value):
        pass  # see above


# --- the files that it sees ----------------------------------------------------------------------

def stage(build, command):
    """The command, with what lies in the build where everybody sees it, as if it were installed."""
    out = []
    for number, word in enumerate(command):
        if word.startswith(build + "/") and os.path.isfile(word):
            place = f"{STAGE}/{number}-{os.path.basename(word)}"
            open(place, "w").close()
            mount(word, place, flags=MS_BIND)
            word = place
        out.append(word)
    return out


def know_user(unit):
    """Gives the unit's user and group an entry where sysusers has made none."""
    for file, name, entry in (("/etc/passwd", unit.user, f"{unit.user}:x:{unit.uid}:{unit.gid}::/:/usr/sbin/nologin\n"),
                              ("/etc/group", unit.group, f"{unit.group}:x:{unit.gid}:\n")):
        with open(file) as old:
            text = old.read()
        if f"\n{name}:" not in text:
            copy = STAGE + "/" + os.path.basename(file)
            with open(copy, "w") as new:
                new.write(text + entry)
            os.chmod(copy, 0o644)
            mount(copy, file, flags=MS_BIND)


def run_tmpfiles(path, unit, uses):
    """What the installation's tmpfiles snippet makes, of the directories that the unit uses."""
    owners = {"root": 0, unit.user: unit.uid}
    groups = {"root": 0, unit.group: unit.gid}
    with open(path) as file:
        lines = [line.split() for line in file if line.strip() and line[0] != "#"]
    for kind, where, mode, user, group, *_ in lines:
        known(kind, "d", "z")
        if not where.startswith(uses):
            continue
        if kind == "d":
            os.makedirs(where, exist_ok=True)
        os.chown(where, owners[user], groups[group])
        os.chmod(where, int(mode, 8))


def own(unit):
    for path, mode in unit.owned:
        os.makedirs(path, exist_ok=True)
        for directory, below, files in os.walk(path):
            for name in [directory, *(os.path.join(directory, each) for each in below + files)]:
                os.chown(name, unit.uid, unit.gid, follow_symlinks=False)
        os.chmod(path, mode)


def make_devices():
    """A /dev with what every process may have."""
    place = STAGE + "/dev"
    os.mkdir(place)
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755")
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        os.mknod(f"{place}/{name}", 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        os.chmod(f"{place}/{name}", 0o666)
    for name in ("shm", "pts"):
        if os.path.isdir("/dev/" + name):
            os.mkdir(f"{place}/{name}")
            mount("/dev/" + name, f"{place}/{name}", flags=MS_BIND)
    for name, to in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(to, f"{place}/{name}")
    mount(place, "/dev", flags=MS_BIND | MS_REC)


def hide(path):
    if os.path.isdir(path):
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0000,size=4k")
    elif os.path.exists(path):
        nothing = STAGE + "/nothing"
        open(nothing, "a").close()
        os.chmod(nothing, 0)
        mount(nothing, path, flags=MS_BIND)


def confine(unit):
    """The mount namespace as the unit has it."""
    if unit.private_proc:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible")
    if unit.private_devices:
        make_devices()
    for path in ("/tmp", "/var/tmp") if unit.private_tmp else ():
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        unit.writable[path] = False
    for path, optional in unit.writable.items():
        if os.path.exists(path) or not optional:
            mount(path, path, flags=MS_BIND | MS_REC)
    for path in unit.read_only:
        if os.path.exists(path) and not os.path.ismount(path):
            mount(path, path, flags=MS_BIND | MS_REC)
    for path in unit.hidden:
        hide(path)
    if unit.strict:
        set_read_only("/", True)
    for path in ("/dev", "/proc", "/sys"):
        set_read_only(path, False)
    for path in unit.read_only:
        if os.path.exists(path):
            set_read_only(path, True)
    for path, optional in unit.writable.items():
        if os.path.exists(path) or not optional:
            set_read_only(path, False)


# --- who it is -----------------------------------------------------------------------------------

class CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class CapData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def become(unit):
    if hasattr(unit, "files"):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # root here may not be able to raise it
        files = unit.files if hard == resource.RLIM_INFINITY else min(unit.files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    for number in range(len(CAPABILITIES)):
        if unit.bounding is not None and number not in unit.bounding:
            libc.prctl(PR_CAPBSET_DROP, number)  # EINVAL: newer than the kernel
    check(libc.prctl(PR_SET_KEEPCAPS, 1), "prctl")
    os.setgroups([])
    os.setresgid(unit.gid, unit.gid, unit.gid)
    os.setresuid(unit.uid, unit.uid, unit.uid)
    bits = sum(1 << number for number in unit.ambient)
    data = (CapData * 2)(*(CapData(*[bits >> 32 * word & 0xffffffff] * 3) for word in range(2)))
    check(libc.capset(ctypes.byref(CapHeader(0x20080522, 0)), data), "capset")
    for number in unit.ambient:
        check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "ambient capabilities")
    os.umask(getattr(unit, "umask", 0o022))
    if not unit.new_privileges:
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def main(build, *command):
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount(None, "/", flags=MS_REC | MS_PRIVATE)
    state = command[command.index("-D") + 1]
    unit = Unit(read_unit(f"{build}/etc/systemd/egressd.service"), state)
    os.makedirs(STAGE, 0o755, exist_ok=True)
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID, "mode=0755")
    command = stage(build, command)
    # The leak sanitizer stops its process with ptrace, which the unit refuses. The run as root looks for leaks.
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    know_user(unit)
    run_tmpfiles(f"{build}/etc/tmpfiles.d/egress.conf", unit, ("/run/", "/sys/fs/bpf"))
    own(unit)
    filters = [make() for make in unit.filters]  # while systemd-analyze can still be asked
    confine(unit)
    become(unit)
    # The list of what is allowed comes last: it does not allow to add filters.
    for each in sorted(filters, key=lambda one: one.default != seccomp.ALLOW):
        each.load()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
