"""What must never be lost: kill -9, clean ends, full disks, broken databases."""

import json
import os
import signal

import harness
from harness import FAIL, wait_for

CONF = "[local]\n2222 stream tcp * * 2 1h\n"


def database_blocks(world, daemon):
    """What the database says, read without the daemon's help."""
    done = world.ctl("dump", "-b", "-D", daemon.database, "--json", check=True)
    return {row["addr"] for row in json.loads(done.stdout)}


def same(world, daemon):
    """Database and firewall hold the same blocks, both ways; gives them, or None."""
    stored = database_blocks(world, daemon)
    enforced = {element["addr"] for element in world.elements()}
    return stored if stored == enforced and not daemon.status()["not_in_force"] else None


def agree(world, daemon, least):
    """Waits for agreement, and sees that nothing that was once in force is missing."""
    def settled():
        blocks = same(world, daemon)
        return blocks if blocks is not None and least <= blocks else None
    return wait_for(settled, 60, lambda: f"agreement on at least {len(least)} blocks; database "
                    f"{len(database_blocks(world, daemon))}, set {len(world.elements())}, missing "
                    f"{least - database_blocks(world, daemon)}")


def test_kill_9_after_each_of_60_blocks(world):
    seen = set()
    daemon = world.daemon(CONF)
    for number in range(60):
        address = f"10.66.1.{number + 1}"
        connection = world.tcp(address)
        world.fail(connection, 2)
        moment = number % 3
        if moment == 0:
            world.wait_element(address)
            seen.add(address)
        elif moment == 1:
            wait_for(lambda: (daemon.row(address) or {}).get("count", 0) >= 2, what="the row")
        # moment 2: at once, whatever has happened by then
        daemon.stop(signal.SIGKILL)
        daemon = world.daemon(CONF)
        seen |= agree(world, daemon, seen)
    assert len(seen) >= 40, len(seen)
    assert daemon.stop() == 0


def saved_ruleset(world):
    """What the administrator's `nft list ruleset >f` would put into f."""
    return world.write("saved.nft", harness.run("nft", "list", "ruleset").stdout)


def test_a_saved_ruleset_revives_nothing_after_a_clean_stop(world):
    """The database decides after a clean stop; only after a crash is a block adopted from the firewall."""
    daemon = world.daemon(CONF)
    for address in ("10.66.1.1", "10.66.1.2"):
        world.fail(world.tcp(address), 2)
        world.wait_element(address)
    saved = saved_ruleset(world)
    assert daemon.request("DELETE", "/v1/blocks", {"addr": "10.66.1.1"})[0] == 200
    wait_for(lambda: world.element("10.66.1.1") is None, what="the block to be lifted")
    assert daemon.stop() == 0
    harness.run("nft", "flush", "ruleset")
    harness.run("nft", "-f", saved)
    assert world.element("10.66.1.1"), "the saved ruleset brings it back"
    daemon = world.daemon(CONF)
    wait_for(lambda: world.element("10.66.1.1") is None, what="what was lifted to be gone again")
    assert world.element("10.66.1.2") and daemon.row("10.66.1.1") is None, daemon.blocks()
    assert "stood in the firewall" not in daemon.log(), daemon.log()

    # The same after a crash: the database may have missed the block.
    daemon.stop(signal.SIGKILL)
    harness.run("nft", "flush", "ruleset")
    harness.run("nft", "-f", saved)
    daemon = world.daemon(CONF)
    wait_for(lambda: (daemon.row("10.66.1.1") or {}).get("state") == "blocked", what="its adoption")


