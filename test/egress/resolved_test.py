"""systemd-resolved in front of a name server: programs ask its stub, or over AF_UNIX (nss-resolve).

The package is unpacked, not installed (test/egress/resolved).
"""

import os
import subprocess
import time

from guarded import Skip, guarded, harness
from resolver_test import LINES, MS_BIND, ZONE, Site, names, start

FRONT = "127.0.0.53"
UID = 64990
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
RUNTIME = "/run/systemd/resolve"


def unpacked():
    done = harness.run(os.path.join(harness.SOURCE, "test/egress/resolved"), "--cached", check=False)
    if done.returncode:
        raise Skip(done.stderr.strip())
    return done.stdout.strip()


def bind(world, path, text):
    name = os.path.basename(path)
    world.write(name, text)
    if harness.libc.mount(world.path(name).encode(), path.encode(), None, MS_BIND, None) != 0:
        raise harness.Failure(f"cannot mount {path}")


def become_known(world):
    """Its user, its directory, and a network on which it would ask anything at all."""
    for file, line in (("passwd", f"systemd-resolve:x:{UID}:{UID}::/:/usr/sbin/nologin\n"),
                       ("group", f"systemd-resolve:x:{UID}:\n")):
        with open("/etc/" + file) as old:
            bind(world, "/etc/" + file, old.read() + line)
    os.makedirs(RUNTIME, exist_ok=True)
    harness.mount("tmpfs", RUNTIME, f"mode=0755,uid={UID},gid={UID}")
    harness.mount("tmpfs", "/etc/systemd", "mode=0755")
    world.ip("link", "add", "away", "type", "veth", "peer", "name", "yonder")
    world.ip("address", "add", "192.0.2.1/24", "dev", "away")
    for device in ("away", "yonder"):
        world.ip("link", "set", device, "up")


def begin(site, root):
    """systemd-resolved itself, with the name server as its only one."""
    with open("/etc/systemd/resolved.conf", "w") as conf:
        conf.write(f"[Resolve]\nDNS={ZONE}\nFallbackDNS=\nDomains=~.\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n")
    log = open(site.world.path("servers.log"), "ab")
    environment = {"SYSTEMD_LOG_TARGET": "console"}
    site.guard.started.append(subprocess.Popen([root + "/lib/systemd/systemd-resolved"], env=environment, stdout=log,
                                               stderr=log, stdin=subprocess.DEVNULL, preexec_fn=site.guard.entry()))
    site.wait(FRONT)


def test_stub(world):
    root = unpacked()
    with guarded(world) as guard:
        site = Site(world, guard)
        become_known(world)
        site.resolv(FRONT)
        start(guard, LINES, f"grace 5s\nresolver {FRONT}\nresolver {ZONE}\n", resolvers=(FRONT, ZONE))
        begin(site, root)
        site.check_clients()
        time.sleep(7)  # from its cache, after the grants of TTL 0 and of the look-up have ended
        site.check_clients()
        assert names(guard)["hidden"] == [], names(guard)


def test_nss_module(world):
    """No hook reads what it answers over AF_UNIX; its own questions count."""
    root = unpacked()
    with guarded(world) as guard:
        site = Site(world, guard)
        become_known(world)
        site.resolv(FRONT)
        world.write("nsswitch", "hosts: resolve\n")
        module = root + LIBRARIES + "/libnss_resolve.so.2"
        start(guard, LINES, f"grace 60s\nresolver {ZONE}\n", resolvers=(ZONE,))
        begin(site, root)

        def fetched(host):
            done = guard.run("env", f"LD_PRELOAD={module}", "curl", "-sS", "-m", "10", f"http://{host}:8080/page")
            return done.stdout.strip() or done.returncode

        assert fetched("x.wild.example") == "hello", (fetched("x.wild.example"), site.log())
        assert fetched("zero.example") == "hello"
        assert fetched("other.example") == 7, "resolved, and refused"
        assert fetched("no.example") == 6, "no such name"


if __name__ == "__main__":
    harness.main(globals())
