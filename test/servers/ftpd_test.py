"""vsftpd and ftpd of inetutils with our patches: what each kind of client makes them report, and what
that leads to."""

import concurrent.futures
import contextlib
import fcntl
import os
import signal
import struct
import termios

import built
import ftpd as servers
import harness
import stock
from harness import run, wait_for
from recorder import Recorder

RULE = "[local]\n21 stream tcp * * {nfail} {disable}\n"
# Log-ins after which no descriptor may be left over. CONTRIBUTING's long runs set it to 10000.
LOGINS = int(os.environ.get("EGRESS_TEST_LOGINS", "200"))


def sigsys(server):
    """How often the kernel says that it killed this program for a system call."""
    done = run("dmesg", check=False)
    return sum("sig=31" in line and f'exe="{server.program}"' in line
               for line in done.stdout.splitlines())


def expect(recorder, client, session, *actions):
    """Exactly these reports, and what is common to all of a connection."""
    for report in recorder.expect(client.address, list(actions)):
        # vsftpd's parent goes into a sandbox when somebody is in, soon after it has said so.
        assert report.uid == 0 and (report.seccomp in (0, None) or report.action == "OK"), report
        assert report.local == (client.target, servers.PORT), report
        assert report.remote == (client.address, session.port), (report, session.port)


def try_in(recorder, client, user, password, code, *actions):
    with contextlib.closing(client.session()) as session:
        assert session.try_in(user, password) == code, (user, session.said)
        expect(recorder, client, session, *actions)


def behave(recorder, client, server):
    """One client of each kind; exactly its reports."""
    try_in(recorder, client, "alice", "wrong", 530, "FAIL")
    try_in(recorder, client, "alice", stock.PASSWORD, 230, "OK")
    try_in(recorder, client, "carol", stock.PASSWORD, 230, "OK")
    try_in(recorder, client, "nosuch", "x", 530, "BAD_USER")
    try_in(recorder, client, "n" * 500, "x", 530, "BAD_USER")
    try_in(recorder, client, "bob", stock.PASSWORD, 530, "FAIL")  # refused by name
    try_in(recorder, client, "ghost", "x", 530, "BAD_USER")  # the same, and does not exist
    try_in(recorder, client, "anonymous", "guest@", 230)
    # A session that goes wrong, tries to be forgiven as a guest, and gets in.
    with contextlib.closing(client.session()) as session:
        assert session.try_in("nosuch", "x") == 530
        assert session.try_in("alice", "") == 530
        expect(recorder, client, session, "BAD_USER", "FAIL")
        assert session.try_in("alice", stock.PASSWORD) == 230
        expect(recorder, client, session, "OK")
    # Hung up on after too many tries.
    with contextlib.closing(client.session()) as session:
        for _ in range(server.limit - 1):
            assert session.try_in("alice", "wrong") == 530
        expect(recorder, client, session, *["FAIL"] * (server.limit - 1))
        assert session.try_in("alice", "wrong") == 530 and session.hung_up()
        expect(recorder, client, session, "FAIL", "ABUSIVE")
    # Nobody tries a password.
    client.session().close()
    with contextlib.closing(client.session()) as session:
        assert session.say("USER alice") == 331 and session.say("QUIT") == 221
    with contextlib.closing(client.session()) as session:
        assert session.say("GET / HTTP/1.0") >= 500


def both(world, recorder, server):
    clients = [servers.Client(world, f"client{int(six)}", six) for six in (False, True)]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # failures make a client wait
        for done in [pool.submit(behave, recorder, client, server) for client in clients]:
            done.result()


@contextlib.contextmanager
def ends_well(recorder, server):
    """Stops the server. Nobody was killed, and nothing was reported that was not expected."""
    before = sigsys(server)
    yield
    server.stop()
    assert not recorder.reports, recorder.reports
    assert sigsys(server) == before, "a sandboxed process was killed for a system call"


