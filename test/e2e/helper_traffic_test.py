#!/usr/bin/env python3
"""What egress-helper's blocks do to packets: an attacker and a neighbour, IPv4 and IPv6, real
connections. A block is believed when the connection fails and the element has counted packets."""

import os
import socket
import struct
import threading

import harness
from harness import run, wait_for
from helper_serve import Serve, event
from programs import SOURCE, free_environment

PATIENCE = 0.7  # seconds without an answer that mean: blocked
LONG = 20  # seconds that an answer may take where there must be one


class Lab:
    """The server (this namespace), listening on 22 and 80, and two remote hosts."""

    def __init__(self, world):
        self.attacker, self.neighbour = world.host("attacker"), world.host("neighbour")
        self.keep = []
        for port in (22, 80):
            self.listen(port)
        self.serve = Serve()

    def listen(self, port):
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::", port))
        server.listen(64)
        self.keep.append(server)
        threading.Thread(target=accept, args=(server, self.keep), daemon=True).start()

    def connect(self, host, port, version=4, source=None, patience=LONG):
        """A connection that has carried a byte both ways."""
        with host.entered():
            client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
        client.settimeout(patience)
        if source:
            client.bind((source, 0))
        client.connect((host.host4 if version == 4 else host.host6, port))
        assert alive(client)
        return client

    def open(self, *arguments, **keywords):
        self.connect(*arguments, **keywords).close()
        return True

    def blocked(self, *arguments, **keywords):
        try:
            self.connect(*arguments, **keywords, patience=PATIENCE).close()
            return False
        except socket.timeout:
            return True


def accept(server, keep):
    """Echoes what each connection says."""
    while True:
        connection, _ = server.accept()
        keep.append(connection)
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def echo(connection):
    try:
        while data := connection.recv(4096):
            connection.sendall(data)
    except OSError:
        pass


def alive(client):
    client.settimeout(LONG)
    client.sendall(b"x")
    return client.recv(1) == b"x"


def dead(client):
    client.settimeout(PATIENCE)
    client.sendall(b"x")
    try:
        client.recv(1)
        return False
    except socket.timeout:
        return True


def test_a_block_cuts_what_is_established_and_nobody_else(world):
    lab = Lab(world)
    for version in (4, 6):
        address = lab.attacker.v4 if version == 4 else lab.attacker.v6
        width = 32 if version == 4 else 128
        victims = [lab.connect(lab.attacker, 22, version) for _ in range(3)]
        others = [lab.connect(lab.neighbour, 22, version), lab.connect(lab.attacker, 80, version)]
        lab.serve.ok(f"add egress tcp {address} {width} 22 600 drop")
        assert all(dead(client) for client in victims)
        assert lab.blocked(lab.attacker, 22, version)
        assert all(alive(client) for client in others)
        assert lab.open(lab.attacker, 80, version)
        assert lab.open(lab.neighbour, 22, version)
        assert lab.serve.packets(address) >= 4
        lab.serve.ok(f"rem egress tcp {address} {width} 22")
        assert lab.open(lab.attacker, 22, version)


def test_every_shape_of_target(world):
    lab = Lab(world)
    for version in (4, 6):
        address = lab.attacker.v4 if version == 4 else lab.attacker.v6
        width = 32 if version == 4 else 128
        for proto, port, closed in (("*", "*", (22, 80)), ("tcp", "*", (22, 80)),
                                    ("*", "22", (22,)), ("udp", "*", ()), ("udp", "22", ()),
                                    ("tcp", "80", (80,)), ("6", "22", (22,))):
            lab.serve.ok(f"add egress {proto} {address} {width} {port} 600 drop")
            for number in (22, 80):
                test = lab.blocked if number in closed else lab.open
                assert test(lab.attacker, number, version), (proto, port, number)
            assert lab.open(lab.neighbour, 22, version)
            assert (lab.serve.packets(address) > 0) == bool(closed)
            lab.serve.ok(f"rem egress {proto} {address} {width} {port}")


