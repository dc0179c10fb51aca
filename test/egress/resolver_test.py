"""Destinations by name with resolvers of Debian and the clients that people use.

egressd runs inside the cgroup that it guards, as it does where it is installed, so that its own
look-ups are judged and read.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from guarded import guarded, harness
from harness import Skip, wait_for
from names_test import CLIENT, Resolver

OWN = "127.0.0.53"
FRONT = "127.0.0.1"  # a caching resolver on this host
ZONE = "127.0.0.2"   # who it asks
MS_BIND = 4096


def inside(guard):
    """How egressd is started so that it is inside the cgroup."""
    return ["sh", "-c", f"echo 0 > {guard.cgroup}/cgroup.procs; exec \"$@\"", "sh"]


def start(guard, lines, dns, resolvers=(OWN,)):
    asks = "".join(f"{each}:domain * * * * allow\n" for each in resolvers)
    guard.conf = f"[local]\n2222 stream tcp * * 3 1h\n[egress]\n{asks}{lines}\n* * * * * deny\n[dns]\n{dns}"
    guard.start_with(guard.conf, wrapper=inside(guard))


def names(guard):
    return guard.status()["dns"]


def looked_up(guard):
    found = names(guard)["lookups"]
    return found["answered"] + found["silent"] + found["refused"] == found["names"] and found


def goes(guard, *addresses):
    code = f"\nprint(json.dumps([goes(each) for each in {list(addresses)!r}]))"
    return json.loads(guard.run(sys.executable, "-c", "import json" + CLIENT + code, check=True).stdout)


def test_names_are_looked_up_at_start_and_reload(world):
    """Before any program asks, A and AAAA, over TCP where it must be; none of a list, no pattern."""
    os.makedirs(world.path("egress.d"), exist_ok=True)
    world.write("egress.d/many", "listed.example\n")
    with guarded(world) as guard:
        resolver = Resolver(OWN)
        for name, addresses in {"one.example": ["203.0.113.1", "2001:db8:1::1"], "two.example": ["203.0.113.2"],
                                "listed.example": ["203.0.113.3"], "some.wild.example": ["203.0.113.4"],
                                "later.example": ["203.0.113.5"]}.items():
            resolver.says(name, *addresses)
        lines = "one.example * * * * allow\n@many * * * * allow\n*.wild.example * * * * allow\ntwo.example * * * * allow"
        start(guard, lines, f"resolver {OWN}\ngrace 5m\n")
        done = wait_for(lambda: looked_up(guard), 30, lambda: f"the look-up: {names(guard)}\n{guard.daemon.log()}")
        assert done == {"names": 2, "answered": 2, "silent": 0, "refused": 0}, done
        assert goes(guard, "203.0.113.1", "2001:db8:1::1", "203.0.113.2") == [True, True, True], names(guard)
        assert goes(guard, "203.0.113.3", "203.0.113.4", "203.0.113.5") == [False, False, False]
        assert "looked up   2 names, 2 answered" in world.ctl("status").stdout
        world.write("egress.conf", guard.conf.replace("two.example", "later.example"))
        assert world.ctl("reload", "--force").returncode == 0
        wait_for(lambda: goes(guard, "203.0.113.5") == [True], 30, lambda: f"the reload's look-up: {names(guard)}")


def test_lines_refuse_the_questions(world):
    """egressd's own are judged like all: refused, they are not asked again, and the log says it."""
    with guarded(world) as guard:
        resolver = Resolver(OWN)
        start(guard, "one.example * * * * allow", f"resolver {OWN}\n", resolvers=())
        done = wait_for(lambda: looked_up(guard), 30, "the look-up")
        assert done["refused"] == 1 and resolver, done
        wait_for(lambda: "no line lets egressd ask for 1" in guard.daemon.log(), 10, "a warning")
        assert "1 refused by lines" in world.ctl("status").stdout


def test_a_resolver_that_is_silent_is_asked_again(world):
    """At boot egressd is there before the network is."""
    with guarded(world) as guard:
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind((OWN, 53))
        start(guard, "one.example * * * * allow", f"resolver {OWN}\ngrace 5m\n")
        wait_for(lambda: names(guard)["lookups"]["silent"], 40, lambda: f"the first look-up: {names(guard)}")
        silent.close()
        resolver = Resolver(OWN)
        resolver.says("one.example", "203.0.113.1")
        wait_for(lambda: names(guard)["lookups"]["answered"], 60, "the next one")
        assert goes(guard, "203.0.113.1") == [True]


def short_grant(guard, refresh):
    """A TTL of 0 and a grace of 20 seconds."""
    resolver = Resolver(OWN)
    resolver.says("one.example", "203.0.113.1")
    start(guard, "one.example * * * * allow", f"resolver {OWN}\ngrace 20s\nrefresh {refresh}\n")
    wait_for(lambda: looked_up(guard), 30, "the look-up")
    assert goes(guard, "203.0.113.1") == [True]
    return resolver


