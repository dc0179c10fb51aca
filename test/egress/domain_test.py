"""What egressd says of names: the key `domain` of events, explain, status.

A resolver of the test's own answers; the rules and [dns] are real.
"""

import json
import os
import signal
import sys

from guarded import guarded, harness
from harness import wait_for
from names_test import CLIENT, RESOLVER, Resolver

DNS = f"[dns]\nresolver {RESOLVER}\ngrace 2s\n"


def begin(guard, lines, dns=DNS):
    """egressd with these lines of [egress] behind one that lets questions out, and a resolver."""
    guard.conf = (f"[local]\n2222 stream tcp * * 3 1h\n[egress]\n{RESOLVER}:domain * * * * allow\n{lines}\n"
                  f"* * * * * deny\n{dns}")
    guard.start_with(guard.conf)
    return Resolver(RESOLVER)


def client(guard, code):
    return guard.run(sys.executable, "-c", CLIENT + code, check=True).stdout.strip()


def event_of(guard, address):
    wait_for(lambda: guard.events(addr=address), 20, f"an event of {address}")
    return guard.events(addr=address)[-1]


def test_events_carry_the_name_that_was_asked_for(world):
    os.makedirs(world.path("egress.d"), exist_ok=True)
    world.write("egress.d/many", "listed.example\n*.wild.example\n")
    lines = """good.example * * * * allow log
**.deep.example * * * * deny
@many * * * * allow log
internet:443 * * * * allow log,resolved
203.0.113.77 * * * * allow log"""
    with guarded(world) as guard:
        resolver = begin(guard, lines)
        told = {"good.example": "203.0.113.1", "a.b.deep.example": "203.0.113.2", "listed.example": "203.0.113.3",
                "x.wild.example": "203.0.113.4", "some.where.example": "1.2.3.4"}
        for name, address in told.items():
            resolver.says(name, address)
        client(guard, "for name in ('GOOD.example', 'a.B.Deep.Example', 'listed.example', 'x.wild.example',"
               "'some.where.example'): ask(name)\n"
               "for i in (1, 2, 3, 4, 9, 77): goes(f'203.0.113.{i}')\ngoes('1.2.3.4', 443)")
        for name, address in told.items():
            assert event_of(guard, address).get("domain") == name, event_of(guard, address)
        assert event_of(guard, "203.0.113.2")["action"] == "BLOCKED"
        for address in ("203.0.113.9", "203.0.113.77"):  # by no name, and by no name in spite of the answers
            assert "domain" not in event_of(guard, address), event_of(guard, address)


def test_a_repeat_has_the_name_too(world):
    """The event that counts repeats comes from elsewhere in the kernel side."""
    with guarded(world) as guard:
        resolver = begin(guard, "*.example * * * * deny")
        resolver.says("some.example", "203.0.113.1")
        client(guard, "ask('some.example')\nfor _ in range(5): goes('203.0.113.1')")
        wait_for(lambda: sum(one["count"] for one in guard.events(addr="203.0.113.1")) == 5, 40, "all of them")
        assert {one.get("domain") for one in guard.events(addr="203.0.113.1")} == {"some.example"}


def test_hostile_names(world):
    """Any byte may be in a label; nothing but letters, digits, '-' and '_' leaves egressd as it is."""
    with guarded(world) as guard:
        resolver = begin(guard, "**.example * * * * allow log")
        resolver.says("a\x1b[2j\"\\ .example", "203.0.113.1")
        client(guard, "ask('a\\x1b[2J\"\\\\ .example')\ngoes('203.0.113.1')")
        event = event_of(guard, "203.0.113.1")
        assert event["domain"] == "a\\027\\[2j\\\"\\\\\\032.example", event
        assert "\x1b" not in guard.daemon.log()


def test_the_names_of_a_daemon_that_was_killed(world):
    """The next one takes what the kernel side told meanwhile; what is lost costs only its text."""
    with guarded(world) as guard:
        lines = "*.example * * * * allow log\nknown.test * * * * allow log"
        dns = DNS.replace("2s", "5m")
        resolver = begin(guard, lines, dns)
        resolver.says("before.example", "203.0.113.1")
        resolver.says("known.test", "203.0.113.2")
        resolver.says("between.example", "203.0.113.3")
        client(guard, "ask('known.test')\nask('before.example')\ngoes('203.0.113.1')")
        assert event_of(guard, "203.0.113.1")["domain"] == "before.example"
        guard.daemon.stop(signal.SIGKILL)
        client(guard, "ask('between.example')")
        guard.start_with(guard.conf)
        client(guard, "for i in (1, 2, 3): goes(f'203.0.113.{i}')")
        assert "domain" not in event_of(guard, "203.0.113.1"), event_of(guard, "203.0.113.1")
        assert event_of(guard, "203.0.113.2").get("domain") == "known.test", "the line has it"
        assert event_of(guard, "203.0.113.3").get("domain") == "between.example", "it was told meanwhile"


def explained(world, destination, *options):
    return json.loads(world.ctl("explain", "--json", "--exe", sys.executable, *options, destination).stdout)