def test_prefixes(world):
    lab = Lab(world)
    base = lab.attacker.v4.rsplit(".", 1)[0]
    lab.attacker.run("ip", "addr", "add", f"{base}.200/24", "dev", "up0")
    prefix6 = lab.attacker.v6.split("::")[0]
    lab.attacker.run("ip", "addr", "add", f"{prefix6}::9:9/64", "dev", "up0", "nodad")
    lab.serve.ok(f"add egress tcp {base}.0 24 22 600 drop")
    lab.serve.ok(f"add egress tcp {prefix6}:: 64 22 600 drop")
    lab.serve.ok(f"add egress tcp {base}.128 25 80 600 drop")
    assert lab.blocked(lab.attacker, 22)
    assert lab.blocked(lab.attacker, 22, source=f"{base}.200")
    assert lab.blocked(lab.attacker, 22, 6)
    assert lab.blocked(lab.attacker, 22, 6, source=f"{prefix6}::9:9")
    assert lab.open(lab.neighbour, 22) and lab.open(lab.neighbour, 22, 6)
    assert lab.open(lab.attacker, 80)
    assert lab.blocked(lab.attacker, 80, source=f"{base}.200")
    assert all(int(item.split()[6]) > 0 for item in lab.serve.items())
    lab.serve.ok("add egress * 0.0.0.0 0 * 600 drop")
    assert lab.blocked(lab.neighbour, 22) and lab.open(lab.neighbour, 22, 6)


def test_exempt_addresses_pass_every_block(world):
    lab = Lab(world)
    attacker, neighbour = lab.attacker, lab.neighbour
    net4 = ".".join(attacker.v4.split(".")[:2] + ["0", "0"])
    for line in (f"add egress tcp {net4} 16 22 600 drop", f"add other * {attacker.v4} 32 * * drop",
                 "add egress tcp :: 0 * 600 reject"):
        lab.serve.ok(line)
    assert lab.blocked(attacker, 22) and lab.blocked(attacker, 80) and lab.blocked(neighbour, 22)
    assert lab.serve.exempt(f"pass * {attacker.v4} 32 *", f"pass tcp {attacker.v6} 128 22") == "ok 2"
    for _ in range(2):
        assert lab.open(attacker, 22) and lab.open(attacker, 80) and lab.blocked(neighbour, 22)
        assert lab.open(attacker, 22, version=6)
        expect(ConnectionRefusedError, lambda: lab.connect(attacker, 80, version=6))
        expect(ConnectionRefusedError, lambda: lab.connect(neighbour, 22, version=6))
        # Who makes the table anew makes the exemptions with it.
        run("nft", "flush", "ruleset")
        lab.serve.ok(f"add egress tcp {net4} 16 22 600 drop")
        lab.serve.ok("add egress tcp :: 0 * 600 reject")
    cut = lab.connect(attacker, 22, version=6)
    # The most specific entry decides.
    assert lab.serve.exempt(f"pass * {net4} 16 *", f"hold tcp {attacker.v4} 32 22") == "ok 2"
    assert lab.blocked(attacker, 22) and lab.open(neighbour, 22)
    # Their connections are not cut either.
    kept = lab.connect(neighbour, 80)
    lab.serve.exempt(f"pass * {neighbour.v4} 32 80")
    lab.serve.ok("flush egress")
    lab.serve.ok(f"kill * {net4} 16 *")
    lab.serve.ok(f"kill * {attacker.v6} 128 *")
    assert alive(kept)
    expect(ConnectionResetError, lambda: alive(cut))
    assert lab.serve.exempt() == "ok 0"