def each_behaviour(world, server_of, kind):
    recorder = Recorder()
    server = server_of(world, kind)
    with ends_well(recorder, server):
        both(world, recorder, server)


def from_inetd(world, server_of):
    recorder = Recorder()
    server = server_of(world, listen=False)
    with ends_well(recorder, server), servers.inetd(server):
        for six in (False, True):
            client = servers.Client(world, f"client{int(six)}", six)
            try_in(recorder, client, "alice", "wrong", 530, "FAIL")
            try_in(recorder, client, "nosuch", "x", 530, "BAD_USER")
            try_in(recorder, client, "alice", stock.PASSWORD, 230, "OK")


def read_by_server(session):
    """Whether the server has read all that the client sent."""
    unsent = struct.unpack("i", fcntl.ioctl(session.sock, termios.TIOCOUTQ, bytes(4)))[0]
    lines = run("ss", "-Htn", "state", "established", "sport", "=", f":{servers.PORT}").stdout
    return unsent == 0 and lines and all(line.split()[0] == "0" for line in lines.splitlines())


def reset(world, server_of):
    """Who is gone with an RST before the answer is reported all the same."""
    recorder = Recorder()
    server = server_of(world, "pam")
    for service in ("vsftpd", "ftp"):  # as Debian has it: a failure takes two seconds
        with open(f"/etc/pam.d/{service}", "r+") as file:
            text = file.read().replace("nodelay", "")
            file.seek(0)
            file.truncate()
            file.write(text)
    for six in (False, True):
        client = servers.Client(world, f"client{int(six)}", six)
        session = client.session()
        assert session.say("USER alice") == 331
        session.putcmd("PASS wrong")
        wait_for(lambda s=session: read_by_server(s), what="the server to read the password")
        assert not recorder.reports
        session.reset()
        expect(recorder, client, session, "FAIL")
    server.stop()
    assert not recorder.reports, recorder.reports


def counted(world, server_of):
    """egressd takes the reports: count, clear, block at once. A guest clears nothing."""
    daemon = world.daemon(RULE.format(nfail=9, disable="10m"), "-v")
    server = server_of(world)
    client = servers.Client(world, "client")

    def count(number):
        wait_for(lambda: (daemon.row(client.address) or {"count": 0})["count"] == number,
                 what=lambda: f"count {number}: {daemon.blocks()}")
    for six in (False, True):
        client.use(six)
        for number, user in enumerate(("alice", "nosuch", "bob"), 1):
            assert not client.log_in(user, "wrong")
            count(number)
        taken = daemon.taken()
        assert client.log_in("anonymous", "guest@")
        assert not client.log_in("alice", "wrong")
        count(4)
        assert daemon.taken() == taken + 1
        assert client.log_in()
        count(0)
    with contextlib.closing(client.session()) as session, contextlib.suppress(TimeoutError):
        for _ in range(server.limit):
            session.try_in("alice", "wrong")  # the last answer may not come
    world.wait_element(client.address)  # of fewer failures than the rule asks for
    assert not any(daemon.status()["refused"].values()), daemon.status()
    server.stop()


def single_tries(client, server):
    assert not client.log_in("alice", "wrong")
    assert not client.log_in("nosuch", "wrong")
    assert client.log_in("anonymous", "guest@")


def in_and_out(client, server):
    with contextlib.closing(client.session()) as session:
        assert session.try_in("alice", stock.PASSWORD) == 230
        with client.host.entered():
            assert "etc" in session.nlst(), session.said
        assert session.say("QUIT") == 221 and session.hung_up()


def too_many(client, server):
    with contextlib.closing(client.session()) as session:
        for _ in range(server.limit):
            assert session.try_in("alice", "wrong") == 530
        assert session.hung_up()


def silence(client, server):
    """The server ends it."""
    with contextlib.closing(client.session()) as session:
        assert session.try_in("alice", "wrong") == 530
        assert session.answer() == 421 and session.hung_up()


