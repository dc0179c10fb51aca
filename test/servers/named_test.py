"""BIND with our patches: what each kind of client makes it report, and what that leads to."""

import contextlib
import os
import secrets
import signal
import socket
import struct
import threading

import built
import harness
import named as servers
from harness import run, wait_for
from named import KEY, WRONG_KEY, exchange, question, signed
from recorder import Recorder

RULE = """[local]
53 stream tcp * * {nfail} {disable}
53 dgram udp * * {nfail} {disable} {options}
953 stream tcp * * {nfail} {disable}
"""
UPD, XFER = ("upd", KEY), ("xfer", KEY)


def rule(nfail=4, disable="10m", options=""):
    return RULE.format(nfail=nfail, disable=disable, options=options)


def check(reports, client, named, port=53, verified=False):
    """What is common to all reports of the client's last request."""
    for report in reports:
        assert report.uid == named.user.pw_uid and report.pid == named.process.pid, report
        assert report.local == (client.target, port) and not report.listening, report
        assert report.remote[1] == client.port or client.port is None and report.remote[1] != 0
        assert report.verified == verified, report


def clients(world, number=1):
    """Clients over IPv4 and IPv6. Made before named starts, which hears on the addresses it finds."""
    return [servers.Client(world, f"client{index}{int(six)}", six)
            for index in range(number) for six in (False, True)]


def quiet(recorder, client):
    """Nothing more was reported than was expected: all reports come in order over one connection,
    and this one is the last."""
    assert client.dig("www.closed.test") == "REFUSED", client.said
    recorder.expect(client.address, ["FAIL"])
    assert not recorder.reports, recorder.reports


def queries(world, version):
    recorder = Recorder()
    both = clients(world)
    # With "recursion no" named does not ask query_checkcacheaccess(), with "yes" it does.
    for recursion in ("no", "yes"):
        named = servers.Named(world, version, recursion=recursion)
        for client in both:
            for tcp in (False, True):
                def refused(*words, tcp=tcp, client=client, named=named):
                    assert client.dig(*words, tcp=tcp) == "REFUSED", client.said
                    check(recorder.expect(client.address, ["FAIL"]), client, named)

                def answered(*words, status="NOERROR", tcp=tcp, client=client):
                    assert client.dig(*words, tcp=tcp) == status, (words, client.said)

                refused("www.closed.test")
                refused("www.closed.test", "AAAA")
                refused("example.org")
                refused("example.org", "+norecurse")
                refused("example.org", "HS")
                answered("www.open.test")
                answered("nosuch.open.test", status="NXDOMAIN")
                answered("alias.open.test")  # its target is refused, but this one is an answer
                answered("alias.open.test", "+norecurse")
                answered("open.test", "MX")  # nothing additional from the closed zone
                answered("version.bind", "CH", "TXT")
            quiet(recorder, client)
        named.stop()


def transfers(world, version):
    recorder = Recorder()
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        for words, tcp in ((("static.test", "AXFR"), True), (("static.test", "IXFR=1"), True),
                           (("open.test", "AXFR"), True), (("static.test", "IXFR=1"), False)):
            client.dig(*words, tcp=tcp)  # which says nothing of a refused IXFR over UDP
            check(recorder.expect(client.address, ["FAIL"]), client, named)
        assert client.dig("open.test", "AXFR", tcp=True, key=XFER) == "NOERROR", client.said
        check(recorder.expect(client.address, ["OK"]), client, named)
        assert client.dig("open.test", "AXFR", tcp=True, key=UPD) == "REFUSED", client.said
        check(recorder.expect(client.address, ["FAIL"]), client, named)
        client.dig("nosuch.example", "AXFR", tcp=True)  # not authoritative: NOTAUTH
        quiet(recorder, client)
    named.stop()