def test_reject_refuses(world):
    lab = Lab(world)
    for version in (4, 6):
        address = lab.attacker.v4 if version == 4 else lab.attacker.v6
        width = 32 if version == 4 else 128
        established = lab.connect(lab.attacker, 22, version)
        lab.serve.ok(f"add egress * {address} {width} * 600 reject")
        expect(ConnectionRefusedError, lambda: lab.connect(lab.attacker, 22, version))
        expect(ConnectionResetError, lambda: alive(established))
        with lab.attacker.entered():
            client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6,
                                   socket.SOCK_DGRAM)
        client.settimeout(10)
        client.connect((lab.attacker.host4 if version == 4 else lab.attacker.host6, 53))
        expect(ConnectionRefusedError, lambda: (client.send(b"x"), client.recv(1)))
        assert lab.serve.packets(address) >= 3
        assert lab.open(lab.neighbour, 22, version)
        lab.serve.ok(f"add egress * {address} {width} * 600 drop")
        assert lab.blocked(lab.attacker, 22, version)
        lab.serve.ok("flush egress")
        assert lab.open(lab.attacker, 22, version)


def expect(error, function):
    try:
        function()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def test_udp(world):
    lab = Lab(world)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 53))
    server.settimeout(10)

    def send(host, text):
        with host.entered():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.sendto(text, (host.host4, 53))

    lab.serve.ok(f"add egress udp {lab.attacker.v4} 32 53 600 drop")
    send(lab.attacker, b"evil")
    send(lab.neighbour, b"good")
    assert server.recv(100) == b"good"
    assert lab.serve.packets(lab.attacker.v4) == 1


def test_the_kernel_ends_a_block_by_itself(world):
    lab = Lab(world)
    lab.serve.ok(f"add egress tcp {lab.attacker.v4} 32 22 5 drop")
    lab.serve.child.kill()
    lab.serve.child.wait()
    assert lab.blocked(lab.attacker, 22)
    wait_for(lambda: not lab.blocked(lab.attacker, 22), 30, "the end of the block")
    assert Serve().items() == []


def test_renewal_keeps_the_block_and_its_counter(world):
    lab = Lab(world)
    for environment in ({}, {"EGRESS_HELPER_COMPAT": "1"}):
        serve = Serve(**environment)
        block = f"tcp {lab.attacker.v4} 32 22"
        serve.ok(f"add egress {block} 60 drop")
        assert lab.blocked(lab.attacker, 22)
        serve.ok(f"add egress {block} 600 drop")
        counted = serve.packets(lab.attacker.v4)
        assert counted > 0, environment
        assert lab.blocked(lab.attacker, 22)
        more = serve.packets(lab.attacker.v4)
        assert more > counted
        assert serve.sync("egress", [f"{block} 900 drop", "tcp 192.0.2.1 32 22 9 drop"]) == "ok 1 0"
        assert serve.packets(lab.attacker.v4) >= more
        assert serve.sync("egress", [f"{block} 900 drop"]) == "ok 0 1"
        assert serve.packets(lab.attacker.v4) >= more
        serve.ok("flush egress")


def test_no_packet_slips_through_a_sync(world):
    """A flood of datagrams from the attacker while syncs renew, add and remove around its block, and change its
    action: each has a set of its own, and a packet may be between the rules of both."""
    lab = Lab(world)
    for actions, port in ((["drop"], 53), (["reject"], 54), (["drop", "reject"], 55)):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))
        server.setblocking(False)
        for environment in ({}, {"EGRESS_HELPER_COMPAT": "1"}):
            sync_beside_flood(lab, Serve(**environment), server, actions)


def sync_beside_flood(lab, serve, server, actions):
    port = server.getsockname()[1]
    action = actions[-1]
    block = f"udp {lab.attacker.v4} 32 {port}"
    serve.sync("egress", [f"{block} 600 {action}"])
    with lab.attacker.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((lab.attacker.host4, port))
    client.setblocking(False)
    stop = threading.Event()
    flood = threading.Thread(target=send_until, args=(client, stop), daemon=True)
    flood.start()
    for i in range(40):
        action = actions[i % len(actions)]
        others = [f"udp 198.51.100.{n} 32 {port} {600 + i} drop" for n in range(i, i + 20)]
        reply = serve.sync("egress", others + [f"{block} {700 + 10 * i} {action}"])
        assert reply.startswith("ok"), reply
        serve.ok(f"add egress {block} {3000 + i} {action}")
    wait_for(lambda: serve.packets(lab.attacker.v4) > 0, 30, "a packet of the flood")
    stop.set()
    flood.join()
    # The block stays, as the last packets may still be on their way.
    expect(BlockingIOError, lambda: server.recv(100))


