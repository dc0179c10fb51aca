#!/usr/bin/env python3
"""The same client behind lines of [egress] by name, and behind dnsmasq with a set of nftables.

usage: names_beside.py         EGRESS_TEST_BUILD: the build directory; ROUNDS: names a part (2000)

Root. Everything runs in namespaces, a cgroup and a bpf file system of its own. In each round a client asks
dnsmasq for a name that it has not asked for before, and connects to the address in its next instruction.
Once dnsmasq (--nftset) puts each answer's addresses into a set, and nftables lets that client's user connect to
those; once egressd's hooks read the answers. Then what goes wrong afterwards is tried: the firewall is
reloaded and the name asked for again, another user connects, the TTL ends. Prints, judges nothing.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time

from hook_cost import harness, two_cgroups

UPSTREAM, FRONT, PORT, USER, OTHER = "127.0.0.2", "127.0.0.53", 9999, 1000, 1001
ROUNDS = int(os.environ.get("ROUNDS", "2000"))
CONF = f"""[local]
2222 stream tcp * * 3 1h
[dns]
resolver {FRONT}
grace 1s
[egress]
{FRONT}:domain * * {USER} * allow
{FRONT}:domain * * {OTHER} * allow
**.beside.example:{PORT} stream tcp {USER} * allow rebind=allow
* * * {USER} * deny quiet
* * * {OTHER} * deny quiet
* * * * * allow
"""
NFT = f"""table inet beside {{
  set granted {{ type ipv4_addr; }}
  chain out {{
    type filter hook output priority 0; policy accept;
    ip daddr {FRONT} accept
    meta skuid {USER} tcp dport {PORT} ip daddr @granted accept
    meta skuid {{ {USER}, {OTHER} }} ct state new reject with icmp type admin-prohibited
  }}
}}
"""
CLIENT = """
import json, os, socket, struct, sys, time
user, ttl, first, rounds, port, server = *map(int, sys.argv[1:6]), sys.argv[6]
os.setresgid(user, user, user)
os.setresuid(user, user, user)
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(5)
asker.connect((server, 53))
took, wrong = [], 0
for number in range(first, first + rounds):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in (f"n{number}", f"ttl{ttl}", "beside", "example"))
    text = struct.pack("!6H", number & 65535, 0x0100, 1, 0, 0, 0) + labels + bytes(1) + struct.pack("!2H", 1, 1)
    begun = time.perf_counter()
    asker.send(text)
    answer = asker.recv(4096)
    stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        stream.connect((socket.inet_ntoa(answer[-4:]), port))
        took.append(time.perf_counter() - begun)
    except OSError:
        wrong += 1
    stream.close()
took.sort()
print(json.dumps({"went": len(took), "refused": wrong, "took": [round(took[int(len(took) * at)] * 1e6) for at in (.5, .99)]
                  if took else None}))
"""


def serve():
    """The name server, which gives each name an address of its own, and the server at all of them."""
    if os.fork() == 0:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((UPSTREAM, 53))
        while True:
            text, peer = one.recvfrom(4096)
            number, ttl = int(text[14:13 + text[12]]), int(text[13 + text[12] + 4:13 + text[12] + 1 + text[13 + text[12]]])
            record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, ttl, 4) + bytes([10, 66, number >> 8 & 255, number & 255])
            end = text.index(b"\0", 12) + 5
            one.sendto(text[:2] + b"\x81\x80" + struct.pack("!4H", 1, 1, 0, 0) + text[12:end] + record, peer)
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", PORT))
    server.listen(1024)
    if os.fork() == 0:
        while True:
            server.accept()[0].close()


def dnsmasq(guard, *options):
    guard.started.append(subprocess.Popen(
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
         f"--server={UPSTREAM}", f"--listen-address={FRONT}", "--bind-interfaces", "--cache-size=10000", *options],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    harness.wait_for(lambda: harness.run("dig", "+short", "+tries=1", "+time=1", f"@{FRONT}", "n9999.ttl60.beside.example",
                                         check=False).stdout.strip(), 20, "dnsmasq to answer")


def client(run, user, ttl, first, rounds):
    done = run(sys.executable, "-c", CLIENT, str(user), str(ttl), str(first), str(rounds), str(PORT), FRONT)
    return json.loads(done.stdout)


def part(title, run, reload):
    for ttl in (0, 1, 300):
        got = client(run, USER, ttl, 1, ROUNDS)
        print(f"{title:24} TTL {ttl:3}: {ROUNDS} new names: {got['refused']} refused wrongly; asked to connected"
              f" p50 {got['took'][0]} us, p99 {got['took'][1]} us", flush=True)
    client(run, USER, 300, 5000, 1)
    reload()
    again = client(run, USER, 300, 5000, 1)
    print(f"{title:24} asked for again after a reload, from the resolver's cache: "
          f"{'goes' if again['went'] else 'REFUSED WRONGLY'}", flush=True)
    stolen = client(run, OTHER, 300, 5001, 1)
    print(f"{title:24} another user, whom no line allows: {'GOES' if stolen['went'] else 'refused'}", flush=True)


def literal(run, address):
    code = f"""
import os, socket
os.setresuid({USER}, {USER}, {USER})
s = socket.socket()
s.settimeout(3)
s.connect(({address!r}, {PORT}))
"""
    return "GOES" if run(sys.executable, "-c", code, check=False).returncode == 0 else "refused"


def aftermath(title, run):
    client(run, USER, 1, 6000, 1)
    time.sleep(4)
    print(f"{title:24} by the literal address, 3 s after the TTL of 1 s: {literal(run, '10.66.23.112')}", flush=True)


def test_beside(world):
    if "no-nftset" in harness.run("dnsmasq", "--version").stdout:
        raise harness.Skip("this dnsmasq has no --nftset")
    with two_cgroups(world) as (guard, _):
        serve()

        def plain(*command, check=True):
            return harness.run(*command, check=check)
        dnsmasq(guard)
        got = client(plain, USER, 300, 1, ROUNDS)
        print(f"{'nothing in the way':24} TTL 300: {ROUNDS} new names; asked to connected p50 {got['took'][0]} us,"
              f" p99 {got['took'][1]} us", flush=True)
        guard.started.pop().kill()
        rules = world.write("beside.nft", NFT)

        def reload_nft():
            harness.run("nft", "flush", "ruleset")
            harness.run("nft", "-f", rules)

        reload_nft()
        dnsmasq(guard, "--nftset=/beside.example/4#inet#beside#granted")
        part("dnsmasq and nftables", plain, reload_nft)
        aftermath("dnsmasq and nftables", plain)
        harness.run("nft", "flush", "ruleset")
        guard.started.pop().kill()
        dnsmasq(guard)
        guard.start_with(CONF)
        part("egress", guard.run, lambda: world.ctl("reload", "--force", check=True))
        aftermath("egress", guard.run)


if __name__ == "__main__":
    harness.main({"test_beside": test_beside})
