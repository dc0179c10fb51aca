"""egressd as init systems and administrators run it."""

import os
import re
import signal
import socket
import subprocess

import harness
from harness import FAIL, NOBODY, wait_for

CONF = "[local]\n2222 stream tcp * * 3 1h\n"


def notify_socket(world):
    """What systemd listens on: (environment value, next()) where next() waits for one message."""
    path = world.path("notify")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.settimeout(30)
    return path, lambda: sock.recv(4096).decode()


def messages_until(receive, wanted, limit=200):
    seen = []
    for _ in range(limit):
        seen.append(receive())
        if wanted in seen[-1].split("\n"):
            return seen
    raise harness.Failure(f"no {wanted} in {seen}")


def test_readiness_reload_and_end_are_told(world):
    path, receive = notify_socket(world)
    daemon = world.daemon(CONF, environment={"NOTIFY_SOCKET": path}, wait=False)
    messages_until(receive, "READY=1")
    # Ready means ready: both sockets answer now, without any waiting.
    assert daemon.status()["pid"] == daemon.pid
    world.fail(world.tcp("10.66.1.1"))
    daemon.send(signal.SIGHUP)
    messages_until(receive, "RELOADING=1")
    messages_until(receive, "READY=1")
    daemon.send(signal.SIGTERM)
    messages_until(receive, "STOPPING=1")
    assert daemon.wait() == 0