def updates(world, version):
    recorder = Recorder()
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        for tcp in (False, True):
            def update(zone, *actions, ok=False, tcp=tcp, client=client, **keywords):
                assert client.update(zone, tcp=tcp, **keywords) == ok, client.said
                check(recorder.expect(client.address, list(actions)), client, named)

            update("closed.test", "FAIL")  # may not even query
            update("closed.test", "FAIL", key=UPD)
            update("static.test", "FAIL")  # takes updates from nobody
            update("open.test", "FAIL")
            update("open.test", "FAIL", key=XFER)
            update("open.test", "OK", ok=True, key=UPD)
            assert client.dig("new.open.test") == "NOERROR"
            update("policy.test", "FAIL", key=UPD, name="other")
            update("policy.test", "FAIL", key=XFER, name="ok")
            update("policy.test", "OK", ok=True, key=UPD, name="ok")
            update("open.test", "BAD_USER", key=("nosuch", KEY))
            update("open.test", "FAIL", key=("upd", WRONG_KEY))
        quiet(recorder, client)
    # A frozen zone refuses everybody, which is nobody's fault.
    assert both[0].rndc("freeze", "open.test"), both[0].said
    check(recorder.expect(both[0].address, ["OK"]), both[0], named, port=953)
    assert not both[0].update("open.test", key=UPD)
    assert "REFUSED" in both[0].said, both[0].said
    quiet(recorder, both[0])
    named.stop()


def signatures(world, version):
    recorder = Recorder()
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        for tcp in (False, True):
            for key, action in ((("nosuch", KEY), "BAD_USER"), (("upd", WRONG_KEY), "FAIL")):
                client.dig("www.open.test", tcp=tcp, key=key)
                check(recorder.expect(client.address, [action]), client, named)
            for skew in (-4000, 4000):
                message = signed(question("www.open.test"), *UPD, skew)
                assert exchange(client, message, tcp) == 9, "NOTAUTH"
                check(recorder.expect(client.address, ["FAIL"]), client, named)
            assert exchange(client, signed(question("www.open.test"), *UPD), tcp) == 0
            assert client.dig("www.open.test", tcp=tcp, key=UPD) == "NOERROR", client.said
            # Who is known and refused all the same is counted once.
            assert client.dig("www.closed.test", tcp=tcp, key=UPD) == "REFUSED", client.said
            check(recorder.expect(client.address, ["FAIL"]), client, named)
        quiet(recorder, client)
    named.stop()


def cookies(world, version):
    recorder = Recorder()
    both = clients(world, 2)
    named = servers.Named(world, version)
    for client, other in ((both[0], both[2]), (both[1], both[3])):
        cookie = client.cookie()
        stale = cookie[:-2] + f"{int(cookie[-2:], 16) ^ 1:02x}"
        # 9.20 does not go into what a wrong cookie asks.
        wrong = "BADCOOKIE" if "-9.20" in version else "REFUSED"
        for sender, shown, status in (
                (client, cookie, "REFUSED"), (client, stale, wrong), (other, cookie, wrong),
                (client, secrets.token_hex(8), "REFUSED"), (client, None, "REFUSED")):
            assert sender.dig("www.closed.test", "+nobadcookie", cookie=shown) == status, sender.said
            if status == "REFUSED":
                check(recorder.expect(sender.address, ["FAIL"]), sender, named,
                      verified=(sender, shown) == (client, cookie))
        for words in (("example.org",), ("static.test", "IXFR=1"), ("example.org", "HS")):
            client.dig(*words, cookie=cookie)
            check(recorder.expect(client.address, ["FAIL"]), client, named, verified=True)
        client.dig("www.open.test", cookie=cookie, key=("nosuch", KEY))
        check(recorder.expect(client.address, ["BAD_USER"]), client, named, verified=True)
        quiet(recorder, client)
    named.stop()


def over_tls(world, version):
    """DNS over TLS and over HTTPS: the connection is below."""
    recorder = Recorder()
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        for option, port in (("+tls", 853), ("+https", 443)):
            assert client.dig("www.open.test", option, tcp=True) == "NOERROR", client.said
            assert client.dig("www.closed.test", option, tcp=True) == "REFUSED", client.said
            check(recorder.expect(client.address, ["FAIL"]), client, named, port=port)
        quiet(recorder, client)
    named.stop()


