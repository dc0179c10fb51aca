"""OpenSSH with our patches: what each kind of client makes it report, and what that leads to."""

import concurrent.futures
import os
import re
import shutil
import signal
import subprocess

import built
import harness
import sshd as servers
import stock
from harness import run, wait_for
from recorder import Recorder

RULE = "[local]\n22 stream tcp * * {nfail} 10m\n"


def kernel_log():
    """What the kernel says about an sshd that it killed for a system call; None: we may not read it."""
    done = run("dmesg", check=False)
    if done.returncode != 0:
        return None
    return [line for line in done.stdout.splitlines() if "sig=31" in line and "sshd" in line]


def not_killed(sshd, before):
    """No sandboxed process of that sshd was killed for a system call: by its monitor's word, and by the
    kernel's, where it can be had. before: what the kernel had said at the start."""
    lines = [line for line in sshd.text().splitlines() if re.search(r"by signal (31|SYS)", line)]
    assert not lines, lines
    if before is None:
        print("     SKIP in part: the kernel log may not be read here; sshd's own was", flush=True)
    else:
        new = [line for line in kernel_log() if line not in before]
        assert not new, new


def check(reports, client):
    """What is common to all reports of a connection."""
    for report in reports:
        assert report.uid == 0 and report.seccomp in (0, None), report
        assert report.local == (client.target, 22), report
        assert report.listening or report.remote[1] != 0, report


def behave(recorder, client, sshd, pam):
    """One client of each kind; exactly its reports. Returns them."""
    reports = []

    def expect(*actions):
        reports.extend(recorder.expect(client.address, list(actions)))
        check(reports, client)

    assert not client.ssh()
    expect("FAIL")
    assert client.log_in(), (client.said, sshd.text())
    expect("OK")
    assert not client.ssh(tries=2)
    expect("FAIL", "FAIL")
    assert not client.ssh(user="nosuch")
    expect("BAD_USER")
    assert not client.ssh(user="nosuch", tries=2)
    expect("BAD_USER", "FAIL")
    assert not client.ssh(tries=5)
    expect("FAIL", "FAIL", "FAIL", "ABUSIVE")
    if pam == "yes":
        assert not client.ssh(methods="keyboard-interactive", tries=2)
        expect("FAIL", "FAIL")
        assert client.ssh(methods="keyboard-interactive", answer=stock.PASSWORD), client.said
        expect("OK")
        assert not client.ssh(user="nosuch", methods="keyboard-interactive")
        expect("BAD_USER")
    for keys in (2, 6):  # fewer and more than MaxAuthTries
        assert not client.ssh(methods="publickey", options=client.keys(keys))
        expect("FAIL")
    assert client.ssh(methods="publickey,password", answer=stock.PASSWORD, options=client.keys(2))
    expect("OK")
    assert not client.ssh(options=["KexAlgorithms=diffie-hellman-group1-sha1"])
    expect("FAIL")
    client.connect().close()  # says nothing: the next report is the garbage's
    client.garbage()
    expect("FAIL")
    client.garbage(b"SSH-1.5-old\r\n")
    expect("FAIL")
    return reports


def each_behaviour(world, version, pam):
    recorder = Recorder()
    before = kernel_log()
    sshd = servers.Sshd(world, version, pam=pam, tries=3)
    clients = [servers.Client(world, f"client{int(six)}", six) for six in (False, True)]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # PAM makes each failure wait
        for done in [pool.submit(behave, recorder, client, sshd, pam) for client in clients]:
            # Who waits for the client's next try is there to be looked at.
            assert any(report.seccomp == 0 for report in done.result())
    sshd.stop()
    assert not recorder.reports, recorder.reports
    not_killed(sshd, before)


def grace(world, version):
    recorder = Recorder()
    sshd = servers.Sshd(world, version, grace=3)
    client = servers.Client(world, "client")
    silent = []
    for six in (False, True):
        client.use(six)
        silent.append(client.connect())
    # Idle after the key exchange, when there is a monitor and a sandboxed process.
    idle = servers.Client(world, "idle")
    with idle.connect() as connection:
        connection.sendall(b"SSH-2.0-idle\r\n")
        check(recorder.expect(idle.address, ["FAIL"]), idle)
    for six in (False, True):
        client.use(six)
        check(recorder.expect(client.address, ["FAIL"]), client)
    # Who has failed already is not counted again for being slow.
    slow = servers.Client(world, "slow")
    before = sshd.text().count("Timeout before authentication")
    process = slow.start(tries=2, hang=True)
    wait_for(lambda: sshd.text().count("Timeout before authentication") > before, 40, "the timeout")
    process.kill()
    process.wait()
    check(recorder.expect(slow.address, ["FAIL"]), slow)
    sshd.stop()
    assert not recorder.reports, recorder.reports
    for connection in silent:
        connection.close()


def crash(world, version):
    """The sandboxed process dies of a signal; with 10.0 the privileged one, too."""
    recorder = Recorder()
    sshd = servers.Sshd(world, version)
    client = servers.Client(world, "client")
    with client.connect() as connection:
        connection.sendall(b"SSH-2.0-victim\r\n")
        os.kill(wait_for(lambda: sandboxed(sshd), what="a sandboxed process"), signal.SIGSEGV)
        check(recorder.expect(client.address, ["FAIL"]), client)
    for six in (False, True) if sshd.modern else ():
        client.use(six)
        with client.connect() as connection:
            connection.recv(3)
            os.kill(sshd.processes("sshd-session")[-1], signal.SIGSEGV)
            (report,) = recorder.expect(client.address, ["FAIL"])
            assert report.listening and report.local[1] == 22 and report.uid == 0, report
    sshd.stop()
    assert not recorder.reports, recorder.reports


