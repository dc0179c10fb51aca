"""Debian's own named, unchanged, with the query plugin: what it reports, and what that leads to."""

import os
import pwd
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import harness
import stock_dns
import tools
from harness import run, wait_for
from recorder import Recorder
from stock_dns import Client, Named

RULES = "[local]\n53 stream tcp * * {nfail} {time}\n53 dgram udp * * {nfail} {time} {more}\n"
TLS = """listen-on { any; };
    listen-on port 853 tls ephemeral { any; };
    listen-on-v6 port 853 tls ephemeral { !fe80::/10; any; };
    listen-on port 443 tls ephemeral http default { any; };
    listen-on-v6 port 443 tls ephemeral http default { !fe80::/10; any; };"""
WAYS = ((53,), (53, "+nocookie"), (53, "+cookie"), (53, "+tcp"), (853, "+tls"), (443, "+https"))


def check(reports, client, port=53, verified=False, remote_port=None):
    bind = pwd.getpwnam("bind").pw_uid
    for report in reports:
        assert report.uid == bind and report.verified == verified, report
        assert report.local == (client.target, port) and not report.listening, report
        assert report.remote[1] == remote_port if remote_port else report.remote[1] > 0, report


def test_each_refusal(world):
    """One report each: which socket, whose address, and whether the source is proved."""
    stock_dns.set_up(world)
    recorder = Recorder()
    named = Named(world, 'allow-transfer { none; };' + TLS)
    for six in (False, True):
        client = Client(named, f"client{int(six)}", six)
        for port, *options in WAYS:
            for name in ("closed.test", "example.org"):
                assert client.dig(name, *options) == "REFUSED", named.text()
                (report,) = recorder.expect(client.address, ["FAIL"])
                check([report], client, port)
                assert report.message == f"named: refused: {name}/A", report
            assert client.dig("open.test", *options) == "NOERROR", named.text()
            assert client.dig("nosuch.open.test", *options) == "NXDOMAIN", named.text()
        cookie = client.cookie()
        assert client.dig("example.org", f"+cookie={cookie}") == "REFUSED"
        check(recorder.expect(client.address, ["FAIL"]), client, verified=True)
        wrong = cookie[:-1] + ("0" if cookie[-1] != "0" else "1")
        assert client.dig("example.org", f"+cookie={wrong}") == "REFUSED"
        check(recorder.expect(client.address, ["FAIL"]), client)
        assert client.dig("example.org", f"+cookie={cookie}", "+tcp") == "REFUSED"
        check(recorder.expect(client.address, ["FAIL"]), client)
        # What does not come by a hook, as the manual says.
        assert client.transfer("open.test") == "failed", named.text()
    # All that was not asked for would have come before this one.
    assert client.dig() == "REFUSED"
    recorder.expect(client.address, ["FAIL"])
    assert not recorder.reports, recorder.reports
    named.stop()


def test_required_cookie(world):
    """Where named asks for a cookie first, whoever is refused has shown one."""
    stock_dns.set_up(world)
    recorder = Recorder()
    named = Named(world, "require-server-cookie yes;")
    for six in (False, True):
        client = Client(named, f"client{int(six)}", six)
        assert client.dig("closed.test") == "REFUSED", named.text()
        check(recorder.expect(client.address, ["FAIL"]), client, verified=True)
    assert not recorder.reports, recorder.reports
    named.stop()


def test_many_connections_at_once(world):
    """Each query is reported with its own connection's socket, whoever else is connected."""
    stock_dns.set_up(world)
    recorder = Recorder()
    named = Named(world)
    clients = [Client(named, f"client{int(six)}", six) for six in (False, True)]
    open_ones = [(client, client.connect()) for client in clients * 40]
    for rounds in range(2):
        for client, connection in open_ones[::-1]:
            assert stock_dns.ask(connection, "closed.test") == 5, named.text()
            check(recorder.expect(client.address, ["FAIL"]), client,
                  remote_port=connection.getsockname()[1])
    for _, connection in open_ones:
        connection.close()
    assert not recorder.reports, recorder.reports
    named.stop()


def test_client_that_is_gone(world):
    """A connection that was reset before the answer costs its report, and nothing else."""
    stock_dns.set_up(world)
    recorder = Recorder()
    named = Named(world)
    client = Client(named, "client")
    before = named.descriptors()
    for _ in range(300):
        stock_dns.ask_and_reset(client.connect(), "closed.test")
    assert client.dig("open.test") == "NOERROR", named.text()
    assert client.dig("closed.test", "+tcp") == "REFUSED", named.text()

    def last():
        return [report for report in recorder.of(client.address) if report.local and
                report.message.endswith("/A")]
    wait_for(last, what=lambda: f"a report with a socket: {recorder.reports[-5:]}")
    for report in recorder.of(client.address):
        assert report.action == "FAIL" and report.local in (None, (client.target, 53)), report
    wait_for(lambda: named.descriptors() <= before + 1, what="the descriptors to be closed")
    named.stop()