def over_proxy(world, version):
    """What a proxy passes on is not the proxy's doing."""
    recorder = Recorder()
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        source = "2001:db8::5" if ":" in client.target else "192.0.2.5"
        for tcp in (False, True):
            assert exchange(client, question("www.open.test"), tcp, 5300, source) == 0
            assert exchange(client, question("www.closed.test"), tcp, 5300, source) == 5, "REFUSED"
        quiet(recorder, client)
    named.stop()


@contextlib.contextmanager
def tapped(client):
    """Relays the host's own port 953 to named; gives the list of what went there."""
    six = ":" in client.target
    address = "::1" if six else "127.0.0.1"
    heard = []
    run(*client.host.command("ip", "link", "set", "lo", "up"))
    with client.host.entered():
        server = socket.create_server((address, 953),
                                      family=socket.AF_INET6 if six else socket.AF_INET)

    def relay():
        with contextlib.suppress(OSError):
            near, _ = server.accept()
            with near, client.connect(953) as far:
                back = threading.Thread(target=pump, args=(far, near, []), daemon=True)
                back.start()
                pump(near, far, heard)
                back.join(30)
    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield address, heard
    finally:
        thread.join(30)
        server.close()


def pump(source, target, heard):
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(65536)
            if not data:
                break
            heard.append(data)
            target.sendall(data)
        target.shutdown(1)


def send_until_closed(connection, data):
    """Returns when named has hung up."""
    with connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass


def control(world, version):
    recorder = Recorder()
    both = clients(world, 2)
    masters = "".join(f"{client.address}; " for client in both[:2])
    named = servers.Named(world, version, masters=masters)
    for client, stranger in ((both[0], both[2]), (both[1], both[3])):
        def expect(*actions, client=client):
            check(recorder.expect(client.address, list(actions)), client, named, 953)

        assert client.rndc("status"), client.said
        expect("OK")
        assert not client.rndc("nosuchcommand")  # a typing error of somebody who has the key
        expect("OK")
        assert not client.rndc("status", secret=WRONG_KEY)
        expect("FAIL")
        assert not stranger.rndc("status")
        expect("FAIL", client=stranger)
        client.connect(953).close()
        send_until_closed(client.connect(953), b"GET / HTTP/1.0\r\n\r\n")
        expect("FAIL")
        with tapped(client) as (address, heard):
            assert client.rndc("status", target=address), client.said
        expect("OK")
        send_until_closed(client.connect(953), heard[0])
        expect("ABUSIVE")
        client.connect(953).close()
        quiet(recorder, client)
    named.stop()


def counted(world, version):
    """egressd takes the reports of an unprivileged named, counts and clears."""
    daemon = world.daemon(rule(nfail=9), "-v")
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        def count(number, port, client=client):
            def there():
                rows = [row for row in daemon.blocks() if row["addr"] == client.address and
                        row["port"] == port]
                return sum(row["count"] for row in rows) == number
            wait_for(there, 30, lambda: f"count {number} for {port}: {daemon.blocks()}")

        client.dig("www.closed.test", tcp=True)
        client.dig("www.closed.test", tcp=True, key=("nosuch", KEY))
        count(2, 53)
        assert client.dig("open.test", "AXFR", tcp=True, key=XFER) == "NOERROR"
        count(0, 53)
        client.update("open.test", tcp=True)
        count(1, 53)
        assert client.update("open.test", tcp=True, key=UPD), client.said
        count(0, 53)
        client.dig("www.closed.test", cookie=client.cookie())
        count(1, 53)
        before = daemon.status()
        client.dig("www.closed.test")
        client.dig("www.closed.test", cookie=secrets.token_hex(8))
        wait_for(lambda: daemon.status()["reports"]["taken"] >= before["reports"]["taken"] + 2,
                 what="the unverified reports to be read")
        count(1, 53)
        with client.connect(953) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            count(1, 953)
        # Who has left before egressd looks is counted all the same.
        daemon.send(signal.SIGSTOP)
        assert client.dig("www.closed.test", tcp=True) == "REFUSED", client.said
        wait_for(lambda port=client.port: not named.holds(port), 30, "named to close its end")
        daemon.send(signal.SIGCONT)
        count(2, 53)
        assert client.rndc("status"), client.said
        count(0, 953)
    assert not any(daemon.status()["refused"].values()), daemon.status()
    named.stop()


