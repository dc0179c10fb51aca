"""Options that say what one count is: count=name and success=keep."""

import harness
from programs import OK, wait_for


def test_one_count_over_all_services_of_a_name(world):
    daemon = world.daemon("[local]\n"
                          "2222 stream tcp * mail/24 4 10m count=name,kill\n"
                          "2223 stream tcp * mail/24 4 10m count=name\n"
                          "2224 stream tcp * mail/24 4 10m\n"
                          "2225 stream tcp * other 4 10m\n")
    for port, times in ((2222, 2), (2223, 1), (2224, 3), (2225, 3)):
        world.fail(world.tcp("10.66.9.7", port=port), times)
    wait_for(lambda: sum(row["count"] for row in daemon.blocks()) == 9, what="the failures")
    assert not daemon.blocks("blocked"), daemon.blocks("blocked")
    held = world.tcp("10.66.9.8", port=2222)
    world.fail(world.tcp("10.66.9.8", port=2222))
    element = world.wait_element("10.66.9.0/24")
    assert element["name"] == "mail" and element["proto"] is element["port"] is None, element
    row = daemon.blocks("blocked")[0]
    assert (row["count"], row["name"]) == (4, "mail"), row
    assert "port" not in row and "protocol" not in row, row
    wait_for(lambda: hung_up(held.client), what="the end of the connection")
    for port in (2222, 2223, 4444):
        assert not harness.gets_through(world, "10.66.9.9", port), f"port {port} is open"


def hung_up(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_success_clears_one_count_over_all(world):
    daemon = world.daemon("[local]\n"
                          "2222 stream tcp * mail 4 10m count=name\n"
                          "2223 stream tcp * mail 4 10m count=name\n")
    world.fail(world.tcp("10.66.9.7", port=2222), 3)
    wait_for(lambda: daemon.row("10.66.9.7"), what="the count")
    world.fail(world.tcp("10.66.9.7", port=2223), 1, OK)
    wait_for(lambda: not daemon.row("10.66.9.7"), what="the count to go")


def test_success_keep(world):
    daemon = world.daemon("[local]\n"
                          "2222 stream tcp * * 3 10m success=keep\n"
                          "2223 stream tcp * * 3 10m\n"
                          "[remote]\n"
                          "10.66.8.0/24 * * * = = = success=clear\n")
    for port in (2222, 2223):
        for _ in range(3):
            world.fail(world.tcp("10.66.9.7", port=port), 1)
            world.fail(world.tcp("10.66.9.7", port=port), 1, OK)
    for _ in range(3):
        world.fail(world.tcp("10.66.8.7"), 1)
        world.fail(world.tcp("10.66.8.7"), 1, OK)
    wait_for(lambda: daemon.status()["reports"]["successes"] == 9, what="the successes")
    wait_for(lambda: world.elements(), what="the block")
    blocked = [(row["addr"], row["port"]) for row in daemon.blocks("blocked")]
    assert blocked == [("10.66.9.7", 2222)], blocked
    world.fail(world.tcp("10.66.40.1"), 1, OK)
    wait_for(lambda: daemon.status()["reports"]["successes"] == 10, what="the success")
    assert world.element("10.66.9.7"), world.elements()


def test_a_block_of_every_port(world):
    """ports=all: each port has a count of its own, and the block closes all of them."""
    daemon = world.daemon("[local]\n"
                          "2222 stream tcp * * 3 10m ports=all\n"
                          "2223 stream tcp * * 3 10m\n"
                          "[remote]\n"
                          "10.66.8.0/24 * * * = = = ports=one\n")
    world.fail(world.tcp("10.66.9.7", port=2223), 2)
    world.fail(world.tcp("10.66.9.7", port=2222), 2)
    wait_for(lambda: sum(row["count"] for row in daemon.blocks()) == 4, what="the failures")
    assert not daemon.blocks("blocked"), daemon.blocks("blocked")
    world.fail(world.tcp("10.66.9.7", port=2222))
    element = world.wait_element("10.66.9.7")
    assert element["proto"] is element["port"] is None, element
    world.fail(world.tcp("10.66.8.7"), 3)
    assert world.wait_element("10.66.8.7")["port"] == 2222
    row = daemon.blocks("blocked")[0]
    assert row["count"] == 3 and "port" not in row and "protocol" not in row, row
    code, answer = daemon.request("POST", "/v1/explain/report", {"addr": "10.66.9.7", "port": 2222})
    assert code == 200 and answer["row"]["state"] == "blocked", answer
    for port in (2222, 2223, 4444):
        assert not harness.gets_through(world, "10.66.9.7", port), f"port {port} is open"
    datagram = harness.socket.socket(harness.socket.AF_INET, harness.socket.SOCK_DGRAM)
    datagram.bind(("10.66.9.7", 0))
    receiver = world.udp(port=5555)
    receiver.settimeout(0.3)
    datagram.sendto(b"x", ("10.66.0.1", 5555))
    try:
        receiver.recv(1)
        raise harness.Failure("a datagram came through")
    except TimeoutError:
        pass
    world.fail(world.tcp("10.66.9.8", port=2223), 3)
    assert world.wait_element("10.66.9.8")["port"] == 2223


if __name__ == "__main__":
    harness.main(globals())
