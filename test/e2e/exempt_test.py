"""Nobody is locked out by his own hand, and this host is never blocked."""

import re
import harness
from programs import wait_for

RULES = """[local]
2222 stream tcp * * 3 10m
[remote]
self * * * = * *
10.66.7.0/24 * * * = * *
10.66.7.9 * * * = 3 =
10.66.8.0/24:2222 * * * = * *
"""


def refused(daemon, address, *, says, **keys):
    query = keys.pop("query", "")
    code, body = daemon.request("POST", "/v1/blocks" + query, {"addr": address, **keys})
    assert code == 409, (address, code, body)
    assert any(says in text for text in body["cuts_off"]), (says, body)
    assert says in body["error"] and "force=1" in body["error"], body
    assert not daemon.blocks("blocked"), daemon.blocks("blocked")


def test_a_block_that_cuts_off_too_much_is_refused(world):
    daemon = world.daemon(RULES)
    refused(daemon, "0.0.0.0/0", says="every IPv4 address")
    refused(daemon, "::/0", says="every IPv6 address")
    refused(daemon, "127.0.0.5", says="127.0.0.0/8 of this host")
    refused(daemon, "::1", says="::1 of this host", port=22)
    refused(daemon, "10.66.0.1", says="10.66.0.1 of this host")
    refused(daemon, "10.66.0.0/24", says="10.66.0.1 of this host")
    refused(daemon, "fd66::/64", says="fd66::1 of this host")
    refused(daemon, "10.66.7.1", says="exempts (10.66.7.0/24 ")
    refused(daemon, "10.66.6.0/23", says="exempts (10.66.7.0/24 ")
    refused(daemon, "10.66.8.4", says="exempts (10.66.8.0/24:2222 ")
    refused(daemon, "10.66.8.4", says="exempts (10.66.8.0/24:2222 ", protocol="tcp", port=2222)
    session = "?session=10.66.40.9&session_port=22"
    refused(daemon, "10.66.40.0/24", says="10.66.40.9, where your session", query=session)
    refused(daemon, "10.66.40.9", says="10.66.40.9, where your session", query=session, port=22,
            protocol="tcp")


def test_harmless_blocks_are_taken(world):
    daemon = world.daemon(RULES)
    session = "?session=10.66.40.9&session_port=22"
    for address, keys in (("10.66.7.9", {}),  # a line of its own takes it out of the exemption
                          ("10.66.8.4", {"port": 23}), ("10.66.9.0/24", {}),
                          ("10.66.40.9", {"port": 2222}), ("10.66.40.9", {"protocol": "udp"}),
                          ("2001:db8::/32", {})):
        code, body = daemon.request("POST", "/v1/blocks" + session, {"addr": address, **keys})
        assert code == 201, (address, keys, code, body)
    for wrong in ("?session=here", "?session=10.66.40.9&session_port=many"):
        code, body = daemon.request("POST", "/v1/blocks" + wrong, {"addr": "10.66.9.1"})
        assert code == 400 and "session" in body["error"], (code, body)


def test_force_insists(world):
    daemon = world.daemon(RULES)
    at = {"EGRESS_CONTROL": daemon.control, "SSH_CONNECTION": "10.66.40.9 40000 10.66.0.1 22"}
    done = world.ctl("block", "10.66.40.9", environment=at)
    assert done.returncode == 1 and "where your session comes from" in done.stderr, done
    assert "--force" in done.stderr, done
    assert not daemon.blocks("blocked")
    done = world.ctl("block", "10.66.40.9", "--force", environment=at)
    assert done.returncode == 0, done
    world.wait_element("10.66.40.9")
    assert "insists" in daemon.log(), daemon.log()


def test_a_session_is_found_below_sudo(world):
    """sudo takes SSH_CONNECTION away; a process above still has it."""
    daemon = world.daemon(RULES)
    tool = harness.artefact("ctl/egressctl")
    environment = {**harness.free_environment(), "EGRESS_CONTROL": daemon.control,
                   "SSH_CONNECTION": "10.66.40.9 40000 10.66.0.1 22"}
    command = 'env -u SSH_CONNECTION "$0" block "$1"; exit $?'
    for address, expected in (("10.66.40.9", 1), ("10.66.40.8", 0)):
        done = harness.run("sh", "-c", command, tool, address, env=environment, check=False)
        assert done.returncode == expected, done
        assert ("where your session comes from" in done.stderr) == bool(expected), done
    assert [row["addr"] for row in daemon.blocks("blocked")] == ["10.66.40.8"], daemon.blocks("blocked")


def test_self_is_never_blocked_and_followed(world):
    daemon = world.daemon(RULES)
    world.fail(world.tcp("10.66.0.1"), 5)
    world.fail(world.tcp("fd66::1", local="fd66::1"), 5)
    world.fail(world.tcp("10.66.50.1"), 2)  # not ours yet
    wait_for(lambda: (daemon.row("10.66.50.1") or {}).get("count") == 2, what="its count")
    world.ip("addr", "add", "10.66.50.1/32", "dev", "lo")
    wait_for(lambda: exempt_now(daemon, "10.66.50.1"), what="the new address of this host")
    world.fail(world.tcp("10.66.50.1"), 5)
    wait_for(lambda: daemon.row("10.66.50.1")["count"] >= 7, what="failures of this host")
    assert not daemon.blocks("blocked"), daemon.blocks("blocked")
    world.ip("addr", "del", "10.66.50.1/32", "dev", "lo")
    world.ip("route", "replace", "local", "10.66.0.0/16", "dev", "lo")
    wait_for(lambda: not exempt_now(daemon, "10.66.50.1"), what="an address that is gone")
    world.fail(world.tcp("10.66.50.1"))
    world.wait_element("10.66.50.1")