def sandboxed(sshd):
    """The process that the kernel filters, once it does."""
    for pid in sshd.processes("sshd-auth" if sshd.modern else "sshd"):
        if Recorder.seccomp(pid) == 2:
            return pid
    return None


def from_inetd(world, version):
    recorder = Recorder()
    sshd = servers.Sshd(world, version, grace=3, listen=False)
    client = servers.Client(world, "client")
    with servers.inetd(sshd):
        for six in (False, True):
            client.use(six)
            assert not client.ssh()
            check(recorder.expect(client.address, ["FAIL"]), client)
            assert client.log_in(), (client.said, sshd.text())
            check(recorder.expect(client.address, ["OK"]), client)
            client.garbage()
            check(recorder.expect(client.address, ["FAIL"]), client)
            with client.connect():
                check(recorder.expect(client.address, ["FAIL"]), client)
    assert not recorder.reports, recorder.reports


def activated(world, version):
    """A socket of systemd with Accept=yes: an sshd for each connection, which systemd hands to it. (One
    that is handed the listening socket, Accept=no, is Debian's own extension, not upstream's.)"""
    if not shutil.which("systemd-socket-activate"):
        raise harness.Skip("systemd-socket-activate is not installed (package systemd)")
    recorder = Recorder()
    sshd = servers.Sshd(world, version, listen=False)
    environment = [f"--setenv={name}={value}" for name, value in built.environment().items()
                   if name in ("LD_LIBRARY_PATH", "PATH")]
    activator = subprocess.Popen(
        ["systemd-socket-activate", "--listen=22", "--accept", "--inetd", *environment, *sshd.command,
         "-i"], stdin=subprocess.DEVNULL, stdout=sshd.log, stderr=sshd.log)
    sshd.process = activator
    wait_for(sshd.listens, what="the socket")
    client = servers.Client(world, "client")
    for six in (False, True):
        client.use(six)
        assert not client.ssh(user="nosuch"), sshd.text()
        check(recorder.expect(client.address, ["BAD_USER"]), client)
        assert client.log_in(), (client.said, sshd.text())
        check(recorder.expect(client.address, ["OK"]), client)
        client.garbage()
        check(recorder.expect(client.address, ["FAIL"]), client)
    assert not recorder.reports, recorder.reports
    sshd.stop()


def counted(world, version):
    """egressd takes the reports, the listening socket's too: count, clear, block at once."""
    daemon = world.daemon(RULE.format(nfail=9), "-v")
    sshd = servers.Sshd(world, version, tries=3)
    client = servers.Client(world, "client")

    def count(number):
        wait_for(lambda: (daemon.row(client.address) or {"count": 0})["count"] == number,
                 what=lambda: f"count {number}: {daemon.blocks()}")
    for six in (False, True):
        client.use(six)
        assert not client.ssh()
        count(1)
        assert not client.ssh(user="nosuch")
        count(2)
        client.garbage()
        count(3)
        if sshd.modern:
            with client.connect() as connection:
                connection.recv(3)
                os.kill(sshd.processes("sshd-session")[-1], signal.SIGSEGV)
                count(4)
        assert client.log_in(), (client.said, sshd.text())
        count(0)
    for six in (False, True):
        client.use(six)
        client.ssh(tries=3)
        world.wait_element(client.address)
    assert not any(daemon.status()["refused"].values()), daemon.status()
    sshd.stop()


def without_egressd(world, version):
    """Absent, stopped, or with a full queue: sshd serves, refuses and hangs up as before."""
    sshd = servers.Sshd(world, version, grace=8, tries=2)
    client = servers.Client(world, "client")

    def same():
        silent = client.connect()
        assert not client.ssh()
        assert not client.ssh(tries=3)
        assert client.log_in(), (client.said, sshd.text())
        client.garbage()
        with silent:  # LoginGraceTime has to end it
            while silent.recv(100):
                pass
    same()
    descriptors = len(os.listdir(f"/proc/{sshd.process.pid}/fd"))
    daemon = world.daemon(RULE.format(nfail=1000))
    daemon.send(signal.SIGSTOP)
    same()
    with open("/proc/sys/net/core/somaxconn") as file:
        limit = int(file.read())
    full = 0
    for _ in range(2 * limit):  # until nobody can even connect
        full = world.library.report(harness.FAIL, -1, "fill", check=False)
        if full:
            break
    assert full, "the daemon's queue never filled"
    same()
    daemon.send(signal.SIGCONT)
    daemon.stop()
    same()
    wait_for(lambda: len(os.listdir(f"/proc/{sshd.process.pid}/fd")) <= descriptors,
             what="the listener's descriptors to be as before")
    sshd.stop()


def define():
    """A test per version, so that each can be run and fail by itself."""
    for version in servers.VERSIONS:
        short = version.replace("openssh-", "").replace(".", "_")
        for pam in ("yes", "no"):
            globals()[f"test_each_behaviour_{short}_pam_{pam}"] = (
                lambda world, v=version, p=pam: each_behaviour(world, v, p))
        for function in (grace, crash, from_inetd, activated, counted, without_egressd):
            globals()[f"test_{function.__name__}_{short}"] = (
                lambda world, f=function, v=version: f(world, v))


define()
built.prepare(*servers.VERSIONS)
harness.main(globals())
