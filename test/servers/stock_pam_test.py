"""Debian's own vsftpd and dovecot, unchanged, with pam_egress in their PAM stacks."""

import concurrent.futures
import contextlib
import ftplib
import os
import signal
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import harness
import mail_ftp
import stock
import tools
from harness import wait_for
from mail_ftp import Client, Dovecot, Vsftpd
from recorder import Recorder

FTP_RULE = "[local]\n21 stream tcp * * {nfail} {time}\n"
# The port that dovecot's authentication worker, which holds no socket, speaks for.
IMAP_RULE = "[local]\n143 stream tcp * * {nfail} {time}\n[trusted]\n143 stream tcp root\n"
# Or all at once: what has no port matches a line for any port, and blocks every port.
MAIL_RULE = "[local]\n* stream tcp root * {nfail} {time}\n[trusted]\n* stream tcp root\n"


def both_families(world, behave):
    """behave(client) for a client of each family at once, for PAM makes each failure wait."""
    clients = [Client(world, f"client{int(six)}", six) for six in (False, True)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(behave, client) for client in clients]:
            done.result()


def check(reports, client, service, port=None):
    """What is common: root's report, of this client, with its socket where there is one."""
    for report in reports:
        assert report.uid == 0 and report.seccomp in (0, None), report
        assert report.message.startswith(f"{service}: user "), report
        if port:
            assert report.local == (client.target, port) and report.remote[1] > 0, report
        else:
            assert report.local is None and report.remote == (client.address, 0), report


def each_behaviour(recorder, client, how, service, port=None, **words):
    def expect(action):
        check(recorder.expect(client.address, [action], 60), client, service, port)
    assert not client.log_in(how, password="wrong", **words)
    expect("FAIL")
    assert not client.log_in(how, user="nosuch", password="wrong", **words)
    expect("BAD_USER")
    assert client.log_in(how, **words)
    expect("OK")


def test_vsftpd_reports(world):
    mail_ftp.set_up(world, Vsftpd)
    recorder = Recorder()
    server = Vsftpd(world)

    def behave(client):
        each_behaviour(recorder, client, Vsftpd.log_in, "vsftpd", 21)
        # Several tries in one connection.
        with client.host.entered(), contextlib.closing(ftplib.FTP(timeout=60)) as ftp:
            ftp.connect(client.target)
            for password in ("wrong", "wronger"):
                try:
                    ftp.login("alice", password)
                except ftplib.error_perm:
                    continue
                raise harness.Failure("the wrong password was right")
            assert ftp.login("alice", stock.PASSWORD).startswith("230")
            port = ftp.sock.getsockname()[1]
            reports = recorder.expect(client.address, ["FAIL", "FAIL", "OK"])
        check(reports, client, "vsftpd", 21)
        assert {report.remote[1] for report in reports} == {port}, (port, reports)
    both_families(world, behave)
    assert not recorder.reports, recorder.reports
    server.stop()


def test_vsftpd_anonymous(world):
    """Who logs in as nobody does not clear what he has failed before: vsftpd asks PAM nothing.
    Accounts that may not use FTP are reported for their passwords only."""
    mail_ftp.set_up(world, Vsftpd)
    recorder = Recorder()
    server = Vsftpd(world, anonymous_enable="YES", session_support="YES")
    client = Client(world, "client")
    assert client.log_in(Vsftpd.log_in, user="anonymous", password="me@example.org")
    assert client.log_in(Vsftpd.log_in, user="ftp", password="me@example.org")
    with open("/etc/ftpusers", "a") as banned:
        banned.write("bob\n")
    assert not client.log_in(Vsftpd.log_in, user="bob")
    assert not client.log_in(Vsftpd.log_in, user="bob", password="wrong")
    check(recorder.expect(client.address, ["FAIL"]), client, "vsftpd", 21)
    each_behaviour(recorder, client, Vsftpd.log_in, "vsftpd", 21)
    assert not recorder.reports, recorder.reports
    server.stop()