def replayed(world, version):
    """A replayed control command blocks at once."""
    world.daemon(rule(nfail=9), "-v")
    both = clients(world)
    named = servers.Named(world, version)
    for client in both:
        with tapped(client) as (address, heard):
            assert client.rndc("status", target=address), client.said
        connection = client.connect(953)
        connection.sendall(heard[0])
        world.wait_element(client.address)
        connection.close()
    named.stop()


def shut_out(world, attacker, friend, named, process):
    """That attack ends in the firewall, and the friend is served."""
    world.wait_element(attacker.address, 60)
    wait_for(lambda: world.element(attacker.address)["packets"] > 0, 60, "dropped packets")
    for tcp in (False, True):
        assert friend.dig("www.open.test", tcp=tcp) == "NOERROR", (friend.said, named.text()[-2000:])
    process.terminate()
    process.wait(30)


def attack(world, version):
    """dnsperf over TCP, over UDP with a cookie; dig in a loop."""
    daemon = world.daemon(rule(nfail=5, disable="5s"), "-v")
    attackers, friends = clients(world), [servers.Client(world, f"friend{int(six)}", six)
                                          for six in (False, True)]
    named = servers.Named(world, version)
    for attacker, friend in zip(attackers, friends):
        for tcp in (True, False):
            cookie = None if tcp else attacker.cookie()
            process = attacker.dnsperf("www.closed.test", tcp=tcp, cookie=cookie)
            shut_out(world, attacker, friend, named, process)
            # Two rules and so two blocks, of TCP and of UDP: the other way is still open.
            assert attacker.dig("www.open.test", tcp=not tcp) == "NOERROR", attacker.said
            world.wait_no_element(attacker.address, 60)
            assert attacker.dig("www.open.test", tcp=tcp) == "NOERROR", attacker.said
        for _ in range(20):
            if attacker.dig("example.org", tcp=True, timeout=1) != "REFUSED":
                break
        world.wait_element(attacker.address)
    assert not any(daemon.status()["refused"].values()), daemon.status()
    named.stop()


def forged(world, version):
    """Queries with the address of another host block nobody, unless the rules say so."""
    run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
    daemon = world.daemon(rule(nfail=3), "-v")
    attackers, victims = clients(world), [servers.Client(world, f"victim{int(six)}", six)
                                          for six in (False, True)]
    named = servers.Named(world, version)

    def flood(attacker, victim, number):
        six = ":" in victim.address
        attacker.host.run("ip", "addr", "replace", f"{victim.address}/{128 if six else 32}", "dev",
                          "up0", *(["nodad"] if six else []))
        with attacker.datagram(victim.address) as sender:
            for _ in range(number):
                sender.sendto(question("www.closed.test"), (attacker.target, 53))
    for attacker, victim in zip(attackers, victims):
        taken = daemon.status()["reports"]["taken"]
        flood(attacker, victim, 50)
        wait_for(lambda: daemon.status()["reports"]["taken"] >= taken + 50, 30,
                 lambda: f"50 reports: {daemon.status()}")
        assert not daemon.blocks(), daemon.blocks()
        assert not world.elements()
        assert victim.dig("www.open.test") == "NOERROR", victim.said
    world.write("egress.conf", rule(nfail=3, options="spoofable=count"))
    daemon.send(signal.SIGHUP)
    for attacker, victim in zip(attackers, victims):
        def blocked(attacker=attacker, victim=victim):
            flood(attacker, victim, 5)  # the first may still meet the old rules; the last no named
            return world.element(victim.address)
        wait_for(blocked, 30, "spoofable=count to count")
    named.stop()


