"""egressctl run: the sockets of AF_UNIX that a command connects to, through which others could act for it."""

import contextlib
import json
import os
import socket

from guarded import guarded, harness
from harness import Skip
from run_test import GROUP, HOST, NO_HOOK, USER, add_group, run, words
from verdict_test import PYTHON

RESOLVE = "/run/systemd/resolve/io.systemd.Resolve"
JOURNAL = "/run/systemd/journal/socket"
UNCOVERED = "AF_UNIX sockets, of runs and of unix: lines"
# Connects or sends to each socket; tells what became of it.
CLIENT = """
import errno, os, socket, sys
for target in sys.argv[1:]:
    kind, how, name = target.split(",", 2)
    if name.startswith("@"):
        name = "\\0" + name[1:]
    if how.startswith("in "):
        os.chdir(how[3:])
    peer = socket.socket(socket.AF_UNIX, getattr(socket, "SOCK_" + kind))
    try:
        if how == "send":
            peer.sendto(b"x", name)
        elif how == "again":
            peer.connect(sys.argv[1].split(",", 2)[2])
            peer.sendto(b"x", name)
        else:
            peer.connect(name)
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def listener(path, kind=socket.SOCK_STREAM, mode=0o666):
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind("\0" + path[1:] if path.startswith("@") else path)
    if path.startswith("/"):
        os.chmod(path, mode)
    if kind != socket.SOCK_DGRAM:
        made.listen(64)
    return made


@contextlib.contextmanager
def engines(world):
    """A host with a container engine, the system bus, the log, and what else a command might reach."""
    add_group(world)
    for directory in ("/run/dbus", "/run/systemd/journal", "/run/systemd/resolve", "/run/root"):
        os.makedirs(directory)
    os.mkdir("/run/shared")
    os.chmod("/run/shared", 0o777)
    with contextlib.ExitStack() as held:
        for path in ("/run/docker.sock", "/run/dbus/system_bus_socket", RESOLVE, "/run/root/own", "/run/shared/own",
                     "@engine"):
            held.enter_context(listener(path))
        for path, kind in (("/run/notify", socket.SOCK_DGRAM), ("/run/sequence", socket.SOCK_SEQPACKET),
                           (JOURNAL, socket.SOCK_DGRAM)):
            held.enter_context(listener(path, kind))
        with guarded(world) as guard:
            guard.start(HOST)
            yield guard


def covered(guard):
    status = guard.status()
    there = {status["hooks"][f"egress_unix_{name}"] for name in ("connect", "sendmsg")} == {"attached"}
    assert (UNCOVERED in status["not_covered"]) == (not there), status
    return there


def need_hook(guard):
    if not covered(guard):
        raise Skip(f"named by status: {guard.status()['hooks']['egress_unix_connect']}")


def reach(guard, *targets, allow=(), user=USER, first=(), options=()):
    done = run(guard, *first, PYTHON, "-c", CLIENT, *targets, user=user,
               options=(*(word for each in allow for word in ("--allow", each)), *options))
    assert done.returncode == 0, done
    return done.stdout.split(), done.stderr


def test_named_where_the_kernel_lacks_it(world):
    with engines(world) as guard:
        there = covered(guard)
        done = guard.run(*words(guard, "true"), user=USER, group=GROUP)
        assert done.returncode == 0 and (NO_HOOK in done.stderr) == (not there), done
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        assert there == (release >= (6, 7)), (there, release)


def test_only_listed_sockets(world):
    with engines(world) as guard:
        need_hook(guard)
        ways = ("STREAM,connect,/run/docker.sock", "STREAM,connect,/run/dbus/system_bus_socket",
                "SEQPACKET,connect,/run/sequence", "DGRAM,connect,/run/notify", "DGRAM,send,/run/notify",
                "STREAM,connect,@engine")
        for user in (USER, None):
            found, told = reach(guard, *ways, user=user)
            assert found == ["EPERM"] * 6 and "6 connections refused" in told, (found, told)
            # Each by its own name, and no other.
            allow = ["unix:/run/dbus/system_bus_socket", "unix:/run/notify", "unix:@engine"]
            found, told = reach(guard, *ways, user=user, allow=allow)
            assert found == ["EPERM", "ok", "EPERM", "ok", "ok", "ok"] and "2 connections" in told, (found, told)
            found, told = reach(guard, *ways, user=user, allow=["unix:*"])
            assert found == ["ok"] * 6 and "0 connections" in told, (found, told)
        # A connected socket may still name another receiver.
        found, _ = reach(guard, "DGRAM,connect,/run/notify", "DGRAM,again,/run/docker.sock", allow=["unix:/run/notify"])
        assert found == ["ok", "EPERM"], found
        # An abstract name is no path, nor a path in the working directory an abstract name.
        found, _ = reach(guard, "STREAM,connect,@/run/docker.sock", allow=["unix:/run/docker.sock"])
        assert found == ["EPERM"], found
        # Nobody outside of a run is judged.
        done = guard.run(PYTHON, "-c", CLIENT, *ways, user=USER)
        assert done.stdout.split() == ["ok"] * 6, done


def test_the_log_and_the_name_services(world):
    """The log stays open; the name services look up any name, so they are refused, but without a word."""
    with engines(world) as guard:
        need_hook(guard)
        found, told = reach(guard, f"DGRAM,send,{JOURNAL}", f"STREAM,connect,{RESOLVE}")
        assert found == ["ok", "EPERM"] and "0 connections refused" in told, (found, told)
        assert not guard.events(protocol="unix"), guard.events(protocol="unix")


def test_a_text_is_no_path(world):
    """What else may lead to a listed text's socket, or from a listed text to another."""
    with engines(world) as guard:
        need_hook(guard)
        os.symlink("/run/root/own", "/run/link")
        listed = ["unix:/run/root/own"]
        for target in ("STREAM,connect,/run/link", "STREAM,connect,/run/root/../root/own",
                       "STREAM,connect,/run//root/own", "STREAM,in /run/root,own",
                       "STREAM,connect,/proc/self/root/run/root/own"):
            assert reach(guard, target, allow=listed)[0] == ["EPERM"], target
        assert reach(guard, "STREAM,connect,/run/root/own", allow=listed)[0] == ["ok"]
        # Where the process has made another file system of it, the text means something else.
        moved = "mount --bind /run/docker.sock /run/root/own && exec \"$@\""
        for first in (("unshare", "-Urm", "sh", "-c", moved, "-"), ("unshare", "-Ur"),
                      ("unshare", "-Ur", "chroot", "/run/..")):
            assert reach(guard, "STREAM,connect,/run/root/own", allow=listed, first=first)[0] == ["EPERM"], first
        jail = world.path("jail")
        os.mkdir(jail)
        assert reach(guard, "STREAM,connect,/run/root/own", allow=listed, user=None,
                     first=("sh", "-c", f"mount --rbind / {jail} && exec chroot {jail} \"$@\"", "-"))[0] == ["EPERM"]