def oops(client, server):
    """The server dies of a log-in: vsftpd does for a home that it takes for unsafe."""
    if isinstance(server, servers.Vsftpd):
        with contextlib.closing(client.session()) as session:
            assert session.try_in("dan", stock.PASSWORD) == 500 and session.hung_up()


def same(client, server):
    """A server serves, refuses and hangs up."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(what, client, server) for what in (
                single_tries, in_and_out, too_many, silence, oops)]:
            done.result()


def without_egressd(world, server_of):
    """Absent, stopped, or with a full queue: the server serves, refuses and hangs up as before."""
    if server_of is servers.Vsftpd:
        server = server_of(world, idle_session_timeout=8, chroot_local_user="YES")
    else:
        server = server_of(world, options=("-t", "10"))
    client = servers.Client(world, "client")
    before = sigsys(server)
    same(client, server)
    descriptors = server.descriptors()
    daemon = world.daemon(RULE.format(nfail=1000, disable="10m"))
    daemon.send(signal.SIGSTOP)
    same(client, server)
    with open("/proc/sys/net/core/somaxconn") as file:
        limit = int(file.read())
    full = 0
    for _ in range(2 * limit):  # until nobody can even connect
        full = world.library.report(harness.FAIL, -1, "fill", check=False)
        if full:
            break
    assert full, "the daemon's queue never filled"
    same(client, server)
    daemon.send(signal.SIGCONT)
    daemon.stop()
    same(client, server)
    wait_for(lambda: server.descriptors() <= descriptors, what="the descriptors to be as before")
    server.stop()
    assert sigsys(server) == before


def descriptors(world, server_of):
    """Many log-ins leave no descriptor behind, in nobody."""
    daemon = world.daemon(RULE.format(nfail=2 * LOGINS, disable="10m"))
    server = server_of(world, "pam")
    client = servers.Client(world, "client")
    client.log_in()
    wait_for(lambda: daemon.taken() == 1, what="the first report")
    before = server.descriptors(), daemon.open_fds()

    def some(number):
        for index in range(number):
            assert client.log_in("alice", "wrong" if index % 4 == 3 else stock.PASSWORD) == (
                index % 4 != 3)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(some, LOGINS // 4) for _ in range(4)]:
            done.result()
    wait_for(lambda: daemon.taken() == 1 + LOGINS // 4 * 4, 60,
             lambda: f"a report each: {daemon.taken()} of {LOGINS}")
    wait_for(lambda: server.descriptors() <= before[0] and daemon.open_fds() <= before[1], 60,
             lambda: f"{before} descriptors, not {server.descriptors(), daemon.open_fds()}")
    print(f"     {LOGINS} log-ins: {before} descriptors before and after", flush=True)
    server.stop()


def test_sandbox_vsftpd(world):
    """The process that talks to the client is in its sandbox; it is not the one that reports."""
    recorder = Recorder()
    # The parent waits after a report, so that what it was at that time can be seen.
    server = servers.Vsftpd(world, delay_successful_login=2)
    client = servers.Client(world, "client")

    def modes():
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe") == server.program:
                    found[int(pid)] = Recorder.seccomp(int(pid))
        return found
    with ends_well(recorder, server), contextlib.closing(client.session()) as session:
        wait_for(lambda: 2 in modes().values(), what=lambda: f"a sandboxed process: {modes()}")
        assert session.try_in("bob", "x") == 530 and session.try_in("alice", "wrong") == 530
        sandboxed = {pid for pid, mode in modes().items() if mode == 2}
        assert session.try_in("alice", stock.PASSWORD) == 230
        for report in recorder.expect(client.address, ["FAIL", "FAIL", "OK"]):
            assert report.pid not in sandboxed and report.seccomp == 0, (report, modes())


def test_anonymous_only_vsftpd(world):
    """Other names are refused without a password: one report each, and no limit."""
    recorder = Recorder()
    server = servers.Vsftpd(world, local_enable="NO", userlist_enable="NO")
    client = servers.Client(world, "client")
    with ends_well(recorder, server), contextlib.closing(client.session()) as session:
        for user, action in 3 * (("alice", "FAIL"), ("nosuch", "BAD_USER")):
            assert session.say(f"USER {user}") == 530
            expect(recorder, client, session, action)
        assert session.try_in("anonymous", "guest@") == 230
    server = servers.Vsftpd(world, local_enable="NO", one_process_model="YES",
                            secure_email_list_enable="YES",
                            email_password_file=world.write("mails", "known@example.org\n"))
    # There is nobody who could: the only process is in the sandbox.
    with ends_well(recorder, server), contextlib.closing(client.session()) as session:
        assert session.say("USER alice") == 530
        assert session.try_in("anonymous", "other@example.org") == 530
        assert session.try_in("anonymous", "known@example.org") == 230


def test_guests_vsftpd(world):
    """Virtual users are in no passwd: a wrong password is no unknown user."""
    recorder = Recorder()
    server = servers.Vsftpd(world, guest_enable="YES", guest_username="ftp")
    client = servers.Client(world, "client")
    try_in(recorder, client, "virtual", "wrong", 530, "FAIL")
    server.stop()
    assert not recorder.reports, recorder.reports


def test_anonymous_passwords_vsftpd(world):
    """A list of passwords for anonymous users can be guessed at, too."""
    recorder = Recorder()
    mails = world.write("mails", "known@example.org\n")
    server = servers.Vsftpd(world, secure_email_list_enable="YES", email_password_file=mails)
    client = servers.Client(world, "client")
    for name in ("anonymous", "ftp"):
        try_in(recorder, client, name, "other@example.org", 530, "FAIL")
        try_in(recorder, client, name, "known@example.org", 230)
    server.stop()
    assert not recorder.reports, recorder.reports


def test_refused_names_inetutils(world):
    """Where ftpd refuses a name at once, that is the report; the next session's user is another."""
    recorder = Recorder()
    server = servers.Inetutils(world, "default", options=("--non-rfc2577",))
    client = servers.Client(world, "client")
    for user, action in (("nosuch", "BAD_USER"), ("bob", "FAIL"), ("ghost", "BAD_USER")):
        with contextlib.closing(client.session()) as session:
            assert session.say(f"USER {user}") == 530
            expect(recorder, client, session, action)
            assert session.say("PASS x") == 503
    server.stop()
    server = servers.Inetutils(world, "default", options=("--anonymous-only",))
    with contextlib.closing(client.session()) as session:
        assert session.say("USER alice") == 530
        expect(recorder, client, session, "FAIL")
        assert session.try_in("anonymous", "guest@") == 230
    server.stop()
    assert not recorder.reports, recorder.reports


def test_second_user_inetutils(world):
    """A user who is in may log in as another: root reports again."""
    recorder = Recorder()
    server = servers.Inetutils(world, "default")
    client = servers.Client(world, "client")
    with contextlib.closing(client.session()) as session:
        assert session.try_in("alice", stock.PASSWORD) == 230
        expect(recorder, client, session, "OK")
        assert session.try_in("dan", "wrong") == 530
        expect(recorder, client, session, "FAIL")
        assert session.try_in("dan", stock.PASSWORD) == 230
        expect(recorder, client, session, "OK")
    server.stop()
    assert not recorder.reports, recorder.reports


def define():
    """A test per server, so that each can be run and fail by itself."""
    for name, server_of in (("vsftpd", servers.Vsftpd), ("inetutils", servers.Inetutils)):
        for kind in server_of.kinds:
            globals()[f"test_each_behaviour_{name}_{kind}"] = (
                lambda world, s=server_of, k=kind: each_behaviour(world, s, k))
        for function in (from_inetd, reset, counted, without_egressd, descriptors):
            globals()[f"test_{function.__name__}_{name}"] = (
                lambda world, f=function, s=server_of: f(world, s))


define()
built.prepare("vsftpd-3.0.5", "inetutils-2.4")
harness.main(globals())