def test_watchdog_is_fed(world):
    path, receive = notify_socket(world)
    daemon = world.daemon(CONF, environment={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"},
                          wait=False)
    messages_until(receive, "READY=1")
    for _ in range(3):
        messages_until(receive, "WATCHDOG=1")
    daemon.send(signal.SIGSTOP)
    daemon.send(signal.SIGCONT)
    messages_until(receive, "WATCHDOG=1")


ACTIVATE = """\
import fcntl, os, sys
# In two steps, so that a number that is wanted is not overwritten before it is moved.
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for target, fd in enumerate(high, 3):
    os.dup2(fd, target, inheritable=True)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)),
                  LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


def activated(world, sockets, conf=CONF):
    """egressd with listening sockets handed in, as systemd does it."""
    script = world.write("activate.py", ACTIVATE)
    numbers = [sock.fileno() for sock in sockets.values()]
    wrapper = ["python3", script, ",".join(map(str, numbers)), ":".join(sockets)]
    return world.daemon(conf, wrapper=wrapper, pass_fds=numbers)


def listening(path, kind):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(path)
    sock.listen(128)
    return sock


def test_socket_activation_keeps_reports_over_a_restart(world):
    sockets = {"report": listening("/run/egress/report.sock", socket.SOCK_SEQPACKET),
               "control": listening("/run/egress/control.sock", socket.SOCK_STREAM)}
    os.chmod("/run/egress/report.sock", 0o666)
    daemon = activated(world, sockets)
    connection = world.tcp("10.66.2.1")
    world.fail(connection, 1)
    wait_for(lambda: (daemon.row("10.66.2.1") or {}).get("count") == 1, what="count 1")
    assert daemon.stop() == 0
    assert os.path.exists("/run/egress/report.sock"), "a socket that was handed in is not ours"
    # Nobody is there, and the report is taken all the same.
    world.fail(connection, 1)
    daemon = activated(world, sockets)
    wait_for(lambda: (daemon.row("10.66.2.1") or {}).get("count") == 2, what="count 2")
    world.fail(connection, 1)
    world.wait_element("10.66.2.1")


def test_nothing_read_is_lost_at_sigterm(world):
    sockets = {"report": listening("/run/egress/report.sock", socket.SOCK_SEQPACKET),
               "control": listening("/run/egress/control.sock", socket.SOCK_STREAM)}
    conf = "[local]\n2222 stream tcp * * * 1h\n"
    connection = world.tcp("10.66.2.2")
    sent = 0
    for _ in range(10):
        daemon = activated(world, sockets, conf)
        with world.library.connection() as report:
            for _ in range(500):
                sent += report(FAIL, connection) == 0
            assert daemon.stop() == 0
    daemon = activated(world, sockets, conf)
    wait_for(lambda: daemon.row("10.66.2.2")["count"] == sent, 30,
             lambda: f"{sent} counted; have {daemon.row('10.66.2.2')}")


def test_library_reconnects_after_a_restart(world):
    daemon = world.daemon(CONF)
    connection = world.tcp("10.66.2.3")
    with world.library.connection() as report:
        assert report(FAIL, connection) == 0
        wait_for(lambda: daemon.row("10.66.2.3"), what="the row")
        daemon.stop()
        assert report(FAIL, connection) == -1, "nobody took that report"
        daemon = world.daemon(CONF)
        wait_for(lambda: report(FAIL, connection) == 0, what="the handle to connect again")
        wait_for(lambda: daemon.row("10.66.2.3")["count"] >= 2, what="count 2")


def test_daemon_mode_with_pid_file(world):
    """Without -d it goes to the background, and the caller returns when it is ready."""
    conf = world.write("egress.conf", CONF)
    command = [harness.artefact("daemon/egressd"), "-c", conf, "-C",
               harness.artefact("helper/egress-helper"), "-D", harness.DATABASE, "-s",
               "/run/egress/report.sock", "-S", "/run/egress/control.sock"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=open(world.path("start.log"), "wb"), timeout=60,
                          env=harness.free_environment())
    with open(world.path("start.log")) as file:
        assert done.returncode == 0, file.read()
    with open("/run/egress/egressd.pid") as file:
        pid = int(file.read())
    done = world.ctl("status", "--json", check=True)
    assert f'"pid":{pid}' in done.stdout.replace(" ", ""), done.stdout
    world.fail(world.tcp("10.66.2.4"), 3)
    world.wait_element("10.66.2.4")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not os.path.exists("/run/egress/egressd.pid"), what="the pid file to go")


def check_of_programs(world, tool):
    """Lines for a file that is many programs."""
    for name in ("busybox", "other"):
        world.write(name, "a program", 0o755)
        os.symlink(name, world.path(name + "-link"))
        os.link(world.path(name), world.path(name + "-hard"))
    for name in ("busybox", "busybox-link", "busybox-hard", "other", "other-link", "other-hard", "missing"):
        for line in (f"* * * * {world.path(name)} deny\n", f"* * * * * deny parent={world.path(name)}\n"):
            conf = world.write("programs.conf", CONF + "[egress]\n* * * 0 * allow\n" + line)
            done = harness.run(tool, "-n", "-c", conf, check=False)
            told = [line for line in done.stderr.splitlines() if "many programs in one file" in line]
            assert done.returncode == 0 and len(told) == name.startswith("busybox"), (name, done)
            assert not told or ("programs.conf:" in told[0] and world.path(name) in done.stderr), done


def test_check_of_the_rules(world):
    tool = harness.artefact("daemon/egressd")
    good = world.write("good.conf", CONF)
    done = harness.run(tool, "-n", "-c", good, check=False)
    assert done.returncode == 0, done
    bad = world.write("bad.conf", "[local]\n2222 stream tcp * * 3 1h\nnosuchport stream tcp * * 3 1h\n")
    done = harness.run(tool, "-n", "-c", bad, check=False)
    assert done.returncode != 0 and re.search(r"bad\.conf:3:\d+: ", done.stderr), done
    shadowed = world.write("shadowed.conf", CONF + "2222 stream tcp * * 9 2h\n")
    done = harness.run(tool, "-n", "-c", shadowed, check=False)
    assert done.returncode == 0 and "shadowed.conf:3:" in done.stderr + done.stdout, done
    check_of_programs(world, tool)
    daemon = world.daemon(bad, wait=False)
    assert daemon.wait() != 0 and "bad.conf:3:" in daemon.log(), daemon.log()
    done = harness.run(tool, "-n", "-c", os.path.join(harness.SOURCE, "etc/egress.conf"), check=False)
    assert done.returncode == 0 and "warning" not in done.stderr, done


def test_wrong_options(world):
    tool = harness.artefact("daemon/egressd")
    for arguments in (("-Z",), ("-c",), ("-n", "extra"), ("-n", "-t", "soon")):
        done = harness.run(tool, *arguments, check=False)
        assert done.returncode not in (0, None) and done.stderr, (arguments, done)


def test_monitor_blocks_nothing(world):
    daemon = world.daemon(CONF, "-m")
    world.fail(world.tcp("10.66.2.5"), 3)
    wait_for(lambda: (daemon.row("10.66.2.5") or {}).get("count") == 3, what="count 3")
    assert daemon.status()["monitor"] is True
    world.fail(world.tcp("10.66.2.6"), 3)
    wait_for(lambda: (daemon.row("10.66.2.6") or {}).get("count") == 3, what="count 3")
    assert not world.elements()


def test_flush_at_start(world):
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.2.7"), 3)
    world.wait_element("10.66.2.7")
    daemon.stop()
    daemon = world.daemon(CONF, "-f")
    wait_for(lambda: not world.elements(), what="the set to be empty")
    assert not daemon.blocks()


def test_rule_name_option(world):
    world.daemon("[local]\n2222 stream tcp * -x 1 1h\n", "-R", "mine")
    world.fail(world.tcp("10.66.2.8"))
    assert world.wait_element("10.66.2.8")["name"] == "mine-x"


def test_environment_names_the_socket(world):
    daemon = world.daemon(CONF)
    other = world.path("other.sock")
    daemon.stop()
    daemon = world.daemon(CONF, "-s", other)
    os.environ["EGRESS_SOCKET"] = other
    world.fail(world.tcp("10.66.2.9"))
    wait_for(lambda: daemon.row("10.66.2.9"), what="the row")


def test_second_daemon_on_the_same_database_is_refused(world):
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.3.1"), 3)
    world.wait_element("10.66.3.1")
    tool = harness.artefact("daemon/egressd")
    done = harness.run(tool, "-d", "-c", daemon.conf, "-D", daemon.database, "-s",
                       world.path("second.sock"), "-S", world.path("second-control.sock"),
                       "-C", harness.artefact("helper/egress-helper"), check=False,
                       env=harness.free_environment())
    assert done.returncode != 0 and daemon.database in done.stderr, done
    done = harness.run(tool, "-d", "-c", daemon.conf, "-D", world.path("."), "-s", daemon.socket,
                       "-S", daemon.control, "-C", harness.artefact("helper/egress-helper"),
                       check=False, env=harness.free_environment())
    assert done.returncode != 0, done
    assert daemon.status()["pid"] == daemon.pid, "the first one lost its socket"


def test_sockets_have_their_modes(world):
    world.daemon(CONF)
    assert os.stat("/run/egress/report.sock").st_mode & 0o777 == 0o666
    assert os.stat("/run/egress/control.sock").st_mode & 0o777 in (0o600, 0o660)
    connection = world.tcp("10.66.3.2")
    assert harness.as_user(NOBODY, lambda: world.library.report(FAIL, connection)) == 0


def test_a_file_in_the_socket_s_place_is_not_removed(world):
    path = world.write("precious", "data")
    daemon = world.daemon(CONF, "-s", path, wait=False)
    assert daemon.wait() != 0 and path in daemon.log(), daemon.log()
    with open(path) as file:
        assert file.read() == "data"


def test_stale_sockets_are_replaced(world):
    for path, kind in (("/run/egress/report.sock", socket.SOCK_SEQPACKET),
                       ("/run/egress/control.sock", socket.SOCK_STREAM)):
        listening(path, kind).close()
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.3.3"))
    wait_for(lambda: daemon.row("10.66.3.3"), what="the row")


UNPRIVILEGED = ["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups", "--bounding-set",
                "-all,+net_admin", "--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin",
                "--no-new-privs"]


def test_runs_without_root(world):
    """Its own user with CAP_NET_ADMIN and nothing else, as the unit file has it."""
    if not harness.shutil.which("setpriv"):
        raise harness.Skip("setpriv is not installed")
    harness.need_reachable()
    os.chown("/run/egress", 4242, 4242)
    os.chown(harness.DATABASE, 4242, 4242)
    daemon = world.daemon(CONF, wrapper=UNPRIVILEGED)
    world.fail(world.tcp("10.66.3.4"), 3)
    world.wait_element("10.66.3.4")
    wait_for(lambda: daemon.row("10.66.3.4")["state"] == "blocked", what="the block")
    with open(f"/proc/{daemon.pid}/status") as file:
        assert re.search(r"^Uid:\t4242\t4242", file.read(), re.M)


def test_root_leaves_nothing_of_its_own(world):
    """egressd(8)'s example: `egressd -m -v` as root in the directory of the unit's user, then the unit."""
    if not harness.shutil.which("setpriv"):
        raise harness.Skip("setpriv is not installed")
    harness.need_reachable()
    os.chown(harness.DATABASE, 4242, 4242)
    victim = world.write("victim", "root's")
    daemon = world.daemon(CONF, "-m", "-v")
    world.fail(world.tcp("10.66.3.5"), 3)
    wait_for(lambda: daemon.row("10.66.3.5"), what="the row")
    daemon.stop()
    owners = {name: os.stat(f"{harness.DATABASE}/{name}").st_uid for name in os.listdir(harness.DATABASE)}
    assert "data.mdb" in owners and set(owners.values()) == {4242}, owners
    # One that a former version left, and one that leads elsewhere.
    os.chown(f"{harness.DATABASE}/lock.mdb", 0, 0)
    os.link(victim, f"{harness.DATABASE}/link")
    world.daemon(CONF, "-m").stop()
    assert os.stat(f"{harness.DATABASE}/lock.mdb").st_uid == 4242 and os.stat(victim).st_uid == 0
    os.unlink(f"{harness.DATABASE}/link")
    os.chown("/run/egress", 4242, 4242)
    daemon = world.daemon(CONF, wrapper=UNPRIVILEGED)
    assert daemon.row("10.66.3.5"), "the unit's daemon goes on with what root's recorded"
    daemon.stop()
    # Root's files without a daemon of root's: it says what to do.
    os.chown(f"{harness.DATABASE}/egressd.lock", 0, 0)
    daemon = world.daemon(CONF, wrapper=UNPRIVILEGED, wait=False)
    assert daemon.process.wait(30) == 1
    assert f"As root: chown -R 4242 {harness.DATABASE}" in daemon.log(), daemon.log()


harness.main(globals())