def in_chroot(world, version):
    """-t and -u; egressd is started anew, and reached by a socket inside."""
    both = clients(world)
    daemon = world.daemon(rule(nfail=9))
    named = servers.Named(world, version, chroot=True)
    inside = f"{named.root}/run/egress"
    os.makedirs(inside)

    def count(client, number):
        wait_for(lambda: (daemon.row(client.address) or {"count": 0})["count"] == number, 30,
                 lambda: f"count {number}: {daemon.blocks()}")
    for number, client in enumerate(both, 1):
        client.dig("www.closed.test", tcp=True)
        count(client, 1)
    daemon.stop()
    for client in both:
        assert client.dig("www.closed.test", tcp=True) == "REFUSED", client.said
    sockets = world.write("sockets", f"{inside}/report.sock\n")
    daemon = world.daemon(rule(nfail=9), "-P", sockets)
    for client in both:
        client.dig("www.closed.test", tcp=True)
        count(client, 2)
    named.stop()


def restarted(world, version):
    """egressd comes later than named, goes in the middle and comes back."""
    both = clients(world)
    named = servers.Named(world, version)
    for number in range(1, 4):
        for client in both:
            assert client.dig("www.closed.test", tcp=True) == "REFUSED", client.said
        daemon = world.daemon(rule(nfail=9))
        for client in both:
            client.dig("www.closed.test", tcp=True)
            wait_for(lambda c=client: (daemon.row(c.address) or {"count": 0})["count"] == number, 30,
                     lambda: f"count {number}: {daemon.blocks()}")
        daemon.stop(signal.SIGKILL if number == 2 else signal.SIGTERM)
    named.stop()


def without_egressd(world, version):
    """Absent, stopped, or with a full queue: named answers, refuses and hangs up as before, and keeps
    no descriptor."""
    both = clients(world)
    masters = "".join(f"{client.address}; " for client in both[:1])
    named = servers.Named(world, version, masters=masters)
    before = named.descriptors()

    def same():
        for client in both:
            for tcp in (False, True):
                assert client.dig("www.closed.test", tcp=tcp) == "REFUSED", client.said
                assert client.dig("www.open.test", tcp=tcp) == "NOERROR", client.said
        assert both[0].rndc("status"), both[0].said
        assert not both[1].rndc("status")
        # Hung up on: an address that the channel does not allow, and who says nothing more.
        send_until_closed(both[1].connect(953), b"")
        message = question("www.closed.test")
        send_until_closed(both[0].connect(), struct.pack(">H", len(message)) + message)

    def storm(number=2500):
        for tcp in (False, True):
            process = both[0].dnsperf("www.closed.test", tcp=tcp, queries=number, rate=4000)
            assert process.wait(120) == 0
            with open(process.log_path) as log:
                text = log.read()
            assert f"REFUSED {number} " in text.replace("  ", " "), text
    same()
    storm()
    daemon = world.daemon(rule(nfail=1000000))
    storm()
    daemon.send(signal.SIGSTOP)
    same()
    storm()  # many more than the socket holds
    same()
    daemon.send(signal.SIGCONT)
    daemon.stop()
    same()
    # One more is the library's connection, which it keeps when egressd goes away.
    wait_for(lambda: named.descriptors() <= before + 1, 60,
             lambda: f"{before} descriptors or one more: {named.descriptors()}")
    named.stop()


def define():
    """A test per version, so that each can be run and fail by itself."""
    for version in servers.VERSIONS:
        short = version.replace("bind9-", "").rpartition(".")[0].replace(".", "_")
        proxy = [over_proxy] if "-9.20" in version else []
        for function in (queries, transfers, updates, signatures, cookies, over_tls, *proxy, control,
                         counted, replayed, attack, forged, in_chroot, restarted, without_egressd):
            globals()[f"test_{function.__name__}_{short}"] = (
                lambda world, f=function, v=version: f(world, v))


define()
built.prepare(*servers.VERSIONS)
harness.main(globals())
