"""Who a process is, attacked by an ordinary user: passed descriptors, mounts of one's own, numbers that
are given out again, cgroups that nobody has seen yet, tables that are full.

What a rule allows must not be had by a process that it does not mean, and what it refuses must not be
evaded, whether egressd runs or not.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess

from guarded import guarded, harness
from harness import Skip, run, wait_for
from identity_test import Waiting
from verdict_test import PROBE, PYTHON, copy_of, probe, servers

USER = 65534
TARGET = "tcp,10.66.0.1,80"
ONLY = "10.66.0.1 * * * {} allow\n10.66.0.1 * * * * deny\n"
DENY = "10.66.0.1 * * * {} deny\n"

# A child in a user and mount namespace of its own puts a program at the path and passes the descriptor;
# its parent, still on the host, executes it.
BORROWED = """
import ctypes, os, shutil, socket, sys
path, program = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
        os._exit(77)
    for name, text in (("uid_map", f"0 {uid} 1"), ("setgroups", "deny"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    directory = os.path.dirname(path)
    if libc.mount(b"mine", directory.encode(), b"tmpfs", 0, None):
        os._exit(78)
    shutil.copy(program, path)
    os.chmod(path, 0o755)
    socket.send_fds(theirs, [b"x"], [os.open(path, os.O_RDONLY)])
    os._exit(0)
theirs.close()
_, fds, _, _ = socket.recv_fds(ours, 1, 1)
if not fds:
    sys.exit(77)
os.set_inheritable(fds[0], True)
os.execve(fds[0], ["program", "-c", *sys.argv[3:]], os.environ)
"""


def with_rules(guard, rules, *words):
    guard.start(rules, *words)


def as_user(guard, *command):
    """What a program of an ordinary user's printed; Skip where it may not make namespaces."""
    done = guard.run(*command, user=USER, group=USER)
    if done.returncode in (77, 78):
        raise Skip("an ordinary user may not make user and mount namespaces here")
    assert done.returncode == 0, done
    return done.stdout.split()


def apps(world):
    """A directory that only root writes to, with a program in it."""
    os.makedirs("/run/apps/bin", exist_ok=True)
    os.chmod("/run/apps", 0o755)
    shutil.copy(PYTHON, "/run/apps/backup")
    shutil.copy(PYTHON, "/run/apps/bin/srv")


def test_program_of_a_namespace_passed_on(world):
    """B1: what another mount namespace has at the rule's path is not the rule's program."""
    servers(world, 80)
    apps(world)
    with guarded(world) as guard:
        for program in ("/run/apps/backup", "/run/apps/**"):
            with_rules(guard, ONLY.format(program))
            assert probe(guard, TARGET, program="/run/apps/backup") == ["ok"]
            assert as_user(guard, PYTHON, "-c", BORROWED, "/run/apps/backup", PYTHON, PROBE,
                           TARGET) == ["EPERM"], program
            guard.daemon.stop()


def test_namespace_passed_on_does_not_last(world):
    """B1: nor is it taken for a version of the program that was replaced and still runs."""
    servers(world, 80)
    apps(world)
    with guarded(world) as guard:
        with_rules(guard, ONLY.format("/run/apps/backup"))
        borrowed = guard.spawn(PYTHON, "-c", BORROWED, "/run/apps/backup", PYTHON, Waiting.CODE, user=USER,
                               group=USER)
        borrowed.stdin.write("\n")
        borrowed.stdin.flush()
        assert borrowed.stdout.readline().strip() == "EPERM"
        generation = guard.status()["generation"]
        shutil.copy(PYTHON, "/run/apps/new")
        os.rename("/run/apps/new", "/run/apps/backup")
        wait_for(lambda: guard.status()["generation"] > generation, 30, "the rules to be made anew")
        borrowed.stdin.write("\n")
        borrowed.stdin.flush()
        assert borrowed.stdout.readline().strip() == "EPERM"
        borrowed.communicate(timeout=30)


def test_tree_and_own_mounts(world):
    """C2: a directory's rule holds in whatever view of the file system a process has made."""
    servers(world, 80)
    apps(world)
    with guarded(world) as guard:
        with_rules(guard, DENY.format("/run/apps/**"))
        assert probe(guard, TARGET, program="/run/apps/bin/srv") == ["EPERM"]
        assert probe(guard, TARGET) == ["ok"]
        for mounts in ("true", "mount --bind /run/apps/bin /mnt && cd /mnt",
                       "mount -t tmpfs mine /tmp", "mount --bind /run/apps/bin/srv /usr/bin/env"):
            program = {"mount --bind /run/apps/bin /mnt && cd /mnt": "/mnt/srv",
                       "mount --bind /run/apps/bin/srv /usr/bin/env": "/usr/bin/env"}.get(mounts, "/run/apps/bin/srv")
            inside = f'{mounts} && exec {program} -c "$@"'
            assert as_user(guard, "unshare", "-Urm", "--", "sh", "-c", inside, "sh", PROBE,
                           TARGET) == ["EPERM"], mounts


def test_tree_with_a_mount_below(world):
    """What the host has mounted below the directory is in the tree; what is bound to there is not."""
    servers(world, 80)
    apps(world)
    os.mkdir("/run/apps/data")
    os.mkdir("/run/apps/bound")
    os.mkdir("/run/elsewhere")
    run("mount", "-t", "tmpfs", "data", "/run/apps/data")
    shutil.copy(PYTHON, "/run/apps/data/srv")
    shutil.copy(PYTHON, "/run/elsewhere/srv")
    run("mount", "--bind", "/run/elsewhere", "/run/apps/bound")
    with guarded(world) as guard:
        with_rules(guard, DENY.format("/run/apps/**"))
        assert probe(guard, TARGET, program="/run/apps/data/srv") == ["EPERM"]
        assert probe(guard, TARGET, program="/run/elsewhere/srv") == ["ok"]


def test_long_and_deep_paths(world):
    """B1: a tree's rule is not evaded by a path that no table has room for."""
    servers(world, 80)
    apps(world)
    long = "/run/apps/" + "/".join(["x" * 200] * 3)
    deep = "/run/apps" + "/d" * 120
    for directory in (long, deep):
        os.makedirs(directory)
        shutil.copy(PYTHON, directory + "/srv")
    with guarded(world) as guard:
        with_rules(guard, DENY.format("/run/apps/**"))
        for directory in (long, deep):
            assert probe(guard, TARGET, program=directory + "/srv") == ["EPERM"], directory
        assert probe(guard, TARGET) == ["ok"]
        guard.daemon.stop()
        with_rules(guard, ONLY.format("/run/apps/backup"))
        for directory in (long, deep):
            assert probe(guard, TARGET, program=directory + "/srv") == ["EPERM"], directory


@contextlib.contextmanager
def image(world, kind, *options):
    """A file system of that kind, in a file."""
    if not shutil.which(f"mkfs.{kind}"):
        raise Skip(f"mkfs.{kind} is not installed (test/deps installs it)")
    path, point = world.path(f"{kind}.image"), world.path(f"{kind}-mount")
    with open(path, "wb") as file:
        file.truncate(160 << 20)
    subprocess.run([f"mkfs.{kind}", *options, path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.mkdir(point)
    done = subprocess.run(["mount", "-o", "loop", "-t", kind, path, point], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Skip(f"cannot mount {kind}: {done.stderr.strip()}")
    try:
        yield point
    finally:
        run("umount", "-l", point)


def test_number_given_out_again(world):
    """C1: on ext4 the next file gets the number of the one before; it is another file all the same."""
    servers(world, 80)
    with image(world, "ext4", "-q") as point, guarded(world) as guard:
        tool = point + "/tool"
        shutil.copy(PYTHON, tool)
        with_rules(guard, ONLY.format(tool))
        assert probe(guard, TARGET, program=tool) == ["ok"]
        guard.daemon.stop(signal.SIGKILL)  # from the first moment, daemon or not
        number = os.stat(tool).st_ino
        shutil.copy(PYTHON, tool + ".new")
        os.sync()
        os.rename(tool + ".new", tool)
        os.sync()
        for i in range(2000):
            other = f"{point}/other{i}"
            with open(other, "wb"):
                pass
            if os.stat(other).st_ino == number:
                break
        else:
            raise Skip("this file system did not give the number out again")
        shutil.copyfile(PYTHON, other)
        os.chmod(other, 0o755)
        assert os.stat(other).st_ino == number
        assert probe(guard, TARGET, program=other) == ["EPERM"]
        # What is in the program's place is the program, without a daemon that would look.
        assert probe(guard, TARGET, program=tool) == ["ok"]


def test_subvolumes(world):
    """C1: on btrfs each subvolume counts from the same number, under one device."""
    servers(world, 80)
    with image(world, "btrfs", "-q") as point, guarded(world) as guard:
        for name in ("usr", "home"):
            run("btrfs", "subvolume", "create", f"{point}/{name}")
        shutil.copy(PYTHON, f"{point}/usr/tool")
        shutil.copy(PYTHON, f"{point}/home/mine")
        assert os.stat(f"{point}/usr/tool").st_ino == os.stat(f"{point}/home/mine").st_ino
        with_rules(guard, ONLY.format(f"{point}/usr/tool"))
        assert probe(guard, TARGET, program=f"{point}/usr/tool") == ["ok"]
        assert probe(guard, TARGET, program=f"{point}/home/mine") == ["EPERM"]
        guard.daemon.stop()


def test_overlay(world):
    """C1: layers of an overlay from several file systems bring the same numbers."""
    servers(world, 80)
    layers = []
    for name in ("a", "b"):
        layer = world.path("layer-" + name)
        os.mkdir(layer)
        run("mount", "-t", "tmpfs", name, layer)
        shutil.copy(PYTHON, f"{layer}/tool-{name}")
        layers.append(layer)
    merged = world.path("merged")
    os.mkdir(merged)
    run("mount", "-t", "overlay", "-o", f"xino=off,lowerdir={layers[0]}:{layers[1]}", "o", merged)
    with guarded(world) as guard:
        with_rules(guard, ONLY.format(f"{merged}/tool-a"))
        assert probe(guard, TARGET, program=f"{merged}/tool-a") == ["ok"]
        assert probe(guard, TARGET, program=f"{merged}/tool-b") == ["EPERM"]


def test_cgroup_made_anew(world):
    """C3: the first process in a cgroup is judged, each time it is made anew, daemon or not."""
    servers(world, 80)
    with guarded(world) as guard:
        base = "/" + os.path.basename(guard.cgroup)
        with_rules(guard, DENY.format(f"* deny cgroup={base}/jobs.slice").replace(" deny\n", "\n"))
        for daemon in (True, False):
            for _ in range(10):
                os.makedirs(guard.cgroup + "/jobs.slice/inner")
                assert probe(guard, TARGET, cgroup="/jobs.slice") == ["EPERM"]
                assert probe(guard, TARGET, cgroup="/jobs.slice/inner") == ["EPERM"]
                assert probe(guard, TARGET) == ["ok"]
                os.rmdir(guard.cgroup + "/jobs.slice/inner")
                os.rmdir(guard.cgroup + "/jobs.slice")
            if daemon:
                guard.daemon.stop(signal.SIGKILL)


def test_units(world):
    """C3: units that are nested, templated, or run once."""
    servers(world, 80)
    rules = ("10.66.0.1:80 * * * * deny unit=once.service\n10.66.0.1:81 * * * * deny unit=job@.service\n"
             "10.66.0.1:82 * * * * allow unit=mine.service\n10.66.0.1:82 * * * * deny\n")
    for port in (81, 82):
        world.listener("10.66.0.1", port)
    targets = [f"tcp,10.66.0.1,{port}" for port in (80, 81, 82)]
    with guarded(world) as guard:
        with_rules(guard, rules)
        guard.daemon.stop(signal.SIGKILL)
        for cgroup, expected in (("/system.slice/once.service", ["EPERM", "ok", "EPERM"]),
                                 ("/system.slice/once.service/inner", ["EPERM", "ok", "EPERM"]),
                                 ("/job.slice/job@a.service", ["ok", "EPERM", "EPERM"]),
                                 ("/job.slice/jobs@a.service", ["ok", "ok", "EPERM"]),
                                 ("/system.slice/mine.service", ["ok", "ok", "ok"]),
                                 ("/system.slice/mine.services", ["ok", "ok", "EPERM"])):
            os.makedirs(guard.cgroup + cgroup)
            assert probe(guard, *targets, cgroup=cgroup) == expected, cgroup


def test_unit_of_a_user(world):
    """C3: a user who may make cgroups gives them any name; that earns nothing and evades nothing."""
    servers(world, 80)
    world.listener("10.66.0.1", 81)
    with guarded(world) as guard:
        owns = {"/user@65534.service": (USER, USER, 0o755), "/group.slice": (0, USER, 0o775),
                "/anybody.slice": (0, 0, 0o777)}
        for own, (uid, gid, mode) in owns.items():
            os.mkdir(guard.cgroup + own)
            os.chown(guard.cgroup + own, uid, gid)
            os.chmod(guard.cgroup + own, mode)
        with_rules(guard, "10.66.0.1:80 * * * * allow unit=mine.service\n10.66.0.1:80 * * * * deny\n"
                   "10.66.0.1:81 * * * * deny unit=mine.service\n")
        for own in owns:
            guard.run("mkdir", guard.cgroup + own + "/mine.service", user=USER, group=USER, check=True)
            assert probe(guard, TARGET, "tcp,10.66.0.1,81", cgroup=own + "/mine.service") == ["EPERM"] * 2, own


def test_deep_cgroup(world):
    """B6: deeper than any table: the rule of a cgroup far out still holds."""
    servers(world, 80)
    with guarded(world) as guard:
        inner = "/named" + "/d" * 100
        os.makedirs(guard.cgroup + inner)
        with_rules(guard, DENY.format(f"* deny cgroup=/{os.path.basename(guard.cgroup)}/named")
                   .replace(" deny\n", "\n"))
        assert probe(guard, TARGET, cgroup=inner) == ["EPERM"]


TABLE = ["pinned", "/sys/fs/bpf/egress/processes"]


def entry_of(command):
    """(key, value) of the process with that command in the kernel's table, as bpftool's bytes."""
    if not shutil.which("bpftool"):
        raise Skip("bpftool is not installed (test/deps installs it)")
    found = [entry for entry in json.loads(run("bpftool", "map", "dump", *TABLE, "-j").stdout)
             if entry["formatted"]["value"]["command"].startswith(command)]
    assert len(found) == 1, found
    return found[0]["key"], found[0]["value"]


def words(what):
    return [byte[2:] for byte in what]


def test_process_that_no_table_has(world):
    """B6: a process that the kernel side does not know is refused what it could be refused."""
    servers(world, 80)
    world.listener("10.66.0.1", 81)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        with_rules(guard, f"10.66.0.1:80 * * * {program} deny\n10.66.0.1:81 * * * {program} allow\n"
                   "10.66.0.1:81 * * * * deny\n")
        assert probe(guard, TARGET) == ["ok"]
        waiting = Waiting(guard, copy_of(world, "stranger"))
        assert waiting.tries() == "ok"
        key, _ = entry_of("stranger")
        run("bpftool", "map", "delete", *TABLE, "key", "hex", *words(key))
        assert waiting.tries() == "EPERM"
        assert guard.status()["losses"]["suspects"]["count"] > 0
        wait_for(lambda: "judged by every refusal" in guard.daemon.log(), 20, "the log to say so")
        waiting.close()


def offset_of(member):
    """Where a member of the table's values is, in bytes, as the kernel has them described."""
    types = json.loads(run("bpftool", "btf", "dump", "map", *TABLE, "value", "-j").stdout)["types"]
    process = next(each for each in types if each.get("name") == "egress_process")
    return next(each["bits_offset"] for each in process["members"] if each["name"] == member) // 8


def test_rules_while_a_program_begins(world):
    """B5: what was worked out for a process holds for one program: not while another begins, nor after."""
    servers(world, 80)
    with guarded(world) as guard:
        changing = copy_of(world, "changing")
        with_rules(guard, ONLY.format(changing))
        waiting = Waiting(guard, changing)
        assert waiting.tries() == "ok"
        key, value = entry_of("changing")
        at = offset_of("epoch")
        epoch = int.from_bytes(bytes.fromhex("".join(words(value[at:at + 4]))), "little")
        assert epoch % 2 == 0, epoch
        for number, expected in ((epoch + 1, "EPERM"), (epoch + 2, "ok"), (epoch + 3, "EPERM"), (epoch + 4, "ok")):
            changed = value[:at] + [f"0x{byte:02x}" for byte in number.to_bytes(4, "little")] + value[at + 4:]
            run("bpftool", "map", "update", *TABLE, "key", "hex", *words(key), "value", "hex", *words(changed))
            assert waiting.tries() == expected, number
        waiting.close()


def test_folds_that_are_full(world):
    """B6: where repeats find no room to be folded, each becomes an event, and the sum is exact."""
    with guarded(world) as guard:
        with_rules(guard, "192.0.2.0/24 * * * * deny\n")
        code = ("import socket\n"
                "for port in range(1, 20001):\n"
                "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                "    for _ in range(2):\n"
                "        try: s.sendto(b'x', ('192.0.2.1', port))\n"
                "        except PermissionError: pass\n"
                "    s.close()\n")
        guard.run(PYTHON, "-c", code, check=True)
        status = guard.status()
        assert status["losses"]["folds"]["count"] > 0, status["losses"]
        folded = subprocess.run(["bpftool", "map", "dump", "pinned", "/sys/fs/bpf/egress/folds", "-j"],
                                stdout=subprocess.PIPE, text=True)
        waiting = sum(entry["formatted"]["value"]["count"] for entry in json.loads(folded.stdout))
        made = status["events"]["made"]
        assert made + waiting == 40000, (made, waiting, status["losses"])


def test_subordinate_users(world):
    """B7: the ids that a user was lent are the user's."""
    servers(world, 80)
    world.listener("10.66.0.1", 81)
    for name, text in (("passwd", "root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n"),
                       ("subuid", "alice:100000:65536\nbob:200000:65536\n")):
        if not os.path.exists(f"/etc/{name}"):
            raise Skip(f"there is no /etc/{name} here")
        run("mount", "--bind", world.write(name, text), f"/etc/{name}")
    with guarded(world) as guard:
        with_rules(guard, "10.66.0.1:80 * * alice * deny\n10.66.0.1:81 * * 100007 * allow\n"
                   "10.66.0.1:81 * * alice * deny\n")
        targets = [TARGET, "tcp,10.66.0.1,81"]
        for uid, expected in ((1000, ["EPERM"] * 2), (100000, ["EPERM"] * 2), (165535, ["EPERM"] * 2),
                              (100007, ["EPERM", "ok"]), (99999, ["ok"] * 2), (165536, ["ok"] * 2),
                              (200000, ["ok"] * 2)):
            assert probe(guard, *targets, user=uid, group=1000) == expected, uid


def test_exec_while_packets_wait(world):
    """B5: a packet that is judged while another program begins keeps nothing of the one before."""
    servers(world, 80)
    with guarded(world) as guard:
        allowed, denied = copy_of(world, "allowed"), copy_of(world, "denied")
        with_rules(guard, f"10.66.0.1 * * * {allowed} allow\n10.66.0.1 * * * * deny\n")
        # The connection's data wait for the peer; each answer of it has the kernel judge for the process,
        # on whatever CPU, while it executes the other program.
        code = """
import os, socket, sys
allowed, denied, rounds = sys.argv[1:4]
rounds = int(rounds)
if len(sys.argv) == 4:
    s = socket.create_connection(("10.66.0.1", 80))
    s.setblocking(False)
    try:
        while True:
            s.send(b"x" * 65536)
    except OSError:
        pass
    os.set_inheritable(s.fileno(), True)
    fd = s.fileno()
else:
    fd = int(sys.argv[4])
me = os.environ["ME"]
if me == "denied":
    try:
        socket.create_connection(("10.66.0.1", 80), timeout=5).close()
        print("through", flush=True)
    except PermissionError:
        pass
if rounds == 0:
    print("end", flush=True)
    sys.exit()
other = "denied" if me == "allowed" else "allowed"
program = denied if other == "denied" else allowed
os.environ["ME"] = other
os.execve(program, [program, "-c", os.environ["CODE"], allowed, denied, str(rounds - 1), str(fd)], os.environ)
"""
        reader = subprocess.Popen([PYTHON, "-c", "import time; time.sleep(60)"])
        done = guard.run("env", "ME=allowed", f"CODE={code}", allowed, "-c", code, allowed, denied, "120")
        reader.kill()
        reader.wait()
        assert done.stdout.split() == ["end"], done


def test_device_given_out_again(world):
    """A file system that a user mounts in a namespace of its own, under a device number that was the host's."""
    servers(world, 80)
    apps(world)
    os.mkdir("/run/apps/data")
    run("mount", "-t", "tmpfs", "data", "/run/apps/data")
    shutil.copy(PYTHON, "/run/apps/data/prog")
    device = os.stat("/run/apps/data").st_dev
    inside = """
i=0
while [ $i -lt 60 ]; do
    mkdir -p /tmp/m$i && mount -t tmpfs mine /tmp/m$i && i=$((i+1))
    [ "$(stat -c %d /tmp/m$((i-1)))" = "$1" ] && break
done
[ "$(stat -c %d /tmp/m$((i-1)))" = "$1" ] || exit 77
cp "$2" /tmp/m$((i-1))/prog && shift 2 && exec /tmp/m$((i-1))/prog -c "$@"
"""
    with guarded(world) as guard:
        with_rules(guard, ONLY.format("/run/apps/data/prog"))
        assert probe(guard, TARGET, program="/run/apps/data/prog") == ["ok"]
        guard.daemon.stop(signal.SIGKILL)
        run("umount", "/run/apps/data")
        done = guard.run("unshare", "-Urm", "--", "sh", "-c", inside, "sh", str(device), PYTHON, PROBE, TARGET,
                         user=USER, group=USER)
        if done.returncode == 77:
            raise Skip("the number was not given out again")
        assert done.stdout.split() == ["EPERM"], done


def test_generation_that_a_user_sets(world):
    """ext4 without checksums lets the owner of a file set its generation; the owner counts, too."""
    servers(world, 80)
    with image(world, "ext4", "-q", "-O", "^metadata_csum") as point, guarded(world) as guard:
        tool = point + "/tool"
        shutil.copy(PYTHON, tool)
        os.mkdir(point + "/home")
        os.chown(point + "/home", USER, USER)
        with_rules(guard, ONLY.format(tool))
        guard.daemon.stop(signal.SIGKILL)
        number = os.stat(tool).st_ino
        with open(tool, "rb") as file:
            generation = fcntl.ioctl(file, 0x80087601, b"\0" * 8)  # FS_IOC_GETVERSION
        shutil.copy(PYTHON, tool + ".new")
        os.rename(tool + ".new", tool)
        os.sync()
        code = ("import fcntl, os, shutil, sys\n"
                "point, number, generation, program = sys.argv[1:5]\n"
                "for i in range(2000):\n"
                "    path = f'{point}/home/{i}'\n"
                "    with open(path, 'wb'): pass\n"
                "    if os.stat(path).st_ino == int(number): break\n"
                "else: sys.exit(77)\n"
                "shutil.copyfile(program, path)\n"
                "os.chmod(path, 0o755)\n"
                "with open(path, 'rb') as file:\n"
                "    try: fcntl.ioctl(file, 0x40087602, bytes.fromhex(generation))\n"  # FS_IOC_SETVERSION
                "    except OSError: sys.exit(78)\n"
                "os.execv(path, [path, '-c', *sys.argv[5:]])\n")
        done = guard.run(PYTHON, "-c", code, point, str(number), generation.hex(), PYTHON, PROBE, TARGET, user=USER,
                         group=USER)
        if done.returncode in (77, 78):
            raise Skip("the number or the generation can't be had on this file system")
        assert done.stdout.split() == ["EPERM"], done


def test_datagram_on_a_socket_that_moves(world):
    """A thread that disconnects or reconnects a UDP socket while another sends gets nothing through."""
    servers(world, 80)
    received = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    received.bind(("10.66.0.1", 81))
    received.setblocking(False)
    code = """
import ctypes, socket, sys, threading, time
libc = ctypes.CDLL(None)
def send(s):
    for _ in range(200):
        try:
            s.send(b"x")
        except OSError:
            pass
end = time.monotonic() + 6
sockets = [socket.socket(fileno=int(fd)) for fd in sys.argv[1].split(",")]
for s in sockets:
    thread = threading.Thread(target=send, args=(s,))
    thread.start()
    if sys.argv[2] == "connect":
        s.connect(("10.66.0.1", 82))
    else:
        libc.connect(s.fileno(), bytes(16), 16)  # AF_UNSPEC: disconnects
    thread.join()
    if time.monotonic() > end:
        break
"""
    with guarded(world) as guard:
        denied = copy_of(world, "denied")
        with_rules(guard, f"10.66.0.1:81 * * * {denied} deny\n* * * * * allow\n")
        for way in ("disconnect", "connect"):
            ours, theirs = socket.socketpair()
            maker = ("import socket, sys\n"
                     "made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]\n"
                     "for each in made: each.connect(('10.66.0.1', 81))\n"
                     "socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b'x'], [s.fileno() for s in made])\n")
            guard.run(PYTHON, "-c", maker, str(theirs.fileno()), pass_fds=[theirs.fileno()], check=True)
            _, numbers, _, _ = socket.recv_fds(ours, 1, 200)
            assert len(numbers) == 200
            guard.run(denied, "-c", code, ",".join(map(str, numbers)), way, pass_fds=numbers, check=True)
            got = 0
            with contextlib.suppress(BlockingIOError):
                while received.recv(10):
                    got += 1
            assert got == 0, (way, got)
            for number in numbers:
                os.close(number)


if __name__ == "__main__":
    harness.main(globals())