def count(daemon, address, proto):
    return sum(row["count"] for row in daemon.blocks()
               if row["addr"] == address and row["protocol"] == proto)


def test_counted(world):
    """By a real egressd: TCP and proved datagrams count, others only where the rules say so."""
    stock_dns.set_up(world)
    daemon = world.daemon(RULES.format(nfail=9, time="10m", more=""), "-v")
    named = Named(world)
    for six in (False, True):
        client = Client(named, f"client{int(six)}", six)
        for number in (1, 2):
            assert client.dig("closed.test", "+tcp") == "REFUSED", named.text()
            wait_for(lambda: count(daemon, client.address, "tcp") == number,
                     what=lambda: f"TCP count {number}: {daemon.blocks()}")
        cookie = client.cookie()
        for number in (1, 2):
            assert client.dig("closed.test") == "REFUSED"  # forgeable
            assert client.dig("closed.test", f"+cookie={cookie}") == "REFUSED"
            wait_for(lambda: count(daemon, client.address, "udp") == number,
                     what=lambda: f"UDP count {number}: {daemon.blocks()}")
    assert not any(daemon.status()["refused"].values()), daemon.status()
    # A handle survives a restart of egressd.
    daemon.stop()
    assert client.dig("closed.test", "+tcp") == "REFUSED"
    again = world.daemon(RULES.format(nfail=9, time="10m", more=""), "-v")
    assert client.dig("closed.test", "+tcp") == "REFUSED"
    wait_for(lambda: count(again, client.address, "tcp") == 3,
             what=lambda: f"TCP count 3: {again.blocks()}")
    named.stop()


def dnsperf(world, attacker, *options, rounds=400, patience=tools.PATIENCE):
    names = world.write(f"names.{world.counter()}", "".join(
        f"host-{index}.example.org A\n" for index in range(50)))
    six = ["-f", "inet6"] if ":" in attacker.target else []
    return tools.start(world, attacker.host, attacker.target, patience, "dnsperf", *six, "-s",
                       attacker.target, "-d", names, "-n", str(rounds), "-t", "1", *options)


def attack(world, daemon, named, friend, way, *options):
    attacks = []
    attackers = {}
    for six in (False, True):
        attacker = Client(named, f"{way}{int(six)}", six)
        attackers[attacker.address] = attacker
        attacks.append(dnsperf(world, attacker, *options, patience=15))

    def serve():
        for six in (False, True):
            friend.use(six)
            assert friend.dig("open.test") == "NOERROR", named.text()

    def release(done):
        attacker = attackers[done.address]
        wait_for(lambda: attacker.dig("open.test", "+tcp") == "NOERROR", 30, "an answer")
        assert attacker.dig("open.test") == "NOERROR"
    tools.check_end(world, daemon, attacks, serve, release, None)


def test_attacks_with_dnsperf(world):
    """Over TCP, and over UDP where the rules count what may be forged."""
    stock_dns.set_up(world)
    daemon = world.daemon(RULES.format(nfail=5, time="20s", more="spoofable=count"), "-v")
    named = Named(world)
    friend = Client(named, "friend")
    attack(world, daemon, named, friend, "tcp", "-m", "tcp")
    attack(world, daemon, named, friend, "udp", "-m", "udp")
    named.stop()


def test_attack_with_cookie(world):
    """Over UDP without a word in the rules, once the attacker has proved where he is."""
    stock_dns.set_up(world)
    daemon = world.daemon(RULES.format(nfail=5, time="15s", more=""), "-v")
    named = Named(world)
    friend = Client(named, "friend")
    attacker = Client(named, "attacker")
    dnsperf(world, attacker, "-m", "udp", rounds=20).process.wait(60)  # no cookie: nobody is blocked
    assert not world.elements(), world.elements()
    cookie = attacker.cookie()
    # More than named answers before the block is in force, on a busy machine.
    batch = world.write("batch", "closed.test\n" * 4000)
    digging = tools.start(world, attacker.host, attacker.target, 20, "dig", f"@{attacker.target}",
                          f"+cookie={cookie}", "+tries=1", "+time=1", "-f", batch)

    def serve():
        assert friend.dig("open.test") == "NOERROR", named.text()

    def release(_):
        wait_for(lambda: attacker.dig("open.test") == "NOERROR", 30, "an answer")
    tools.check_end(world, daemon, [digging], serve, release, None)
    named.stop()


