"""Servers behind "redirect" and "dnat": what is blocked is the port that the attacker uses."""

import contextlib
import selectors
import socket
import time

import harness
from programs import FAIL, OK, Failure, run, wait_for

RULES = "[local]\n2222 stream tcp * * 3 10m kill\n2223 stream tcp * * 3 10m\n"


def nft(world, text):
    run("nft", "-f", world.write("nat.nft", text))


def translate(world, *rules):
    nft(world, "table inet nat {\n chain prerouting {\n type nat hook prerouting priority dstnat\n" +
        "\n".join(rules) + "\n}\n}\n")


def connect(attacker, address, port):
    """A connection of the attacker's own network; its two addresses and ports are real."""
    with attacker.entered():
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    client.settimeout(10)
    client.connect((address, port))
    return client


def reported(world, server, client, action=FAIL, times=1):
    """Accepts the connection that `client` has opened, and reports it."""
    accepted, _ = server.accept()
    world.keep.append((accepted, client))
    world.fail(accepted, times, action)
    return accepted


def passed(attacker, address, port, tries=6):
    """How many of so many connections get through, in a time in which all would."""
    watched = selectors.DefaultSelector()
    with contextlib.ExitStack() as stack:
        for _ in range(tries):
            with attacker.entered():
                client = stack.enter_context(socket.socket(
                    socket.AF_INET6 if ":" in address else socket.AF_INET))
            client.setblocking(False)
            client.connect_ex((address, port))
            watched.register(client, selectors.EVENT_WRITE)
        count, end = 0, time.monotonic() + 1.5
        while watched.get_map() and time.monotonic() < end:
            for key, _ in watched.select(end - time.monotonic()):
                watched.unregister(key.fileobj)
                count += key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        return count


def attack(world, daemon, server, attacker, address, port, times=3):
    """Three failures through `port`, and what stands in the firewall for it."""
    assert passed(attacker, address, port) == 6
    for _ in range(6):
        server.accept()[0].close()
    for _ in range(times):
        reported(world, server, connect(attacker, address, port))
    source = attacker.v6 if ":" in address else attacker.v4
    element = world.wait_element(source)
    assert (element["proto"], element["port"]) == ("tcp", port), element
    assert daemon.row(source)["port"] == port, daemon.row(source)
    through = passed(attacker, address, port)
    assert through == 0, f"{through} of 6 connections passed"
    return source


def test_redirect(world):
    daemon = world.daemon(RULES)
    attacker = world.host("attacker")
    translate(world, "tcp dport 22 redirect to :2222")
    server = world.listener("0.0.0.0", 2222)
    source = attack(world, daemon, server, attacker, attacker.host4, 22)
    assert "port 22 (port 2222 of the server)" in daemon.log(), daemon.log()
    # Another way to the server, which the attacker has not used, has a count of its own.
    assert passed(attacker, attacker.host4, 2222) == 6
    world.ctl("unblock", source, check=True, environment={"EGRESS_CONTROL": daemon.control})
    world.wait_no_element(source)
    assert passed(attacker, attacker.host4, 22) == 6


def test_dnat_to_another_address_and_over_ipv6(world):
    daemon = world.daemon(RULES)
    attacker = world.host("attacker")
    translate(world, "ip daddr 10.77.0.0/16 tcp dport 8022 dnat ip to 10.66.0.1:2222",
              "ip6 daddr fd77::/16 tcp dport 8022 dnat ip6 to [fd66::1]:2222")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    attack(world, daemon, world.listener("10.66.0.1", 2222), attacker, attacker.host4, 8022)
    attack(world, daemon, world.listener("fd66::1", 2222), attacker, attacker.host6, 8022)


def test_a_socket_of_both_families(world):
    daemon = world.daemon(RULES)
    attacker = world.host("attacker")
    translate(world, "tcp dport 22 redirect to :2222")
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 2222))
    server.listen(64)
    attack(world, daemon, server, attacker, attacker.host4, 22)
    attack(world, daemon, server, attacker, attacker.host6, 22)


def test_connections_of_the_server_are_cut(world):
    """The option `kill` cuts by the port that the server's sockets have."""
    world.daemon(RULES)
    attacker = world.host("attacker")
    translate(world, "tcp dport 22 redirect to :2222")
    server = world.listener("0.0.0.0", 2222)
    accepted = reported(world, server, connect(attacker, attacker.host4, 22), times=3)
    world.wait_element(attacker.v4)

    def cut():
        with contextlib.suppress(BlockingIOError):
            accepted.setblocking(False)
            try:
                return accepted.recv(1) == b""
            except ConnectionError:
                return True
    wait_for(cut, what="the end of the connection")


def test_a_success_clears_what_came_the_same_way(world):
    daemon = world.daemon(RULES)
    attacker = world.host("attacker")
    translate(world, "tcp dport 22 redirect to :2223")
    server = world.listener("0.0.0.0", 2223)
    reported(world, server, connect(attacker, attacker.host4, 22), times=2)
    wait_for(lambda: daemon.row(attacker.v4), what="the count")
    reported(world, server, connect(attacker, attacker.host4, 22), OK)
    wait_for(lambda: not daemon.row(attacker.v4), what="the count to go")


def test_a_connection_that_the_host_opened_names_no_other_port(world):
    """Asked for its original destination, it names its peer's port: chosen by who connects."""
    daemon = world.daemon(RULES)
    attacker = world.host("attacker")
    # With any rule of this type the kernel tracks all connections.
    translate(world, "tcp dport 22 redirect to :2222")
    with attacker.entered():
        theirs = socket.create_server((attacker.v4, 443))
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.bind((attacker.host4, 2223))
    ours.connect((attacker.v4, 443))
    world.keep.append((theirs, ours))
    world.fail(ours, 3)
    element = world.wait_element(attacker.v4)
    assert element["port"] == 2223, element
    assert daemon.row(attacker.v4)["port"] == 2223


def test_a_translation_inside_another_network_is_not_on_our_way(world):
    daemon = world.daemon(RULES)
    container = world.host("container")
    rules = world.write("inside.nft", "table inet nat {\n chain prerouting {\n type nat hook prerouting "
                        "priority dstnat\ntcp dport 22 redirect to :2222\n}\n}\n")
    container.run("nft", "-f", rules)
    with container.entered():
        server = socket.create_server((container.v4, 2222))
    client = socket.create_connection((container.v4, 22), 10)
    reported(world, server, client, times=3)
    wait_for(lambda: daemon.row(container.host4), what="the count")
    assert daemon.row(container.host4)["port"] == 2222, daemon.blocks()


def test_ports_all_blocks_where_no_port_is_known(world):
    """A server in a container, whose published port only this host's own network translates."""
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m ports=all\n")
    attacker, container = world.host("attacker"), world.host("container")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for host in (attacker, container):
        host.run("ip", "route", "add", "default", "via", host.host4)
    translate(world, f"tcp dport 8022 dnat ip to {container.v4}:2222")
    with container.entered():
        server = socket.create_server((container.v4, 2222))
    for _ in range(3):
        reported(world, server, connect(attacker, attacker.host4, 8022))
    element = world.wait_element(attacker.v4)
    assert element["proto"] is element["port"] is None, element
    assert passed(attacker, attacker.host4, 8022) == 0
    assert passed(attacker, container.v4, 2222) == 0
    assert "port" not in daemon.row(attacker.v4)


if __name__ == "__main__":
    harness.main(globals())