def test_without_refresh_a_grant_ends(world):
    with guarded(world) as guard:
        resolver = short_grant(guard, "no")
        assert resolver
        wait_for(lambda: names(guard)["grants"] == 0, 60, "the grant to end")
        assert goes(guard, "203.0.113.1") == [False]


def test_with_refresh_a_grant_goes_on(world):
    with guarded(world) as guard:
        resolver = short_grant(guard, "yes")
        assert resolver
        for _ in range(12):  # 36 seconds: it would have ended
            assert names(guard)["grants"] == 1, names(guard)
            time.sleep(3)
        assert goes(guard, "203.0.113.1") == [True]
        assert names(guard)["outcomes"]["asked"] > 2, names(guard)


ZONE_TEXT = """$TTL 300
@ SOA ns.example. root.example. 1 3600 600 86400 1
@ NS ns.example.
ns A 127.0.0.2
plain A 203.0.113.1
plain AAAA 2001:db8:1::1
zero 0 A 203.0.113.2
chain 0 CNAME c1.example.
c1 CNAME c2.example.
c2 A 203.0.113.3
x.wild A 203.0.113.4
other A 203.0.113.5
"""
LINES = """plain.example * * * * allow
zero.example * * * * allow
chain.example * * * * allow
*.wild.example * * * * allow"""