def hold_log_ins(world):
    """Makes PAM wait, in front of the module, until held/go is there; held/here says that it does."""
    held = world.path("held")
    os.mkdir(held)
    script = world.write("hold", f"#!/bin/sh\n: >{held}/here\n"
                         f"i=0; while [ ! -e {held}/go ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); "
                         "done\n", 0o755)
    with open("/etc/pam.d/common-auth") as file:
        lines = file.read().splitlines()
    at = next(index for index, line in enumerate(lines) if "pam_egress.so" in line)
    assert "[success=2 " in lines[at - 1], lines
    lines[at - 1] = lines[at - 1].replace("[success=2 ", "[success=3 ")
    lines.insert(at, f"auth [default=ignore] pam_exec.so quiet {script}")
    with open("/etc/pam.d/common-auth", "w") as file:
        file.write("\n".join(lines) + "\n")
    return held


def hang_up_during(client, held):
    """A wrong password, and a reset while PAM thinks about it."""
    for name in ("here", "go"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{held}/{name}")
    with client.host.entered(), socket.create_connection((client.target, 21), timeout=60) as ftp:
        assert ftp.recv(100).startswith(b"220")
        ftp.sendall(b"USER alice\r\n")
        assert ftp.recv(100).startswith(b"331")
        ftp.sendall(b"PASS wrong\r\n")
        wait_for(lambda: os.path.exists(f"{held}/here"), 60, "PAM to be asked")
        ftp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with open(f"{held}/go", "w"):
        pass


def test_vsftpd_client_hangs_up(world):
    """A guess counts although the connection is gone by the time that PAM knows it was wrong."""
    mail_ftp.set_up(world, Vsftpd)
    held = hold_log_ins(world)
    server = Vsftpd(world)
    clients = [Client(world, f"client{int(six)}", six) for six in (False, True)]
    recorder = Recorder()
    for client in clients:
        hang_up_during(client, held)
        (report,) = recorder.expect(client.address, ["FAIL"], 60)
        assert report.local == (client.target, 21) and report.uid == 0, report
    assert not recorder.reports, recorder.reports
    recorder.close()
    daemon = world.daemon(FTP_RULE.format(nfail=9, time="10m"), "-v")
    for client in clients:
        hang_up_during(client, held)
        row = wait_for(lambda: daemon.row(client.address), 60, lambda: f"a row: {daemon.status()}")
        assert row["count"] == 1 and row["port"] == 21, row
    server.stop()


# Dovecot makes an address that fails wait longer each time; off, so that these tests need not.
NO_PENALTY = "service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"


def test_dovecot_reports(world):
    mail_ftp.set_up(world, Dovecot)
    recorder = Recorder()
    server = Dovecot(world, NO_PENALTY)

    def behave(client):
        each_behaviour(recorder, client, Dovecot.log_in, "dovecot")
        each_behaviour(recorder, client, Dovecot.log_in, "dovecot", encrypted=True)
        each_behaviour(recorder, client, Dovecot.log_in_pop3, "dovecot")
    both_families(world, behave)
    assert not recorder.reports, recorder.reports
    server.stop()


def clears(world, server, how, conf):
    """Failures add up, a log-in from there makes them nothing."""
    daemon = world.daemon(conf.format(nfail=9, time="10m"), "-v")

    def behave(client):
        def count(number):
            wait_for(lambda: (daemon.row(client.address) or {"count": 0})["count"] == number, 60,
                     lambda: f"count {number}: {daemon.blocks()}")
        for number, user in ((1, "alice"), (2, "nosuch")):
            assert not client.log_in(how, user=user, password="wrong")
            count(number)
        assert client.log_in(how), server.text()
        count(0)
    both_families(world, behave)
    assert not any(daemon.status()["refused"].values()), daemon.status()
    daemon.stop()


def attacked(world, server, how, conf, service, port):
    """hydra over both families: blocked, dead, and the others served; then it is over."""
    daemon = world.daemon(conf.format(nfail=3, time="15s"), "-v")
    friend = Client(world, "friend")
    attackers = {}
    attacks = []
    for six in (False, True):
        attacker = Client(world, f"{service}-{int(six)}", six)
        attackers[attacker.address] = attacker
        attacks.append(tools.hydra(world, attacker.host, attacker.target, service, port, "bob",
                                   [*tools.wrong(), stock.PASSWORD]))

    def serve():
        for six in (False, True):
            friend.use(six)
            assert friend.log_in(how), server.text()

    def release(attack):
        assert attackers[attack.address].log_in(how), server.text()
    tools.check_end(world, daemon, attacks, serve, release, stock.PASSWORD)
    daemon.stop()


def test_vsftpd_attacked(world):
    mail_ftp.set_up(world, Vsftpd)
    server = Vsftpd(world)
    clears(world, server, Vsftpd.log_in, FTP_RULE)
    attacked(world, server, Vsftpd.log_in, FTP_RULE, "ftp", 21)
    server.stop()


def test_dovecot_attacked(world):
    mail_ftp.set_up(world, Dovecot)
    server = Dovecot(world)
    attacked(world, server, Dovecot.log_in, IMAP_RULE, "imap", 143)
    server.stop()


def test_dovecot_attacked_over_any_port(world):
    """With a rule for any port; over POP3, and IMAP is closed to him, too."""
    mail_ftp.set_up(world, Dovecot)
    server = Dovecot(world, NO_PENALTY)
    clears(world, server, Dovecot.log_in, MAIL_RULE)
    daemon = world.daemon(MAIL_RULE.format(nfail=3, time="10m"), "-v")
    friend = Client(world, "friend")
    for six in (False, True):
        attacker = Client(world, f"attacker{int(six)}", six)
        attack = tools.hydra(world, attacker.host, attacker.target, "pop3", 110, "bob",
                             tools.wrong())
        tools.blocked(world, daemon, [attack], lambda: None, lambda attack, row: None)
        for port in (110, 143, 993):
            assert not attacker.gets_through(port), world.elements()
        friend.use(six)
        assert friend.log_in(Dovecot.log_in_pop3), server.text()
        attack.process.kill()
    server.stop()


def gives_up(client, port, *said):
    """Says these lines, each after an answer, and waits until the server hangs up."""
    with client.host.entered(), socket.create_connection((client.target, port), timeout=60) as other:
        answers = other.makefile("rb")
        answers.readline()
        for line in said:
            other.sendall(line)
            answers.readline()
        answers.read()


def same_without_egressd(world, server, how, *ending):
    """Absent, stopped, or gone again: log-ins succeed and fail as before, and connections end."""
    client = Client(world, "client")

    def same():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            wrong = pool.submit(client.log_in, how, password="wrong")
            right = pool.submit(client.log_in, how)
            pool.submit(gives_up, client, *ending).result()
            assert right.result() and not wrong.result(), server.text()
    same()
    daemon = world.daemon("[local]\n* * * * * 1000 10m\n")
    daemon.send(signal.SIGSTOP)
    same()
    daemon.send(signal.SIGCONT)
    wait_for(lambda: daemon.taken() >= 2, what="the reports to be read")
    daemon.stop()
    same()
    server.stop()


def descriptors():
    """How many each process of the servers has, by pid."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
            if comm.read().strip() in ("vsftpd", "dovecot", "auth", "anvil", "log"):
                found[pid] = len(os.listdir(f"/proc/{pid}/fd"))
    return found


def test_descriptors(world):
    """Many log-ins leave none behind, in the listeners and in dovecot's long-lived workers."""
    mail_ftp.set_up(world, Vsftpd, Dovecot)
    servers = [Vsftpd(world), Dovecot(world, NO_PENALTY)]
    daemon = world.daemon("[local]\n* * * * * * *\n[trusted]\n* stream tcp root\n")
    client = Client(world, "client")

    def log_ins(number):
        for _ in range(number):
            assert client.log_in(Vsftpd.log_in), servers[0].text()
            assert client.log_in(Dovecot.log_in), servers[1].text()
    log_ins(3)
    before = descriptors()
    assert len(before) >= 4, before
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(log_ins, 10) for _ in range(8)]:
            done.result()
    wait_for(lambda: daemon.taken() >= 2 * (3 + 8 * 10), 60, lambda: f"all: {daemon.status()}")
    # A leak leaves one for each of the 80 log-ins. Dovecot keeps one more for each worker that it starts, at most 8.
    wait_for(lambda: all(now <= before.get(pid, now) + 8 for pid, now in descriptors().items()), 60,
             lambda: f"{before}, there are {descriptors()}")
    for server in servers:
        server.stop()


def test_vsftpd_without_egressd(world):
    mail_ftp.set_up(world, Vsftpd)
    same_without_egressd(world, Vsftpd(world), Vsftpd.log_in, 21,
                         *[b"USER alice\r\n", b"PASS wrong\r\n"] * 3)


def test_dovecot_without_egressd(world):
    mail_ftp.set_up(world, Dovecot)
    same_without_egressd(world, Dovecot(world, NO_PENALTY), Dovecot.log_in, 143,
                         b"1 LOGIN alice wrong\r\n", b"2 LOGOUT\r\n")


harness.main(globals())