def test_no_packet_slips_through_a_set_made_anew(world):
    """A flood from the attacker while new helpers make the large set anew that holds its block."""
    lab = Lab(world)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 53))
    server.setblocking(False)
    block = f"udp {lab.attacker.v4} 32 53 600 drop"
    many = [f"udp 10.0.{i >> 8}.{i & 255} 32 53 600 drop" for i in range(21_000)]
    lab.serve.ok(f"add egress {block}")
    with lab.attacker.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((lab.attacker.host4, 53))
    client.setblocking(False)
    stop = threading.Event()
    flood = threading.Thread(target=send_until, args=(client, stop), daemon=True)
    flood.start()
    for environment in ({}, {}, {"EGRESS_HELPER_COMPAT": "1"}):
        serve = Serve(**environment)
        # The block comes last into the set that takes over, so it is the last to be there.
        assert serve.sync("egress", [block] + many) == "ok 0 0"
        wait_for(lambda: serve.packets(lab.attacker.v4) > 0, 30, "a packet of the flood")
    stop.set()
    flood.join()
    expect(BlockingIOError, lambda: server.recv(100))


def send_until(client, stop):
    while not stop.is_set():
        try:
            client.send(b"x")
        except OSError:
            pass


def test_a_published_port_is_blocked_before_its_translation(world):
    lab = Lab(world)
    container = world.host("container")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    container.run("ip", "route", "add", "default", "via", container.host4)
    lab.attacker.run("ip", "route", "add", "default", "via", lab.attacker.host4)
    lab.neighbour.run("ip", "route", "add", "default", "via", lab.neighbour.host4)
    run("nft", "-f", "-", input=f"""table ip nat {{
        chain prerouting {{ type nat hook prerouting priority dstnat;
                            tcp dport 8080 dnat to {container.v4}:8000; }}
    }}""")
    with container.entered():
        server = socket.socket()
        server.bind((container.v4, 8000))
        server.listen(8)
    lab.keep.append(server)
    threading.Thread(target=accept, args=(server, lab.keep), daemon=True).start()
    established = lab.connect(lab.attacker, 8080)
    lab.serve.ok(f"add egress tcp {lab.attacker.v4} 32 8080 600 drop")
    assert dead(established)
    assert lab.blocked(lab.attacker, 8080)
    assert lab.open(lab.neighbour, 8080) and lab.open(lab.attacker, 22)


def test_kill_closes_sockets_on_the_server(world):
    lab = Lab(world)
    for version in (4, 6):
        address = lab.attacker.v4 if version == 4 else lab.attacker.v6
        width = 32 if version == 4 else 128
        victims = [lab.connect(lab.attacker, 22, version) for _ in range(3)]
        others = [lab.connect(lab.neighbour, 22, version), lab.connect(lab.attacker, 80, version)]
        assert lab.serve.ok(f"kill udp {address} {width} *") == "0"
        assert lab.serve.ok(f"kill tcp {address} {width} 22") == "3"
        for client in victims:
            expect(ConnectionResetError, lambda: (client.recv(1), alive(client)))
        assert all(alive(client) for client in others)
        assert lab.serve.ok(f"kill tcp {address} {width} 22") == "0"
        assert lab.open(lab.attacker, 22, version)  # the listener lives
        assert lab.serve.ok(f"kill * {address} {width} *") in ("1", "2")
    # IPv4 on sockets of its own family, connected UDP, and a whole prefix.
    server = socket.create_server(("0.0.0.0", 2200))
    with lab.attacker.entered():
        client = socket.create_connection((lab.attacker.host4, 2200))
        remote = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        remote.bind((lab.attacker.v4, 4000))
    accepted, _ = server.accept()
    connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connected.bind((lab.attacker.host4, 5300))
    connected.connect((lab.attacker.v4, 4000))
    loose = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    loose.bind(("0.0.0.0", 5301))
    net = lab.attacker.v4.rsplit(".", 1)[0] + ".0"
    assert lab.serve.ok(f"kill udp {net} 24 *") == "1"
    assert lab.serve.ok(f"kill tcp {net} 24 2200") == "1"
    expect(ConnectionAbortedError, lambda: connected.recv(1))
    expect(ConnectionAbortedError, lambda: accepted.recv(1))
    expect(ConnectionResetError, lambda: client.recv(1))
    assert lab.serve.ok(f"kill * {net} 24 *") == "0"
    loose.sendto(b"x", (lab.attacker.v4, 4000))
    assert remote.recv(1) == b"x"


