"""A stock Debian sshd with pam_egress, and hydra at its door."""

import os
import shutil

import harness
import stock
from harness import wait_for

# The shipped rules decide; this drop-in only makes the block short enough to see it end.
DROP_IN = "[local]\n{address}:ssh stream tcp * * 4 {time}\n"


def set_up(world, rule):
    """Everything installed and running: (daemon, sshd)."""
    if harness.sanitized() and not os.path.exists(
            os.path.join(harness.PLAIN_BUILD, "lib/pam/pam_egress.so")) or (
            harness.sanitized() and harness.PLAIN_BUILD == harness.BUILD):
        raise harness.Skip("a sanitized PAM module cannot be loaded into a stock sshd; "
                           "EGRESS_TEST_PLAIN_BUILD names a plain build")
    for program in ("hydra", "sshpass", stock.SSHD):
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed (test/deps installs it)")
    stock.install(world, harness.PLAIN_BUILD)
    stock.enable_pam()
    stock.add_user("alice")
    stock.add_user("mallory")
    conf = "/etc/egress.conf"
    if rule:
        with open("/etc/egress.conf.d/test.conf", "w") as file:
            file.write(rule)
    daemon = world.daemon(conf)
    return daemon, stock.Sshd(world)


def attack(world, daemon, attacker, target, address, counted):
    """hydra until the block is in force; the set element."""
    process = stock.hydra(world, attacker, target, user="alice")
    wait_for(lambda: any(row["addr"] == counted for row in daemon.blocks()), 60,
             "a first failure to be counted")
    element = world.wait_element(address, 60)
    wait_for(lambda: world.element(address) and world.element(address)["packets"] > 0, 60,
             "dropped packets")
    process.kill()
    process.wait()
    return element


def test_attacker_is_shut_out_and_others_get_in(world):
    attacker, friend = world.host("attacker"), world.host("friend")
    daemon, sshd = set_up(world, DROP_IN.format(address=attacker.host4, time="25s"))
    done = stock.log_in(friend, friend.host4, "alice")
    assert done.stdout == "in\n", (done, sshd.text())
    element = attack(world, daemon, attacker, attacker.host4, attacker.v4, attacker.v4)
    assert (element["proto"], element["port"]) == ("tcp", 22), element
    row = daemon.row(attacker.v4)
    assert row["state"] == "blocked" and row["count"] >= 4 and row["nfail"] == 4, row
    text = world.ctl("dump", "-a", "-D", daemon.database, check=True).stdout
    assert f"{attacker.v4}/32:22" in text, text
    # Even the right password does not get in from there; from elsewhere it does.
    assert stock.log_in(attacker, attacker.host4, "alice", timeout=3).returncode != 0
    done = stock.log_in(friend, friend.host4, "alice")
    assert done.stdout == "in\n", (done, sshd.text())
    wait_for(lambda: not world.element(attacker.v4), 90, "the block to end")
    done = stock.log_in(attacker, attacker.host4, "alice")
    assert done.stdout == "in\n", (done, sshd.text())
    sshd.stop()


def test_attacker_over_ipv6_loses_its_prefix(world):
    attacker, friend = world.host("attacker"), world.host("friend")
    daemon, sshd = set_up(world, None)
    prefix = attacker.v6.rsplit("::", 1)[0] + "::"
    element = attack(world, daemon, attacker, attacker.host6, f"{prefix}/64", prefix)
    assert element["port"] in (22, 0), element
    assert stock.log_in(attacker, attacker.host6, "alice", timeout=3).returncode != 0
    done = stock.log_in(friend, friend.host6, "alice")
    assert done.stdout == "in\n", (done, sshd.text())
    sshd.stop()


def test_success_clears_the_count(world):
    friend = world.host("friend")
    daemon, sshd = set_up(world, DROP_IN.format(address=friend.host4, time="10m"))
    for count in (1, 2):
        assert stock.log_in(friend, friend.host4, "alice", "wrong").returncode != 0
        wait_for(lambda: (daemon.row(friend.v4) or {}).get("count") == count, what=f"count {count}")
    assert stock.log_in(friend, friend.host4, "alice").stdout == "in\n", sshd.text()
    wait_for(lambda: (daemon.row(friend.v4) or {"count": 0})["count"] == 0, what="count 0")
    sshd.stop()


def test_log_in_works_without_egressd(world):
    friend = world.host("friend")
    daemon, sshd = set_up(world, None)
    daemon.stop()
    assert stock.log_in(friend, friend.host4, "alice", "wrong").returncode != 0
    assert stock.log_in(friend, friend.host4, "alice").stdout == "in\n", sshd.text()
    sshd.stop()


harness.main(globals())
