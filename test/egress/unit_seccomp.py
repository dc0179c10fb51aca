"""The system calls that a unit leaves to its service, as filters of the kernel.

Each setting becomes a filter of its own, as systemd has it (src/shared/seccomp-util.c); all of them have
to agree. libseccomp is there wherever systemd is: it needs it itself.
"""

import ctypes
import errno
import functools
import subprocess

ALLOW = 0x7fff0000
NOT_EQUAL, LESS, EQUAL, GREATER, MASKED = 1, 2, 4, 6, 7
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
O_CREAT, O_TMPFILE, S_ISUID, S_ISGID = 0o100, 0o20200000, 0o4000, 0o2000
CLONE_NEW = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
SCHED_OTHER, SCHED_BATCH, SCHED_IDLE = 0, 3, 5
PERSONALITY_NOW = 0xffffffff
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


@functools.lru_cache(None)
def library():
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                           ctypes.c_void_p]
    for name in ("seccomp_load", "seccomp_release"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    return lib


@functools.lru_cache(None)
def groups():
    """{"@group": [names of system calls and of other groups]}, as this machine's systemd has them."""
    found, names = {}, []
    text = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True).stdout
    for line in text.splitlines():
        word = line.strip()
        if line.startswith("@"):
            names = found.setdefault(word, [])
        elif word and not word.startswith("#"):
            names.append(word)
    return found


def expand(word):
    """The system calls of a group, or the one."""
    if not word.startswith("@"):
        return {word}
    return set().union(*(expand(each) for each in groups()[word]))


class Filter:
    """One filter: what its rules don't say, `default` decides."""

    def __init__(self, default=ALLOW):
        self.default = default
        self.context = library().seccomp_init(default)
        if not self.context:
            raise RuntimeError("libseccomp makes no filter")

    def add(self, action, name, *comparisons):
        number = library().seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # not on this architecture, or newer than libseccomp
        array = (Compare * len(comparisons))(*(Compare(*each) for each in comparisons))
        code = library().seccomp_rule_add_array(self.context, action, number, len(comparisons), array)
        if code not in (0, -errno.EDOM):
            raise OSError(-code, f"seccomp: {name}")

    def refuse(self, name, *comparisons, code=errno.EPERM):
        self.add(0x00050000 | code, name, *comparisons)

    def load(self):
        code = library().seccomp_load(self.context)
        library().seccomp_release(self.context)
        if code:
            raise OSError(-code, "seccomp_load")


def without(*words):
    """None of these system calls and groups."""
    made = Filter()
    for name in set().union(*(expand(word) for word in words)):
        made.refuse(name)
    return made


def only_calls(lines, code):
    """SystemCallFilter=, all its lines, where the first says what is allowed."""
    if lines[0].startswith("~"):
        raise ValueError("as_unit does not know a SystemCallFilter= that begins with what is refused")
    allowed = expand("@default")
    for line in lines:
        words = set().union(*(expand(word) for word in line.lstrip("~").split()))
        allowed = allowed - words if line.startswith("~") else allowed | words
    made = Filter(0x00050000 | code)
    for name in sorted(allowed):
        made.add(ALLOW, name)
    return made


def only_families(names):
    if names.startswith("~"):
        raise ValueError("as_unit does not know a RestrictAddressFamilies= that begins with what is refused")
    wanted = sorted(FAMILIES[name] for name in names.split())
    made = Filter()
    for family in range(wanted[0], wanted[-1]):
        if family not in wanted:
            made.refuse("socket", (0, EQUAL, family), code=errno.EAFNOSUPPORT)
    made.refuse("socket", (0, LESS, wanted[0]), code=errno.EAFNOSUPPORT)
    made.refuse("socket", (0, GREATER, wanted[-1]), code=errno.EAFNOSUPPORT)
    return made


def no_namespaces():
    made = Filter()
    made.refuse("setns")
    made.refuse("clone3", code=errno.ENOSYS)
    for name in ("unshare", "clone"):
        for flag in CLONE_NEW:
            made.refuse(name, (0, MASKED, flag, flag))
    return made


def no_realtime():
    made = Filter()
    for policy in range(SCHED_IDLE):
        if policy not in (SCHED_OTHER, SCHED_BATCH):
            made.refuse("sched_setscheduler", (1, EQUAL, policy))
    made.refuse("sched_setscheduler", (1, GREATER, SCHED_IDLE))
    return made


def no_suid_files():
    made = Filter()
    made.refuse("openat2", code=errno.ENOSYS)
    for bit in (S_ISUID, S_ISGID):
        for name, at in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mknod", 1), ("mkdir", 1), ("mkdirat", 2),
                         ("mknodat", 2), ("creat", 1)):
            made.refuse(name, (at, MASKED, bit, bit))
        for flag in (O_CREAT, O_TMPFILE):
            made.refuse("open", (1, MASKED, flag, flag), (2, MASKED, bit, bit))
            made.refuse("openat", (2, MASKED, flag, flag), (3, MASKED, bit, bit))
    return made


def no_new_code():
    made = Filter()
    both = PROT_WRITE | PROT_EXEC
    made.refuse("mmap", (2, MASKED, both, both))
    made.refuse("mprotect", (2, MASKED, PROT_EXEC, PROT_EXEC))
    made.refuse("pkey_mprotect", (2, MASKED, PROT_EXEC, PROT_EXEC))
    made.refuse("shmat", (2, MASKED, SHM_EXEC, SHM_EXEC))
    return made


def one_personality():
    made = Filter()
    now = ctypes.CDLL(None).personality(PERSONALITY_NOW)
    made.refuse("personality", (0, NOT_EQUAL, now))
    return made
