"""What rules promise: from a report to an element in the firewall, and back."""

import errno
import os
import socket
import time

import harness
from harness import ABUSIVE, BAD_USER, FAIL, NOBODY, OK, VERIFIED, sockaddr, wait_for

HOST4, HOST6 = "10.66.0.1", "fd66::1"


def counted(daemon, address, count):
    """Waits until so many failures are counted for the address."""
    def enough():
        row = daemon.row(address)
        return row if row and row["count"] == count else None
    return wait_for(enough, what=lambda: f"count {count} for {address}; rows: {daemon.blocks()}")


def in_force(daemon, address):
    """Waits until the daemon says that the block is in force, and returns the row."""
    def confirmed():
        row = daemon.row(address)
        return row if row and row["state"] == "blocked" else None
    return wait_for(confirmed, what=lambda: f"a confirmed block of {address}; rows: {daemon.blocks()}")


def all_read(daemon, number):
    wait_for(lambda: daemon.taken() >= number, what=f"{number} reports to be read")


# --- counting and blocking ---------------------------------------------------------------------

def test_tcp4_is_blocked_at_nfail(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m\n")
    connection = world.tcp("10.66.1.9")
    world.fail(connection, 2)
    row = counted(daemon, "10.66.1.9", 2)
    assert row["state"] == "counting" and row["nfail"] == 3, row
    assert not world.elements()
    world.fail(connection)
    row = in_force(daemon, "10.66.1.9")
    element = world.wait_element("10.66.1.9")
    assert (element["name"], element["proto"], element["port"]) == ("egress", "tcp", 2222), element
    assert element["timeout"] == 600 and 590 <= element["expires"] <= 600, element
    assert (row["name"], row["port"], row["protocol"], row["prefixlen"]) == ("egress", 2222, "tcp", 32)
    text = world.ctl("dump", "-a", "-D", daemon.database, check=True).stdout
    assert "10.66.1.9/32:2222" in text and "3/3" in text, text


def test_tcp6_is_counted_by_prefix(world):
    daemon = world.daemon("[local]\n2222 stream tcp * */64 3 10m\n")
    for client in ("fd66:1::1", "fd66:1::2", "fd66:1::ffff:9"):
        world.fail(world.tcp(client, HOST6))
    row = in_force(daemon, "fd66:1::")
    assert row["prefixlen"] == 64, row
    element = world.wait_element("fd66:1::/64")
    assert (element["name"], element["port"]) == ("egress", 2222), element


def test_tcp6_host(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n")
    world.fail(world.tcp("fd66:2::7", HOST6))
    in_force(daemon, "fd66:2::7")
    world.wait_element("fd66:2::7")


def test_prefix4_is_counted_together(world):
    daemon = world.daemon("[local]\n2222 stream tcp * */24 3 10m\n")
    for client in ("10.66.5.1", "10.66.5.2", "10.66.5.254"):
        world.fail(world.tcp(client))
    assert in_force(daemon, "10.66.5.0")["prefixlen"] == 24
    world.wait_element("10.66.5.0/24")


def test_mapped_ipv6_is_ipv4(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 2 10m\n")
    server = socket.socket(socket.AF_INET6)
    server.bind(("::", 2222))
    server.listen(8)
    client = socket.create_connection((HOST4, 2222), source_address=("10.66.1.8", 0))
    accepted, peer = server.accept()
    assert peer[0] == "::ffff:10.66.1.8", peer
    world.fail(accepted, 2)
    in_force(daemon, "10.66.1.8")
    world.wait_element("10.66.1.8")
    client.close()


def test_connected_udp(world):
    daemon = world.daemon("[local]\n2222 dgram udp * * 2 10m\n")
    world.fail(world.udp(remote="10.66.1.10"), 2)
    row = in_force(daemon, "10.66.1.10")
    assert row["protocol"] == "udp", row
    assert world.wait_element("10.66.1.10")["proto"] == "udp"


def test_connected_udp6(world):
    daemon = world.daemon("[local]\n2222 dgram udp * * 1 10m\n")
    world.fail(world.udp(HOST6, remote="fd66:3::1"))
    in_force(daemon, "fd66:3::1")
    assert world.wait_element("fd66:3::1")["proto"] == "udp"


def test_forgeable_udp_counts_only_when_allowed(world):
    daemon = world.daemon("[local]\n2222 dgram udp * * 2 10m\n"
                          "2223 dgram udp * -open 2 10m spoofable=count\n")
    strict, open_ = world.udp(port=2222), world.udp(port=2223)
    for _ in range(4):
        world.library.report(FAIL, strict, "forged", sockaddr("10.66.2.1", 53))
        world.library.report(FAIL, open_, "counted", sockaddr("10.66.2.2", 53))
    for _ in range(2):
        world.library.report(FAIL | VERIFIED, strict, "vouched for", sockaddr("10.66.2.3", 53))
    world.wait_element("10.66.2.2")
    world.wait_element("10.66.2.3")
    all_read(daemon, 10)
    row = daemon.row("10.66.2.1")
    assert row is None or row["state"] == "counting", row
    assert world.element("10.66.2.1") is None
    assert world.element("10.66.2.2")["name"] == "egress-open"


def test_connected_socket_beats_the_address_in_the_report(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n")
    world.library.report(FAIL, world.tcp("10.66.2.5"), "liar", sockaddr("10.66.2.6", 1),
                         check=False)
    all_read(daemon, 1)
    assert daemon.row("10.66.2.6") is None, daemon.blocks()
    assert world.element("10.66.2.6") is None


def test_bad_user_counts_and_abusive_blocks_at_once(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 5 10m\n")
    world.fail(world.tcp("10.66.3.1"), 4, BAD_USER)
    counted(daemon, "10.66.3.1", 4)
    world.fail(world.tcp("10.66.3.2"), 1, ABUSIVE)
    world.wait_element("10.66.3.2")
    in_force(daemon, "10.66.3.2")
    assert world.element("10.66.3.1") is None


def test_success_clears_the_count_and_lifts_the_block(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m\n")
    one, two = world.tcp("10.66.3.3"), world.tcp("10.66.3.4")
    world.fail(one, 2)
    counted(daemon, "10.66.3.3", 2)
    world.fail(one, 1, OK)
    wait_for(lambda: (daemon.row("10.66.3.3") or {"count": 0})["count"] == 0, what="count 0")
    world.fail(one, 2)
    counted(daemon, "10.66.3.3", 2)
    world.fail(two, 3)
    world.wait_element("10.66.3.4")
    world.fail(two, 1, OK)
    world.wait_no_element("10.66.3.4")


def test_failure_while_blocked_extends(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 1h\n")
    connection = world.tcp("10.66.3.5")
    world.fail(connection)
    first = in_force(daemon, "10.66.3.5")["until"]
    wait_for(lambda: world.element("10.66.3.5")["expires"] < 3600, what="a second to pass")
    before = world.element("10.66.3.5")["expires"]

    def extended():
        world.fail(connection)
        return daemon.row("10.66.3.5")["until"] > first
    wait_for(extended, what="a later end of the block")
    wait_for(lambda: world.element("10.66.3.5")["expires"] >= before,
             what="the later end in the firewall")


# --- which rule --------------------------------------------------------------------------------

def test_owner_rules(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 9 10m\n"
                          "2222 stream tcp nobody -nobody 1 10m\n"
                          "2222 stream tcp 1234 -other 1 10m\n")
    one, two = world.tcp("10.66.4.1"), world.tcp("10.66.4.2")
    world.fail(one)
    harness.as_user(NOBODY, lambda: world.library.report(FAIL, two))
    assert world.wait_element("10.66.4.2")["name"] == "egress-nobody"
    counted(daemon, "10.66.4.1", 1)


def test_interface_rules_match_only_their_interface(world):
    peer = world.host("peer")
    world.daemon("[local]\n2222 stream tcp * * 9 10m\nto-peer:2222 stream tcp * -peer 1 10m\n")
    world.fail(world.tcp("10.66.4.3"), 2)
    server = world.listener(peer.host4, 2222)
    with peer.entered():
        client = socket.socket()
    client.connect((peer.host4, 2222))
    accepted, _ = server.accept()
    world.fail(accepted)
    assert world.wait_element(peer.v4)["name"] == "egress-peer"
    assert world.element("10.66.4.3") is None


def test_remote_rules_override(world):
    daemon = world.daemon("[local]\n2222 stream tcp * -in 2 10m\n"
                          "[remote]\n10.66.7.0/24 * * * = * *\n"
                          "10.66.7.9 * * * = 1 *\n"
                          "10.66.8.0/24 stream tcp * other = 1h\n")
    friend, foe, other, plain = (world.tcp(a) for a in
                                 ("10.66.7.1", "10.66.7.9", "10.66.8.1", "10.66.9.1"))
    world.fail(friend, 5)
    world.fail(foe)
    world.fail(other, 2)
    world.fail(plain, 2)
    assert world.wait_element("10.66.7.9")["timeout"] is None
    element = world.wait_element("10.66.8.1")
    assert (element["name"], element["timeout"]) == ("other", 3600), element
    element = world.wait_element("10.66.9.1")
    assert (element["name"], element["timeout"]) == ("egress-in", 600), element
    all_read(daemon, 10)
    assert world.element("10.66.7.1") is None


def test_report_without_rule_is_counted_as_such(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n")
    world.fail(world.tcp("10.66.4.4", port=3333), 2)
    wait_for(lambda: daemon.status()["reports"]["unmatched"] == 2, what="2 unmatched reports")
    assert daemon.blocks() == []


# --- options -----------------------------------------------------------------------------------

def test_expiry_removes_row_and_element(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 2s\n")
    world.fail(world.tcp("10.66.6.1"))
    world.wait_element("10.66.6.1")
    world.wait_no_element("10.66.6.1")
    wait_for(lambda: not daemon.blocks("blocked"), what="the block to end in the daemon")
    wait_for(lambda: daemon.row("10.66.6.1") is None, what="the row to go")


def test_permanent_block_outlives_success(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 *\n")
    connection = world.tcp("10.66.6.2")
    world.fail(connection)
    assert world.wait_element("10.66.6.2")["timeout"] is None
    assert "until" not in in_force(daemon, "10.66.6.2")
    before = daemon.taken()
    world.fail(connection, 1, OK)
    all_read(daemon, before + 1)
    assert world.element("10.66.6.2") is not None


def test_escalation_up_to_its_ceiling(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 2s escalate=2,max=5s\n")
    connection = world.tcp("10.66.6.3")
    for expected in (2, 4, 5, 5):
        world.fail(connection)
        assert world.wait_element("10.66.6.3")["timeout"] == expected, (expected, daemon.blocks())
        world.wait_no_element("10.66.6.3")
        wait_for(lambda: not daemon.blocks("blocked"), what="the block to end in the daemon")


def test_window_forgets_old_failures(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m window=2s\n")
    connection = world.tcp("10.66.6.4")
    world.fail(connection, 2)
    counted(daemon, "10.66.6.4", 2)
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > begin + 4, what="the window to pass")
    world.fail(connection)
    counted(daemon, "10.66.6.4", 1)
    assert world.element("10.66.6.4") is None


def test_grow_blocks_the_neighbourhood(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m grow=24:3\n")
    for host in (1, 2):
        world.fail(world.tcp(f"10.66.11.{host}"))
        world.wait_element(f"10.66.11.{host}")
    assert world.element("10.66.11.0/24") is None
    world.fail(world.tcp("10.66.11.3"))
    world.wait_element("10.66.11.0/24")
    assert any(row["prefixlen"] == 24 for row in daemon.blocks("blocked")), daemon.blocks()


def test_kill_cuts_live_connections(world):
    world.daemon("[local]\n2222 stream tcp * * 2 10m kill\n")
    victim, bystander = world.tcp("10.66.6.5"), world.tcp("10.66.6.6")
    world.fail(victim, 2)
    world.wait_element("10.66.6.5")
    victim.server.settimeout(10)
    try:
        data = victim.server.recv(1)
        raise harness.Failure(f"the connection goes on: {data}")
    except OSError as error:
        assert error.errno in (errno.ECONNABORTED, errno.ECONNRESET), error
    bystander.client.send(b"x")
    assert bystander.server.recv(1) == b"x"


def test_reject_answers_and_drop_does_not(world):
    daemon = world.daemon("[local]\n2222 stream tcp * -r 1 10m reject\n2223 stream tcp * -d 1 10m\n")
    world.fail(world.tcp("10.66.6.7"))
    world.fail(world.tcp("10.66.6.8", port=2223))
    assert world.wait_element("10.66.6.7")["action"] == "reject"
    assert world.wait_element("10.66.6.8")["action"] == "drop"
    in_force(daemon, "10.66.6.7")
    for source, port, expected in (("10.66.6.7", 2222, ConnectionRefusedError),
                                   ("10.66.6.8", 2223, TimeoutError)):
        client = socket.socket()
        client.settimeout(1)
        client.bind((source, 0))
        try:
            client.connect((HOST4, port))
            raise harness.Failure(f"{source} still gets in")
        except OSError as error:
            assert isinstance(error, expected), (source, error)
    assert world.element("10.66.6.8")["packets"] > 0
    world.tcp("10.66.6.9")  # others still get in


def test_all_port_block_by_hand(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m\n")
    done = world.ctl("block", "10.66.12.0/24", "--for", "1h", "--reason", "test",
                     environment={"EGRESS_CONTROL": daemon.control})
    assert done.returncode == 0, done
    element = world.wait_element("10.66.12.0/24")
    assert element["timeout"] == 3600, element
    client = socket.socket()
    client.settimeout(0.5)
    client.bind(("10.66.12.7", 0))
    world.listener(HOST4, 4444)
    try:
        client.connect((HOST4, 4444))
        raise harness.Failure("an all-port block lets a connection in")
    except TimeoutError:
        pass
    done = world.ctl("unblock", "10.66.12.0/24", environment={"EGRESS_CONTROL": daemon.control})
    assert done.returncode == 0, done
    world.wait_no_element("10.66.12.0/24")


def test_block_by_hand_outlives_success(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m\n")
    connection = world.tcp("10.66.13.1")
    code, row = daemon.request("POST", "/v1/blocks", {"addr": "10.66.13.1", "port": 2222,
                                                      "protocol": "tcp", "seconds": 600})
    assert code == 201, (code, row)
    world.wait_element("10.66.13.1")
    world.fail(connection, 1, OK)
    all_read(daemon, 1)
    assert world.element("10.66.13.1") is not None


# --- who may say what --------------------------------------------------------------------------

def test_reports_without_descriptor(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n"
                          "[trusted]\n2222 stream tcp nobody\n")
    address = sockaddr("10.66.14.1", 4000)
    harness.as_user(NOBODY, lambda: world.library.report(FAIL, -1, "log follower", address))
    world.wait_element("10.66.14.1")
    address = sockaddr("10.66.14.2", 4000)
    harness.as_user(4321, lambda: world.library.report(FAIL, -1, "nobody knows", address,
                                                       check=False))
    all_read(daemon, 2)
    assert daemon.row("10.66.14.2") is None, daemon.blocks()
    refused = {kind: n for kind, n in daemon.status()["refused"].items() if n}
    assert sum(refused.values()) == 1, refused


def test_root_needs_a_trusted_line_for_the_service(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n2223 stream tcp * * 1 10m\n"
                          "[trusted]\n2223 stream tcp root\n")
    world.library.report(FAIL, -1, "root", sockaddr("10.66.14.3", 4000))
    element = world.wait_element("10.66.14.3")
    assert element["port"] == 2223, (element, daemon.blocks())


def test_listening_socket_proves_nothing(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n")
    server = world.listener(HOST4, 2222)

    def misuse():
        world.library.report(FAIL, server, "whom?", check=False)
        world.library.report(FAIL, server, "him!", sockaddr("10.66.14.9", 4000), check=False)
    harness.as_user(NOBODY, misuse)
    world.fail(world.tcp("10.66.14.8"))
    world.wait_element("10.66.14.8")
    all_read(daemon, 3)
    assert daemon.row("10.66.14.9") is None, daemon.blocks()
    assert daemon.status()["refused"]["listening"] == 2, daemon.status()


def from_own_port(world, peer, port, uid, kind=socket.SOCK_STREAM):
    """How that uid reports a socket on `port` of the host, which he connects to `peer` himself."""
    if kind == socket.SOCK_STREAM:
        world.listener(peer, 80)

    def body(actions):
        mine = socket.socket(socket.AF_INET, kind)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mine.bind(("10.66.0.2", port))  # of the host as well; a server there would be in the way
        mine.connect((peer, 80))
        return [world.library.report(action, mine, "he attacked me") for action in actions]
    return lambda *actions: harness.as_user(uid, lambda: body(actions))


def test_a_port_that_a_user_chose_blocks_nobody(world):
    """He proves whom he is connected to, and not who began."""
    conf = "[local]\n5060 * * * * 2 10m\n* * * * * 2 10m\n"
    daemon = world.daemon(conf)
    actions = (harness.ABUSIVE, harness.ABUSIVE | harness.VERIFIED, FAIL, FAIL | harness.VERIFIED)
    sent = 0
    for number, kind in enumerate((socket.SOCK_STREAM, socket.SOCK_DGRAM)):
        for port in (5060, 40000):
            peer = f"10.66.16.{10 * number + port % 7 + 1}"
            report = from_own_port(world, peer, port, NOBODY, kind)
            assert report(*actions) == [0, 0, 0, 0]
            sent += 4
    # An unconnected socket, and his own word that the address is no forgery.
    def vouch():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((HOST4, 5060))
        return world.library.report(harness.ABUSIVE | harness.VERIFIED, server, "x",
                                    sockaddr("10.66.16.99", 5))
    assert harness.as_user(NOBODY, vouch) == 0
    sent += 1
    all_read(daemon, sent)
    status = daemon.status()
    assert daemon.blocks() == [] and world.elements() == [], daemon.blocks()
    assert status["reports"]["unproved"] == sent, status["reports"]


def test_sockets_without_ports(world):
    """A ping socket's "port" is a number of the user's choice, whatever port a line names."""
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
        file.write(f"{NOBODY} {NOBODY}")
    daemon = world.daemon("[local]\n22 * * * * 1 10m\n")

    def ping():
        os.setresgid(NOBODY, NOBODY, NOBODY)
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        server.bind((HOST4, 22))
        server.connect(("10.66.16.98", 1))
        return world.library.report(harness.ABUSIVE, server, "x")
    harness.as_user(NOBODY, ping)
    wait_for(lambda: daemon.taken() == 1, what="the report to be read")
    assert daemon.blocks() == [] and daemon.status()["refused"]["wrong_protocol"] == 1, daemon.status()["refused"]


def test_success_on_a_port_that_a_user_chose_lifts_nothing(world):
    daemon = world.daemon("[local]\n5060 * * * * 3 10m\n")
    friend = "10.66.16.50"  # over UDP, where a connect() sends nothing that would be dropped
    world.fail(world.udp(port=5060, remote=friend), 1, harness.ABUSIVE)
    world.wait_element(friend)
    other = "10.66.16.51"
    world.fail(world.tcp(other, port=5060), 2)
    counted(daemon, other, 2)
    for peer, kind in ((friend, socket.SOCK_DGRAM), (other, socket.SOCK_STREAM)):
        assert from_own_port(world, peer, 5060, NOBODY, kind)(OK) == [0]
    wait_for(lambda: daemon.status()["reports"]["unproved"] == 2, what="both to be unproved")
    assert world.element(friend) is not None
    assert daemon.row(other)["count"] == 2, daemon.blocks()


def test_who_may_block_on_a_port_for_everybody(world):
    """Root; the owner that the line names; a server that was handed what root accepted; and anyone
    on a port that only root can open."""
    daemon = world.daemon("[local]\n5060 stream tcp * * 1 10m\n5061 stream tcp 4321 * 1 10m\n"
                          "22 stream tcp * * 1 10m\n")
    world.fail(world.tcp("10.66.17.1", port=5060))
    world.wait_element("10.66.17.1")
    handed = world.tcp("10.66.17.2", port=5060)  # accepted by root, as a super-server does
    harness.as_user(NOBODY, lambda: world.library.report(FAIL, handed))
    world.wait_element("10.66.17.2")
    low = world.tcp("10.66.17.3", port=22)
    harness.as_user(NOBODY, lambda: world.library.report(FAIL, low))
    world.wait_element("10.66.17.3")
    report = from_own_port(world, "10.66.17.4", 5061, 4321)
    assert report(FAIL) == [0]
    world.wait_element("10.66.17.4")
    assert daemon.status()["reports"]["unproved"] == 0


def test_ports_that_users_may_open_follow_the_kernel_s_setting(world):
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as file:
        file.write("80")
    daemon = world.daemon("[local]\n443 stream tcp * * 1 10m\n")
    assert from_own_port(world, "10.66.17.9", 443, NOBODY)(harness.ABUSIVE) == [0]
    wait_for(lambda: daemon.status()["reports"]["unproved"] == 1, what="the report to be unproved")
    assert daemon.blocks() == []


def test_table_is_bounded_and_blocks_are_kept(world):
    daemon = world.daemon("[settings]\nrows 200\n[local]\n2222 dgram udp * * 2 10m spoofable=count\n")
    server = world.udp()
    blocked = [f"198.51.100.{n}" for n in range(1, 21)]
    with world.library.connection():
        for address in blocked:
            for _ in range(2):
                world.library.report(FAIL, server, "block", sockaddr(address, 5))
        for number in range(500):
            world.library.report(FAIL, server, "count",
                                 sockaddr(f"10.66.{20 + number // 250}.{number % 250 + 1}", 5))
    all_read(daemon, 540)
    status = daemon.status()
    assert status["rows"] <= 200, status
    assert status["evicted"] >= 320, status
    assert len(daemon.blocks("blocked")) == 20
    wait_for(lambda: {e["addr"] for e in world.elements()} == set(blocked), what="all 20 elements")


harness.main(globals())