def test_without_egressd(world):
    """Absent, stopped, gone again: named answers as before, and keeps no descriptor."""
    stock_dns.set_up(world)
    named = Named(world)
    client = Client(named, "client")

    def same(queries=200):
        for transport in ("udp", "tcp"):
            done = dnsperf(world, client, "-m", transport, "-t", "20", rounds=queries // 50,
                           patience=120)
            assert done.process.wait(150) == 0, tools.said(done)
            text = tools.said(done)
            assert f"REFUSED {queries} " in text, (text, named.text()[-2000:])
        assert client.dig("open.test") == "NOERROR", named.text()
    same()
    before = named.descriptors()
    daemon = world.daemon(RULES.format(nfail=10 ** 6, time="10m", more=""), "-v")
    same(10000)
    handle = 1
    wait_for(lambda: named.descriptors() <= before + handle, 60,
             lambda: f"{before} descriptors: {named.descriptors()}")
    daemon.send(signal.SIGSTOP)
    same(10000)
    assert client.dig("closed.test", "+tcp") == "REFUSED"
    daemon.send(signal.SIGCONT)
    wait_for(lambda: named.descriptors() <= before + handle, 60,
             lambda: f"{before} descriptors: {named.descriptors()}")
    daemon.stop()
    same()
    wait_for(lambda: named.descriptors() <= before + handle, 60,
             lambda: f"{before} descriptors: {named.descriptors()}")
    named.stop()


def test_reload_and_views(world):
    """Reloading makes no query count twice; in a configuration with views each has its line."""
    stock_dns.set_up(world)
    recorder = Recorder()
    named = Named(world)
    client = Client(named, "client")
    descriptors = named.descriptors()
    for _ in range(3):
        loaded = named.text().count("all zones loaded")
        named.process.send_signal(signal.SIGHUP)
        wait_for(lambda: named.text().count("all zones loaded") > loaded, 30, "the reload")
        assert client.dig("closed.test", "+tcp") == "REFUSED"
        check(recorder.expect(client.address, ["FAIL"]), client)
    wait_for(lambda: named.descriptors() <= descriptors, what=lambda: (
        f"{descriptors} descriptors, there are {named.descriptors()}"))
    named.stop()
    named = Named(world, conf=stock_dns.VIEWS)
    assert client.dig("closed.test") == "REFUSED"
    check(recorder.expect(client.address, ["FAIL"]), client)
    other = Client(named, "other", six=True)
    assert other.dig("closed.test", "+tcp") == "REFUSED"
    check(recorder.expect(other.address, ["FAIL"]), other)
    assert not recorder.reports, recorder.reports
    named.stop()


def checkconf(line):
    with open("/etc/bind/named.conf", "w") as conf:
        conf.write(stock_dns.CONF.format(options="", plugin=line))
    return run("named-checkconf", check=False)


def test_configuration(world):
    stock_dns.set_up(world)
    for parameters in ("", " { }", ' { socket "/run/else/report.sock"; }'):
        done = checkconf(stock_dns.plugin(parameters))
        assert done.returncode == 0, (parameters, done.stdout, done.stderr)
    for parameters, complaint in ((' { sokcet "/x"; }', "unknown option"),
                                  (' { socket; }', "expected"),
                                  (' { socket "/%s"; }' % ("x" * 200), "File name too long")):
        done = checkconf(stock_dns.plugin(parameters))
        assert done.returncode != 0 and complaint in done.stdout + done.stderr, (parameters, done)
    os.makedirs("/run/else")
    recorder = Recorder("/run/else/report.sock")
    named = Named(world, line=stock_dns.plugin(' { socket "/run/else/report.sock"; }'))
    client = Client(named, "client")
    assert client.dig("closed.test", "+tcp") == "REFUSED"
    check(recorder.expect(client.address, ["FAIL"]), client)
    named.stop()


def test_another_release(world):
    """A plugin that was built for another BIND says so, and leaves named alone."""
    stock_dns.set_up(world)
    recorder = Recorder()
    path = world.path("named_egress.so")
    with open(stock_dns.plugin_path(), "rb") as file:
        code = file.read()
    assert code.count(b"libns-9.") >= 1
    with open(path, "wb") as file:
        file.write(code.replace(b"libns-9.", b"libns-8."))
    os.chmod(path, 0o755)
    line = f'plugin query "{path}";'
    done = checkconf(line)
    assert done.returncode != 0 and "build it again" in done.stdout + done.stderr, done
    named = Named(world, line=line)
    assert "reports nothing" in named.text(), named.text()
    client = Client(named, "client")
    assert client.dig("closed.test") == "REFUSED"
    assert client.dig("open.test") == "NOERROR"
    named.stop()
    assert not recorder.reports, recorder.reports


def test_chroot(world):
    """Inside a new root the plugin and the socket have to be there, as the manual says."""
    stock_dns.set_up(world)
    root = world.path("root")
    for directory in ("/var/cache/bind", "/run/named", "/run/egress", "/dev",
                      os.path.dirname(stock_dns.plugin_path())):
        os.makedirs(root + directory)
    shutil.copy(stock_dns.plugin_path(), root + stock_dns.plugin_path())
    recorder = Recorder(root + "/run/egress/report.sock")
    named = Named(world, arguments=("-t", root), root=root)
    client = Client(named, "client")
    for options in ((), ("+tcp",)):
        assert client.dig("closed.test", *options) == "REFUSED", named.text()
        check(recorder.expect(client.address, ["FAIL"]), client)
    named.stop()


harness.main(globals())