def exempt_now(daemon, address):
    """Whether a block of it would be refused; asks without making one."""
    code, body = daemon.request("POST", "/v1/blocks",
                                {"addr": address, "port": 1, "protocol": "udp", "seconds": 1})
    if code == 201:
        daemon.request("DELETE", "/v1/blocks", {"addr": address, "port": 1})
    return code == 409


def test_unblock_says_what_still_shuts_out(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m grow=24:2,escalate=2\n")
    at = {"EGRESS_CONTROL": daemon.control}
    for host in ("10.66.9.7", "10.66.9.8"):
        world.fail(world.tcp(host))
        world.wait_element(host)
    world.wait_element("10.66.9.0/24")
    done = world.ctl("unblock", "10.66.9.7", environment=at)
    assert done.returncode == 1 and "lifted 1 block" in done.stdout, done
    assert "still shut out, by the block of 10.66.9.0/24 port 2222" in done.stderr, done
    code, body = daemon.request("DELETE", "/v1/blocks", {"addr": "10.66.9.7"})
    assert code == 200 and body["removed"] == 0, (code, body)
    assert [row["prefixlen"] for row in body["covered_by"]] == [24], body
    done = world.ctl("unblock", "10.66.9.7:22", environment=at)
    assert done.returncode == 1 and "no block stands at exactly" in done.stderr, done
    done = world.ctl("unblock", "10.66.9.0/24", environment=at)
    assert done.returncode == 0, done
    world.wait_no_element("10.66.9.0/24")


def test_unblock_of_one_port_below_a_block_of_all(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 10m\n")
    for keys in ({}, {"port": 22}, {"port": 23}, {"port": 22, "protocol": "udp"}):
        assert daemon.request("POST", "/v1/blocks", {"addr": "10.66.9.7", **keys})[0] == 201
    at = {"EGRESS_CONTROL": daemon.control}
    done = world.ctl("unblock", "10.66.9.7:22", environment=at)
    assert done.returncode == 1 and "lifted 2 blocks" in done.stdout, done
    assert "by the block of 10.66.9.7/32; " in done.stderr, done
    done = world.ctl("unblock", "10.66.9.7", environment=at)
    assert done.returncode == 0 and "lifted 2 blocks" in done.stdout, done


def test_unblock_ends_the_escalation(world):
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m escalate=3\n")
    for _ in range(2):
        world.fail(world.tcp("10.66.9.7"))
        assert world.wait_element("10.66.9.7")["timeout"] == 600
        code, body = daemon.request("DELETE", "/v1/blocks", {"addr": "10.66.9.7"})
        assert code == 200 and body["removed"] == 1, (code, body)
        world.wait_no_element("10.66.9.7")


def test_what_becomes_exempt_is_lifted(world):
    local = "[local]\n2222 stream tcp * * 1 10m\n"
    daemon = world.daemon(local)
    for host in ("10.66.7.1", "10.66.7.2", "10.66.50.1"):
        world.fail(world.tcp(host))
        world.wait_element(host)
    assert daemon.request("POST", "/v1/blocks", {"addr": "10.66.7.3"})[0] == 201
    assert daemon.request("POST", "/v1/blocks", {"addr": "10.66.6.0/23"})[0] == 201
    world.write("egress.conf", local + "[remote]\n10.66.7.0/24 * * * = * *\n"
                "10.66.7.2 * * * = 1 =\nself * * * = * *\n")
    assert daemon.request("POST", "/v1/reload")[0] == 200
    for host in ("10.66.7.1", "10.66.7.3"):
        world.wait_no_element(host)
        assert re.search(rf"lift the block of {re.escape(host)}[ :]", daemon.log()), daemon.log()
    assert {row["addr"] for row in daemon.blocks("blocked")} == {"10.66.7.2", "10.66.6.0",
                                                                  "10.66.50.1"}
    world.ip("addr", "add", "10.66.50.1/32", "dev", "lo")
    world.wait_no_element("10.66.50.1")


def test_exempt_while_no_daemon_ran(world):
    local = "[local]\n2222 stream tcp * * 1 10m\n"
    daemon = world.daemon(local)
    world.fail(world.tcp("10.66.7.1"))
    world.wait_element("10.66.7.1")
    daemon.stop()
    daemon = world.daemon(local + "[remote]\n10.66.7.0/24 * * * = * *\n")
    world.wait_no_element("10.66.7.1")
    assert not daemon.blocks("blocked")


def test_self_outside_remote_is_an_error(world):
    conf = world.write("wrong.conf", "[local]\nself stream tcp * * 3 10m\nself:22 * * * * 3 1h\n")
    done = world.ctl("check", conf)
    assert done.returncode == 1, done
    assert done.stderr.count("'self' stands in [remote] only") == 2, done


if __name__ == "__main__":
    harness.main(globals())