def test_a_path_must_be_roots(world):
    """Others could put a link there."""
    with engines(world) as guard:
        for name, why in (("/run/shared/own", "others than root can write /run/shared"), ("/tmp/x", "can write /tmp"),
                          ("/run/none/x", "/run/none: No such file"), ("/run/root/../docker.sock", "written without"),
                          ("/run/root/", "written without"), ("/run/root/**", "each socket has to be listed"),
                          ("/run/" + "x" * 120, "more than 107 bytes")):
            done = run(guard, "true", user=USER, options=("--allow", f"unix:{name}"))
            assert done.returncode == 125 and why in done.stderr, (name, done)
        os.symlink("/run/shared", "/run/alias")
        os.symlink("/run/shared/own", "/run/root/alias")
        for name in ("/run/alias/own", "/run/root/alias"):
            done = run(guard, "true", user=USER, options=("--allow", f"unix:{name}"))
            assert done.returncode == 125 and "is a link" in done.stderr, (name, done)
        for name in ("unix:", "unix:relative", "unix:@", "unix:/", "unix:**"):
            done = run(guard, "true", user=USER, options=("--allow", name))
            assert done.returncode == 2 and "write unix:/path" in done.stderr, (name, done)
        done = run(guard, "true", options=("--allow", b"unix:/run/\xff\x1b"))
        assert done.returncode == 2 and "cannot be listed" in done.stderr, done
        assert done.stderr.strip().isprintable(), done
        many = [word for number in range(33) for word in ("--allow", f"unix:/run/root/{number}")]
        done = run(guard, "true", user=USER, options=many)
        assert done.returncode == 125 and "a run takes 32" in done.stderr, done
        assert run(guard, "true", user=USER, options=many[2:]).returncode == 0
        # Root answers for what it lists.
        assert run(guard, "true", options=("--allow", "unix:/run/shared/own")).returncode == 0
        need_hook(guard)
        assert reach(guard, "STREAM,connect,/run/shared/own", user=None, allow=["unix:/run/shared/own"])[0] == ["ok"]


def test_what_is_told(world):
    with engines(world) as guard:
        need_hook(guard)
        report = world.path("report")
        evil = "/run/\x1b[31mred"
        found, _ = reach(guard, "STREAM,connect,/run/docker.sock", f"DGRAM,send,{evil}", "STREAM,connect,@engine",
                         user=None, options=("--report", report))
        assert found == ["EPERM"] * 3, found
        with open(report) as file:
            told = {each["addr"]: each for each in json.load(file)["destinations"]}
        assert set(told) == {"/run/docker.sock", evil, "@engine"}, told
        one = told["/run/docker.sock"]
        assert (one["protocol"], one["type"], one["rule"]) == ("unix", "stream", "not listed by the run"), one
        assert "port" not in one and told[evil]["type"] == "dgram", told
        event = guard.event(protocol="unix", addr="/run/docker.sock")
        assert event["action"] == "BLOCKED" and event["exe"] == PYTHON and event["run"] > 0, event
        assert "\x1b" not in guard.daemon.log()
        # A run that learns is told how to list them, and nothing is refused.
        found, told = reach(guard, "STREAM,connect,/run/docker.sock", f"DGRAM,send,{evil}", options=("--learn",))
        assert found[0] == "ok" and "--allow unix:/run/docker.sock\n" in told, (found, told)
        assert "\x1b" not in told and "red" in told, told


def test_monitor(world):
    add_group(world)
    with listener("/run/docker.sock"), guarded(world) as guard:
        guard.start(HOST, "-m")
        need_hook(guard)
        assert reach(guard, "STREAM,connect,/run/docker.sock")[0] == ["ok"]
        assert guard.event(protocol="unix", action="MONITOR")["addr"] == "/run/docker.sock"


def test_a_restart_keeps_them(world):
    with engines(world) as guard:
        need_hook(guard)
        process = guard.spawn(*words(guard, "sh", "-c", 'read line; exec "$@"', "-", PYTHON, "-c", CLIENT,
                                     "STREAM,connect,/run/docker.sock", "STREAM,connect,/run/root/own",
                                     options=("--allow", "unix:/run/root/own")), user=USER, group=GROUP)
        harness.wait_for(lambda: guard.status()["runs"] == 1, 20, "the run")
        guard.daemon.process.kill()
        guard.daemon.process.wait()
        out, _ = process.communicate("go\n", timeout=60)
        assert out.split() == ["EPERM", "ok"], out


if __name__ == "__main__":
    harness.main(globals())