class Site:
    """A name server (bind9) for the zone, servers at its addresses, and the files that libc goes by."""

    def __init__(self, world, guard):
        self.world, self.guard = world, guard
        for address in [f"203.0.113.{i}/32" for i in range(1, 6)] + ["2001:db8:1::1/128", ZONE + "/32"]:
            harness.run("ip", "address", "add", address, "dev", "lo")
        world.write("zone", ZONE_TEXT)
        world.write("named.conf", f"""options {{ directory "{world.path('')}"; listen-on {{ {ZONE}; }}; listen-on-v6 {{ none; }};
  pid-file none; session-keyfile none; recursion no; dnssec-validation no; minimal-responses yes; }};
controls {{ }};
zone "example" {{ type primary; file "{world.path('zone')}"; }};
""")
        self.run("named", "-g", "-n", "1", "-c", world.path("named.conf"))
        self.wait(ZONE)
        world.write("page", "hello\n")
        self.run(sys.executable, "-m", "http.server", "8080", "--bind", "::", "--directory", world.path(""))
        wait_for(lambda: harness.run("curl", "-sS", "http://203.0.113.5:8080/page", check=False).returncode == 0, 20,
                 lambda: f"the server: {self.log()}")
        world.write("nsswitch", "hosts: files dns\n")
        harness.libc.mount(world.path("nsswitch").encode(), b"/etc/nsswitch.conf", None, MS_BIND, None)
        self.resolv("")
        harness.libc.mount(world.path("resolv.conf").encode(), b"/etc/resolv.conf", None, MS_BIND, None)

    def resolv(self, *addresses):
        self.world.write("resolv.conf", "".join(f"nameserver {each}\n" for each in addresses if each))

    def run(self, program, *options, cgroup=False):
        """A server, inside the cgroup or beside it."""
        if not shutil.which(program):
            raise Skip(f"no {program}; test/deps installs it")
        log = open(self.world.path("servers.log"), "ab")
        self.guard.started.append(subprocess.Popen([program, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                                   preexec_fn=self.guard.entry() if cgroup else None))
        return self.guard.started[-1]

    def log(self):
        with open(self.world.path("servers.log")) as file:
            return file.read()[-2000:]

    def wait(self, address):
        wait_for(lambda: harness.run("dig", "+short", "+tries=1", "+time=1", f"@{address}", "plain.example",
                                     check=False).stdout.strip() == "203.0.113.1", 30,
                 lambda: f"{address} to answer: {self.log()}")

    def dnsmasq(self):
        self.run("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
                 "--pid-file=", f"--server={ZONE}", f"--listen-address={FRONT}", "--bind-interfaces", "--port=53",
                 cgroup=True)

    def unbound(self):
        """Asks in mixed case (0x20)."""
        path = self.world.write("unbound.conf", f"""server:
  interface: {FRONT}
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{self.world.path('')}"
  module-config: "iterator"
  use-caps-for-id: yes
  do-not-query-localhost: no
  local-zone: "example." nodefault
stub-zone:
  name: "example."
  stub-addr: {ZONE}
""")
        self.run("unbound", "-d", "-c", path, cgroup=True)

    def fetch(self, host, *options):
        """What curl got, or its exit status."""
        done = self.guard.run("curl", "-sS", "-m", "10", *options, f"http://{host}:8080/page")
        return done.stdout.strip() or done.returncode

    def check_clients(self):
        """Allowed names go, by every client; what no line names and literal addresses do not."""
        for name in ("plain.example", "zero.example", "ZERO.Example", "chain.example", "x.wild.example"):
            assert self.fetch(name) == "hello", (name, self.fetch(name), self.log(), self.guard.status()["dns"])
        assert self.fetch("plain.example", "-6") == "hello"
        assert self.fetch("other.example") == 7, "no line has the name"
        assert self.fetch("203.0.113.5") == 7, "nor the address"
        for _ in range(20):  # TTL 0: each time anew, in the next instruction
            assert self.fetch("zero.example", "-4") == "hello"
        found = self.guard.run("getent", "ahosts", "chain.example", check=True).stdout
        assert "203.0.113.3" in found, found
        page = """import urllib.request
print(urllib.request.urlopen("http://chain.example:8080/page", timeout=10).read().decode().strip())"""
        assert self.guard.run(sys.executable, "-c", page, check=True).stdout.strip() == "hello"
        assert self.guard.run(sys.executable, "-c", page.replace("chain", "other")).returncode != 0


def test_a_name_server(world):
    with guarded(world) as guard:
        site = Site(world, guard)
        site.resolv(ZONE)
        start(guard, LINES, "grace 5s\n", resolvers=(ZONE,))
        wait_for(lambda: looked_up(guard), 30, "the look-up")
        assert (names(guard)["resolvers"], names(guard)["from"]) == ([ZONE], "/etc/resolv.conf")
        assert names(guard)["hidden"] == [], names(guard)
        site.check_clients()


def through(world, begin):
    """A caching resolver of this host in front of the name server; clients ask the one, it the other."""
    with guarded(world) as guard:
        site = Site(world, guard)
        site.resolv(FRONT)
        start(guard, LINES, f"grace 5s\nresolver {FRONT}\nresolver {ZONE}\n", resolvers=(FRONT, ZONE))
        begin(site)
        site.wait(FRONT)
        site.check_clients()
        time.sleep(7)  # from its cache, after the grants of TTL 0 and of the look-up have ended
        site.check_clients()


def test_through_dnsmasq(world):
    through(world, Site.dnsmasq)


def test_through_unbound(world):
    through(world, Site.unbound)


def test_through_nscd(world):
    """Programs ask it over AF_UNIX, where no hook reads; its own questions count, and status names it."""
    with guarded(world) as guard:
        site = Site(world, guard)
        site.resolv(ZONE)
        start(guard, LINES, "grace 60s\n", resolvers=(ZONE,))
        world.write("nscd.conf", "enable-cache hosts yes\nenable-cache passwd no\nenable-cache group no\n"
                                 "enable-cache services no\nenable-cache netgroup no\n")
        os.makedirs("/run/nscd", exist_ok=True)
        site.run("nscd", "-F", "-f", world.path("nscd.conf"), cgroup=True)
        wait_for(lambda: os.path.exists("/run/nscd/socket"), 20, lambda: f"nscd: {site.log()}")
        assert site.fetch("x.wild.example") == "hello", site.log()  # no name that egressd itself has looked up
        assert site.fetch("other.example") == 7
        wait_for(lambda: "nscd" in json.dumps(names(guard)["hidden"]), 30, lambda: f"to be named: {names(guard)}")


def test_resolv_conf_changes(world):
    with guarded(world) as guard:
        site = Site(world, guard)
        site.resolv("192.0.2.53")
        start(guard, LINES + f"\n{FRONT}:domain * * * * allow", "grace 5s\n", resolvers=(ZONE,))
        assert names(guard)["resolvers"] == ["192.0.2.53"]
        site.dnsmasq()
        site.wait(FRONT)
        site.resolv(FRONT)
        wait_for(lambda: names(guard)["resolvers"] == [FRONT], 20, lambda: f"it to be noticed: {names(guard)}")
        assert site.fetch("x.wild.example") == "hello"
        wait_for(lambda: names(guard)["lookups"]["answered"] == 3, 30, "its names to be looked up there")


def test_reload_and_kill_while_grants_live(world):
    """Grants are the kernel's: neither a reload nor kill -9 nor a restart takes one away."""
    with guarded(world) as guard:
        site = Site(world, guard)
        site.resolv(ZONE)
        start(guard, LINES, "grace 5m\n", resolvers=(ZONE,))
        guard.run("getent", "ahosts", "x.wild.example", check=True)
        site.resolv("")  # from here on nobody can ask
        assert site.fetch("203.0.113.4") == "hello"
        world.write("egress.conf", guard.conf.replace("zero.example", "zero2.example"))
        assert world.ctl("reload", "--force").returncode == 0
        assert site.fetch("203.0.113.4") == "hello", "after a reload"
        guard.daemon.stop(signal.SIGKILL)
        assert site.fetch("203.0.113.4") == "hello", "without a daemon"
        assert site.fetch("203.0.113.5") == 7
        guard.start_with(guard.conf, wrapper=inside(guard))
        assert site.fetch("203.0.113.4") == "hello", "after a restart"
        explained = json.loads(world.ctl("explain", "--json", "--exe", sys.executable, "203.0.113.4:8080").stdout)
        assert explained["action"] == "ALLOWED" and explained["by"]["name"] == "*.wild.example", explained


if __name__ == "__main__":
    harness.main(globals())