def test_a_damaged_row_is_adopted_after_a_clean_stop_too(world):
    """The database does not decide over what it has lost: the firewall still has the block."""
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.1.3"), 2)
    world.wait_element("10.66.1.3")
    wait_for(lambda: daemon.row("10.66.1.3")["state"] == "blocked", what="its confirmation")
    assert daemon.stop() == 0
    key = bytes((10, 66, 1, 3))
    path = f"{daemon.database}/data.mdb"
    with open(path, "rb") as file:
        content = bytearray(file.read())
    at = content.find(key)
    assert at > 0, "the row's key is in the file"
    while at > 0:
        content[at + len(key) + 20] ^= 0x40  # of its value, or of the end of its key
        at = content.find(key, at + 1)
    with open(path, "wb") as file:
        file.write(content)
    daemon = world.daemon(CONF)
    assert "damaged" in daemon.log(), daemon.log()
    wait_for(lambda: (daemon.row("10.66.1.3") or {}).get("state") == "blocked", what="its adoption")
    assert world.element("10.66.1.3") and "stood in the firewall" in daemon.log(), daemon.log()


def test_kill_9_of_the_whole_family(world):
    """The helper dies with the daemon; the kernel keeps what it was given."""
    daemon = world.daemon(CONF)
    for number in range(1, 11):
        world.fail(world.tcp(f"10.66.2.{number}"), 2)
        world.wait_element(f"10.66.2.{number}")
    with open(f"/proc/{daemon.pid}/task/{daemon.pid}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    daemon.stop(signal.SIGKILL)
    # A serving helper ends when its daemon does.
    wait_for(lambda: all(not os.path.exists(f"/proc/{pid}") or is_zombie(pid) for pid in children),
             what="the helper to end with its daemon")
    assert len(world.elements()) == 10
    daemon = world.daemon(CONF)
    agree(world, daemon, {f"10.66.2.{n}" for n in range(1, 11)})


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_firewall_and_database_are_brought_together(world):
    """Elements without rows, rows without elements: after a start both hold the same."""
    daemon = world.daemon(CONF)
    for number in range(1, 6):
        world.fail(world.tcp(f"10.66.3.{number}"), 2)
        element = world.wait_element(f"10.66.3.{number}")
    agree(world, daemon, {f"10.66.3.{n}" for n in range(1, 6)})
    daemon.stop(signal.SIGKILL)
    name = element["set"]
    harness.run("nft", f"delete element inet egress {name} {{ 10.66.3.1 . tcp . 2222 }}")
    harness.run("nft", f"add element inet egress {name} {{ 10.66.3.77 . tcp . 2222 timeout 30m }}")
    daemon = world.daemon(CONF)
    wait_for(lambda: same(world, daemon), 60, "agreement")
    blocks = database_blocks(world, daemon)
    assert "10.66.3.1" in blocks and len(blocks) in (5, 6), blocks


def test_all_of_a_burst_survives_kill_9(world):
    daemon = world.daemon("[local]\n2222 dgram udp * * 1 1h spoofable=count\n")
    server = world.udp()
    addresses = {f"10.66.{40 + n // 200}.{n % 200 + 1}" for n in range(1000)}
    for address in addresses:
        world.library.report(FAIL, server, "burst", harness.sockaddr(address, 9))
    wait_for(lambda: len(world.elements()) == 1000, 60, "1,000 elements")
    daemon.stop(signal.SIGKILL)
    daemon = world.daemon("[local]\n2222 dgram udp * * 1 1h spoofable=count\n")
    assert agree(world, daemon, addresses) == addresses


def test_counts_survive_restarts(world):
    connection = world.tcp("10.66.4.1")
    daemon = world.daemon("[local]\n2222 stream tcp * * 4 1h\n")
    for number in range(1, 4):
        world.fail(connection)
        wait_for(lambda: (daemon.row("10.66.4.1") or {}).get("count") == number, what="the count")
        assert daemon.stop() == 0
        daemon = world.daemon("[local]\n2222 stream tcp * * 4 1h\n")
        assert daemon.row("10.66.4.1")["count"] == number
    world.fail(connection)
    world.wait_element("10.66.4.1")


def test_clean_end_leaves_blocks_in_force(world):
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.4.2"), 2)
    world.wait_element("10.66.4.2")
    assert daemon.stop() == 0
    assert world.element("10.66.4.2")
    assert not os.path.exists(daemon.socket), "a dead daemon's socket is left"
    assert world.library.report(FAIL, world.tcp("10.66.4.3"), check=False) != 0
    assert database_blocks(world, daemon) == {"10.66.4.2"}


def test_blocks_that_ended_meanwhile_stay_ended(world):
    conf = "[local]\n2222 stream tcp * * 2 2s\n"
    daemon = world.daemon(conf)
    world.fail(world.tcp("10.66.4.4"), 2)
    world.wait_element("10.66.4.4")
    daemon.stop(signal.SIGKILL)
    world.wait_no_element("10.66.4.4")
    daemon = world.daemon(conf)
    wait_for(lambda: not daemon.blocks("blocked"), what="no block")
    assert world.element("10.66.4.4") is None


# --- disks and files ---------------------------------------------------------------------------

def small_disk(world, size):
    path = world.path("disk")
    os.mkdir(path)
    harness.mount("tmpfs", path, f"size={size},mode=0755")
    return path


def fill(path):
    """Takes all room that is left on the disk."""
    file = os.open(os.path.join(path, "filler"), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        os.close(file)


def test_disk_full_at_start(world):
    path = small_disk(world, "64k")
    fill(path)
    daemon = world.daemon(CONF, database=path, wait=False)
    assert daemon.wait(30) not in (0, None), daemon.log()
    assert daemon.process.returncode > 0, f"killed by a signal: {daemon.process.returncode}"
    assert path in daemon.log() and "space" in daemon.log().lower(), daemon.log()


def test_disk_full_while_running(world):
    path = small_disk(world, "1m")
    daemon = world.daemon("[local]\n2222 dgram udp * * 1 1h spoofable=count\n", database=path)
    fill(path)
    server = world.udp()
    addresses = [f"10.66.{50 + n // 200}.{n % 200 + 1}" for n in range(1000)]
    for address in addresses:
        world.library.report(FAIL, server, "full", harness.sockaddr(address, 9))
    wait_for(lambda: "space" in daemon.status()["store"]["last_error"].lower(), 30,
             lambda: f"the error in the status: {daemon.status()['store']}")
    # The firewall is closed all the same; what promises durability says no.
    wait_for(lambda: len(world.elements()) == 1000, 60, "1,000 elements")
    code, answer = daemon.request("POST", "/v1/blocks", {"addr": "192.0.2.77", "seconds": 600})
    assert code >= 500 and "database" in answer["error"], (code, answer)
    assert daemon.alive()
    os.unlink(os.path.join(path, "filler"))
    wait_for(lambda: set(addresses) <= database_blocks(world, daemon), 60,
             "everything to be written once there is room")
    wait_for(lambda: daemon.status()["store"]["pending"] == 0, what="nothing pending")


def broken(world, spoil):
    daemon = world.daemon(CONF)
    for number in range(1, 101):
        world.fail(world.tcp(f"10.66.6.{number}"), 1)
    wait_for(lambda: len(daemon.blocks()) == 100, what="100 rows")
    daemon.stop()
    spoil(os.path.join(daemon.database, "data.mdb"))
    again = world.daemon(CONF, wait=False)
    code = again.wait(30)
    assert code > 0, (code, again.log())
    log = again.log().lower()
    assert daemon.database in log, log
    assert any(word in log for word in ("damaged", "truncated", "corrupt", "not a database")), log
    done = world.ctl("dump", "-D", daemon.database)
    assert done.returncode == 3 and done.stderr, done


def test_database_of_garbage(world):
    def spoil(path):
        with open(path, "r+b") as file:
            file.write(os.urandom(os.path.getsize(path)))
    broken(world, spoil)


def test_database_with_garbage_inside(world):
    def spoil(path):
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            file.seek(8192)
            file.write(b"\xa5" * (size - 8192))
    broken(world, spoil)


def test_truncated_database(world):
    def spoil(path):
        os.truncate(path, 8192)
    broken(world, spoil)


def test_database_directory_that_cannot_be_used(world):
    for path in (world.path("missing/dir"), world.write("a-file", "x")):
        daemon = world.daemon(CONF, database=path, wait=False)
        assert daemon.wait(30) > 0, daemon.log()
        assert path in daemon.log(), daemon.log()


harness.main(globals())
