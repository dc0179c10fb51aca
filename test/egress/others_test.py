"""[dns] "others": resolvers that are not approved, which names and questions say nothing of."""

import json
import sys

from guarded import guarded, harness, wait_for

RULES = """[dns]
resolver 127.0.0.53
resolver 127.0.0.54:5353
resolver [::1]
others refuse
[egress]
127.0.0.7:domain * * * * allow
127.0.0.8 * * * * allow
127.0.0.9 * * * * deny
* * * * * allow
"""

CLIENT = """
import errno, os, socket
def goes(address, port=53, kind=socket.SOCK_DGRAM, way="connect"):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as s:
        try:
            if way == "connect":
                s.connect((address, port))
                if kind == socket.SOCK_DGRAM:  # what connects without sending is not judged
                    s.send(b"hello")
            elif way == "send":
                s.sendto(b"hello", (address, port))
            elif way == "again":
                s.connect((address, 9))
                s.connect((address, port))
                s.send(b"hello")
            elif way == "elsewhere":
                s.connect(("::1" if ":" in address else "127.0.0.53", 53))
                s.sendto(b"hello", (address, port))
        except OSError as error:
            assert error.errno in (errno.EPERM, errno.ECONNREFUSED), error
            return error.errno == errno.ECONNREFUSED
        return True
"""


def tells(guard, expression):
    return eval(guard.run(sys.executable, "-c", CLIENT + f"\nprint(repr({expression}))", check=True).stdout)


def table(guard, port=53, kind="socket.SOCK_DGRAM", way="connect"):
    """Which of these may be reached so."""
    addresses = [f"127.0.0.{last}" for last in (7, 8, 9, 53, 54, 77)] + ["::1"]
    return tells(guard, f"[each for each in {addresses!r} if goes(each, {port}, {kind}, {way!r})]")


def test_refuse(world):
    with guarded(world) as guard:
        guard.start_with(RULES)
        for way in ("connect", "send", "again", "elsewhere"):
            found = table(guard, way=way)
            assert found == ["127.0.0.7", "127.0.0.53", "::1"], (way, found)
        assert table(guard, kind="socket.SOCK_STREAM") == ["127.0.0.7", "127.0.0.53", "::1"]
        assert table(guard, 853, "socket.SOCK_STREAM") == ["127.0.0.53", "::1"], "the ports of a line are for it alone"
        assert len(table(guard, 5353)) == 6 and "127.0.0.77" in table(guard, 443), "other ports are no matter of it"
        event = guard.event(addr="127.0.0.8")
        assert (event["action"], event["port"], event["reason"]) == ("BLOCKED", 53, "a resolver that is not approved")
        assert "rule" not in event, event
        wait_for(lambda: "warning: {" in guard.daemon.log(), 10, "the alarm")


def test_mapped_address(world):
    """IPv4 through a socket of IPv6."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        found = tells(guard, "[goes('::ffff:127.0.0.77'), goes('::ffff:127.0.0.53')]")
        assert found == [False, True], found


def test_alarm_and_allow(world):
    with guarded(world) as guard:
        guard.start_with(RULES.replace("others refuse", "others alarm"))
        assert "127.0.0.77" in table(guard)
        event = guard.event(addr="127.0.0.77")
        assert (event["action"], event["reason"]) == ("ALLOWED", "a resolver that is not approved"), event
        wait_for(lambda: "warning: {" in guard.daemon.log(), 10, "the alarm")
        seen = len(guard.events(addr="127.0.0.8"))
        for words in ("others allow", ""):
            with open(guard.daemon.conf, "w") as conf:
                conf.write(RULES.replace("others refuse", words))
            guard.world.ctl("reload", "--force", check=True)
            assert "127.0.0.8" in table(guard)
        assert len(guard.events(addr="127.0.0.8")) == seen, guard.events(addr="127.0.0.8")


def test_monitor(world):
    with guarded(world) as guard:
        guard.start_with(RULES, "-m")
        assert "127.0.0.77" in table(guard)
        assert guard.event(addr="127.0.0.77")["action"] == "MONITOR"


def test_explain(world):
    def explained(destination):
        return world.ctl("explain", "--exe", sys.executable, destination).stdout.splitlines()[0]

    with guarded(world) as guard:
        guard.start_with(RULES)
        assert explained("127.0.0.77:53").startswith('BLOCKED: by "others refuse" of [dns]'), explained("127.0.0.77:53")
        assert "named by" in explained("127.0.0.77:853")
        assert explained("127.0.0.77:443").startswith("ALLOWED: /"), explained("127.0.0.77:443")
        for allowed in ("127.0.0.53:53", "127.0.0.53:853", "127.0.0.7:53", "127.0.0.54:5353"):
            assert explained(allowed).startswith("ALLOWED: /"), explained(allowed)
        answer = json.loads(world.ctl("explain", "--json", "--exe", sys.executable, "127.0.0.77:53").stdout)
        assert (answer["action"], answer["others"]) == ("BLOCKED", "refuse"), answer


def test_over_tls(world):
    """Questions that cannot be read, to a resolver that is approved, where only listed ones may leave."""
    lines = RULES.replace("others refuse", "queries listed").replace("127.0.0.8 ", "[::1]:853 ", 1)
    with guarded(world) as guard:
        guard.start_with(lines)
        for kind in ("socket.SOCK_STREAM", "socket.SOCK_DGRAM"):
            found = table(guard, 853, kind)
            assert found == ["127.0.0.7", "127.0.0.8", "127.0.0.54", "127.0.0.77", "::1"], (kind, found)
        assert tells(guard, "goes('::ffff:127.0.0.53', 853)") is False
        event = guard.event(addr="127.0.0.53")
        assert (event["action"], event["port"]) == ("BLOCKED", 853) and "over TLS" in event["reason"], event
        wait_for(lambda: "warning: {" in guard.daemon.log(), 10, "the alarm")
        said = world.ctl("explain", "--exe", sys.executable, "127.0.0.53:853").stdout
        assert said.startswith('BLOCKED: by "queries listed" of [dns]'), said
        assert world.ctl("explain", "--exe", sys.executable, "[::1]:853").stdout.startswith("ALLOWED: /")
        with open(guard.daemon.conf, "w") as conf:
            conf.write(lines.replace("queries listed", "others refuse"))
        world.ctl("reload", "--force", check=True)
        assert table(guard, 853) == ["127.0.0.53", "::1"]


def test_runs(world):
    """What a run's rules allow, the host's decide; root's run decides alone."""
    code = CLIENT + "\nprint(goes('127.0.0.77'), goes('127.0.0.53'))"
    with guarded(world) as guard:
        guard.start_with(RULES)
        run = guard.run(harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "run", "--allow", "127.0.0.0/8",
                        "--", sys.executable, "-c", code, check=True)
        assert run.stdout == "True True\n", run


if __name__ == "__main__":
    harness.main(globals())