def test_explain_an_address_by_its_names(world):
    lines = "one.example * * * * allow\n*.example:https * * * * allow\ninternet:8443 * * * * allow resolved"
    with guarded(world) as guard:
        resolver = begin(guard, lines, DNS.replace("2s", "5m"))
        resolver.says("One.example".lower(), "203.0.113.1")
        resolver.says("two.example", "203.0.113.2")
        resolver.says("some.test", "1.2.3.4")
        client(guard, "ask('one.example')\nask('Two.example')\nask('some.test')")
        one = explained(world, "203.0.113.1")
        assert one["by"]["asked"] == one["by"]["name"] == "one.example" and 200 < one["by"]["left"] <= 300, one
        assert {name["name"] for name in one["names"] if "name" in name} == {"one.example", "*.example"}, one
        two = explained(world, "203.0.113.2:443")
        assert (two["by"]["name"], two["by"]["asked"]) == ("*.example", "two.example") and two["action"] == "ALLOWED"
        other = explained(world, "1.2.3.4:8443")
        assert "name" not in other["by"] and other["by"]["asked"] == "some.test", other
        never = explained(world, "203.0.113.2:80")
        assert never["action"] == "BLOCKED" and "by" not in never, never
        assert {name["asked"] for name in never["names"]} == {"two.example"}, never
        text = world.ctl("explain", "--exe", sys.executable, "203.0.113.2:443").stdout
        assert "by name   two.example by *.example, " in text, text


def test_explain_a_name(world):
    """What is granted for the name now, not for others of its pattern; else why nothing is."""
    lines = "one.example:http * * * * allow\n*.example:https * * * * allow\n"
    with guarded(world) as guard:
        resolver = begin(guard, lines, DNS.replace("2s", "5m"))
        for name, addresses in {"one.example": ("203.0.113.1", "203.0.113.3"), "two.example": ("203.0.113.2",)}.items():
            resolver.says(name, *addresses)
        client(guard, "ask('one.example')\nask('two.example')")
        one = explained(world, "ONE.example.:443")
        assert [each["addr"] for each in one["addresses"]] == ["203.0.113.1", "203.0.113.3"], one
        assert {each["by"]["name"] for each in one["addresses"]} == {"*.example"} and "advice" not in one, one
        assert [line["text"].split()[0] for line in one["lines"]] == ["one.example:80", "*.example:443"], one
        two = explained(world, "two.example:80")
        assert [(each["addr"], each["action"]) for each in two["addresses"]] == [("203.0.113.2", "BLOCKED")], two
        three = explained(world, "three.example:443")
        assert not three["addresses"] and RESOLVER in three["advice"] and len(three["lines"]) == 1, three
        assert "no line has the name" in explained(world, "other.test")["advice"]
        text = world.ctl("explain", "--exe", sys.executable, "two.example:443").stdout
        assert text.startswith("two.example at 203.0.113.2 ALLOWED: ") and "by name   two.example by *.example" in text
        for wrong in ("*.example", "one..example", "one.example:99999", "one.example/24"):
            done = world.ctl("explain", "--exe", sys.executable, wrong)
            assert done.returncode == 2 and any(part in done.stderr for part in wrong.split(":")), done


def test_explain_without_a_resolver(world):
    with guarded(world) as guard:
        world.write("nothing", "search example\n")
        harness.libc.mount(world.path("nothing").encode(), b"/etc/resolv.conf", None, 4096, None)  # MS_BIND
        guard.start("one.example * * * * allow\n* * * * * deny")
        assert "no resolver is approved" in explained(world, "one.example")["advice"]


def test_what_is_said_of_answers(world):
    """status, metrics, selftest and -n: what became of answers, and what keeps them from the hooks."""
    with guarded(world) as guard:
        world.write("resolv.conf", f"nameserver {RESOLVER}\n")
        harness.libc.mount(world.path("resolv.conf").encode(), b"/etc/resolv.conf", None, 4096, None)  # MS_BIND
        resolver = begin(guard, "*.example * * * * allow", DNS.replace("2s", "5m"))
        resolver.says("one.example", "203.0.113.1", "203.0.113.2", "10.0.0.1")
        client(guard, "ask('one.example')")
        dns = guard.status()["dns"]
        assert (dns["resolvers"], dns["from"], dns["grace"]) == ([RESOLVER], "[dns]", 300), dns
        assert (dns["grants"], dns["outcomes"]["private"], dns["outcomes"]["late"]) == (2, 1, 0), dns
        assert dns["hidden"] == [] and dns["grants_max"] > 100000, dns
        text = world.ctl("status").stdout
        assert "1 asked, 2 granted, 1 private, 1 read" in text and "late" not in text, text
        assert f"resolvers   {RESOLVER} (of [dns])" in text and "2 of 114688 grants in use, grace 5m" in text, text
        assert " late" in world.ctl("status", "-v").stdout and "NOT READ" not in text, text
        metrics = world.ctl("metrics").stdout
        assert 'egress_dns_total{kind="granted"} 2' in metrics and "egress_dns_grants 2" in metrics, metrics
        world.write("resolv.conf", "nameserver 192.0.2.53\n")
        world.ctl("reload")
        wait_for(lambda: guard.status()["dns"]["hidden"], 30, "the resolver to be missed")
        assert "/etc/resolv.conf has 192.0.2.53" in guard.status()["dns"]["hidden"][0]["what"]
        assert "NOT READ      programs ask resolvers that are not approved" in world.ctl("status").stdout
        assert "egress_dns_hidden 1" in world.ctl("metrics").stdout
        told = guard.run(harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "selftest").stdout
        assert "not covered   -            answers of resolvers (programs ask resolvers that" in told, told
        checked = harness.run(harness.artefact("daemon/egressd"), "-n", "-c", world.path("egress.conf"))
        assert "programs ask resolvers that are not approved" in checked.stderr, checked
        assert "programs ask resolvers that are not approved" in guard.daemon.log()


def test_no_line_needs_answers(world):
    with guarded(world) as guard:
        guard.start("* * * * * allow")
        assert guard.status()["dns"] is None and "egress_dns" not in world.ctl("metrics").stdout
        assert "grants" not in world.ctl("status", "-v").stdout


if __name__ == "__main__":
    harness.main(globals())