def test_ipv6_extension_headers_and_icmp(world):
    lab = Lab(world)
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", 5353))
    server.settimeout(10)
    lab.serve.ok(f"add egress udp {lab.attacker.v6} 128 5353 600 drop")
    options = b"\x00\x00\x01\x04\x00\x00\x00\x00"  # a destination options header of padding
    for host, text in ((lab.attacker, b"evil"), (lab.neighbour, b"good")):
        with host.entered():
            client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
        client.sendto(text, (host.host6, 5353))
    assert server.recv(100) == b"good"
    assert lab.serve.packets(lab.attacker.v6) == 1
    # A block of one port leaves ping alone; one of everything does not.
    lab.serve.ok(f"add egress * {lab.attacker.v4} 32 22 600 drop")
    assert ping(lab.attacker, lab.attacker.host4)
    lab.serve.ok(f"add egress 1 {lab.attacker.v4} 32 * 600 drop")
    assert not ping(lab.attacker, lab.attacker.host4)
    assert ping(lab.neighbour, lab.neighbour.host4)


def ping(host, address):
    """An echo request whose checksum reads as port 22, and whether it is answered."""
    with host.entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.settimeout(PATIENCE)
    # Type 8, code 0, checksum 22, and a sequence number that makes it right.
    rest = 0xffff - 22 - 0x0800 - 0x1234
    raw.sendto(struct.pack("!BBHHH", 8, 0, 22, 0x1234, rest), (address, 0))
    try:
        while True:
            answer = raw.recv(2048)
            if answer[20] == 0 and answer[24:26] == b"\x12\x34":
                return True
    except socket.timeout:
        return False


def test_a_process_per_event_blocks_as_well(world):
    lab = Lab(world)
    address = lab.attacker.v4
    assert event("add", "egress", "", address, "32", "", "", EGRESS_SECONDS="600").returncode == 0
    assert lab.blocked(lab.attacker, 22) and lab.open(lab.neighbour, 22)
    assert event("rem", "egress", "", address, "32", "", "nft").returncode == 0
    assert lab.open(lab.attacker, 22)


def test_the_shell_example_blocks_as_well(world):
    lab = Lab(world)
    script = os.path.join(SOURCE, "etc/helper-example.sh")

    def example(*arguments, **environment):
        done = run(script, *arguments, env={**free_environment(), **environment})
        assert done.stdout == "OK\n", done

    for address, width, version in ((lab.attacker.v4, "32", 4), (lab.attacker.v6, "128", 6)):
        for proto, port in (("tcp", "22"), ("", ""), ("6", ""), ("", "22")):
            target = ("egress", proto, address, width, port, "")
            example("rem", *target)
            example("add", *target, EGRESS_SECONDS="60")
            example("add", *target, EGRESS_SECONDS="600")
            assert lab.blocked(lab.attacker, 22, version)
            assert lab.open(lab.neighbour, 22, version)
            assert (lab.open if port == "22" else lab.blocked)(lab.attacker, 80, version)
            example("rem", *target)
            assert lab.open(lab.attacker, 22, version)
    example("add", "egress", "tcp", lab.attacker.v4, "32", "22", "", EGRESS_SECONDS="*")
    example("flush", "egress")
    assert lab.open(lab.attacker, 22)
    assert run("nft", "list", "tables").stdout == ""


if __name__ == "__main__":
    harness.main(globals())
