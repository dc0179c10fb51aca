"""What an administrator asks of one address: what is known of it, what would be, and to forget it."""

import json
import os
import subprocess
import time

import harness
from harness import OK, wait_for

CONF = """[local]
2222 stream tcp * * 3 1h
2223 stream tcp * -mail 2 10m escalate=2
10.66.0.1:2224 stream tcp * * 2 1h
[remote]
10.66.9.0/24 * * * = * *
10.66.8.0/24 * * * =/24 = *
"""


def counted(daemon, address, count):
    wait_for(lambda: (daemon.row(address) or {}).get("count") == count, what=f"{count} failures of {address}")


def scene(world):
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.1.1"), 3)
    world.fail(world.tcp("10.66.1.2"), 1)
    world.fail(world.tcp("10.66.1.3", port=2223), 2)
    world.fail(world.tcp("10.66.8.7"), 2)
    wait_for(lambda: daemon.status()["blocked"] == 2 and daemon.status()["counting"] == 2, what="the rows")
    wait_for(lambda: daemon.status()["store"]["pending"] == 0, what="everything written")
    counted(daemon, "10.66.8.0", 2)
    return daemon, {"EGRESS_CONTROL": daemon.control}


def test_dump_of_an_address_and_by_columns(world):
    daemon, _ = scene(world)
    wait_for(lambda: daemon.status()["not_in_force"] == 0 and daemon.status()["store"]["pending"] == 0,
             what="everything in force")

    def found(*words):
        done = world.ctl("dump", "-D", daemon.database, "--json", *words, check=True)
        return {row["addr"] for row in json.loads(done.stdout)}
    assert found("10.66.1.1") == {"10.66.1.1"}
    assert found("10.66.8.7") == {"10.66.8.0"}, "the network that counts it"
    assert found("10.66.1.0/24") == {"10.66.1.1", "10.66.1.2", "10.66.1.3"}
    assert found("10.66.1.0/24:2223") == {"10.66.1.3"}
    assert found("-b", "10.66.1.0/24") == {"10.66.1.1", "10.66.1.3"}
    assert found("-a", "--name", "egress-mail") == {"10.66.1.3"}
    assert found("-a", "--port", "2222", "--port", "2223") == {"10.66.1.1", "10.66.1.2", "10.66.1.3", "10.66.8.0"}
    assert found("--state", "blocked") == {"10.66.1.1", "10.66.1.3"}
    assert found("--state", "counting", "--port", "2222") == {"10.66.1.2", "10.66.8.0"}
    assert found("192.0.2.1") == set()
    for words in (("--state", "none"), ("--port", "0"), ("--name", "a b"), ("nobody",), ("10.0.0.1/8",)):
        done = world.ctl("dump", "-D", daemon.database, *words)
        assert done.returncode == 2 and done.stderr, (words, done)


def test_which_says_who_is_exempt(world):
    """As the firewall has it: an owner's line, or a network around a limited address, exempts nobody else."""
    daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n[remote]\n"
                          "10.66.0.0/16 * * * = * *\n10.66.7.7 * * * = = *\n"
                          "10.67.0.1:2222 stream tcp * = * *\n10.68.0.1 * * root = * *\nself * * * = * *\n")
    for address, line in (("10.66.1.1", 4), ("10.66.7.7", None), ("10.67.0.1", 6), ("10.68.0.1", None),
                          ("127.0.0.1", 8), ("192.0.2.1", None)):
        code, answer = daemon.get(f"/v1/which?addr={address}")
        assert code == 200, answer
        lines = [int(each["rule"].split(":")[1]) for each in answer["exemptions"]]
        assert lines == ([line] if line else []), (address, answer)


def test_explain_report_shows_what_is_counted_by_name(world):
    daemon = world.daemon("[local]\n2222 stream tcp * -all 3 1h count=name\n"
                          "2223 stream tcp * -all 3 1h count=name\n")
    world.fail(world.tcp("10.66.1.1"), 1)
    world.fail(world.tcp("10.66.1.1", port=2223), 1)
    counted(daemon, "10.66.1.1", 2)
    for port in (2222, 2223):
        code, answer = daemon.request("POST", "/v1/explain/report", {"addr": "10.66.1.1", "port": port})
        assert code == 200 and answer["row"]["count"] == 2, answer


def test_dump_by_a_member_of_the_group(world):
    """Who may ask the daemon and not read its files gets the same rows."""
    if not os.path.isdir("/var/lib"):
        raise harness.Skip("there is no /var/lib")
    group = world.path("group")
    with open("/etc/group") as before, open(group, "w") as file:
        file.write("".join(line for line in before if not line.startswith("egress:")))
        file.write("egress:x:54321:\n")
    os.chmod(group, 0o644)
    if harness.libc.mount(group.encode(), b"/etc/group", None, 4096, None) != 0:
        raise harness.Skip("cannot mount a file")
    harness.mount("tmpfs", "/var/lib")
    os.mkdir("/var/lib/egress", 0o700)
    daemon = world.daemon(CONF, database="/var/lib/egress")
    world.fail(world.tcp("10.66.1.1"), 3)
    world.fail(world.tcp("10.66.1.2"), 1)
    wait_for(lambda: daemon.status()["not_in_force"] == 0 and daemon.status()["rows"] == 2, what="the rows")
    daemon.request("POST", "/v1/blocks", {"addr": "2001:db8::/32", "seconds": 600, "reason": "r\u00e9"})
    wait_for(lambda: daemon.status()["not_in_force"] == 0 and daemon.status()["store"]["pending"] == 0,
             what="everything in force and written")

    def as_member(*words):
        done = subprocess.run([harness.artefact("ctl/egressctl"), "-S", daemon.control, "dump", *words],
                              capture_output=True, text=True, user=harness.NOBODY, group=54321, extra_groups=[])
        assert done.returncode == 0, done
        return done.stdout
    harness.need_reachable()
    mine = json.loads(world.ctl("dump", "-a", "--json", check=True).stdout)
    theirs = json.loads(as_member("-a", "--json"))
    assert len(mine) == 3 and sorted(mine, key=str) == sorted(theirs, key=str), (mine, theirs)
    assert len(as_member("-b", "-n").splitlines()) == 2
    assert "10.66.1.2/32:2222\t\t1/3\t" in as_member("10.66.1.2"), as_member("10.66.1.2")
    refused = subprocess.run([harness.artefact("ctl/egressctl"), "-S", daemon.control, "dump", "-a"],
                             capture_output=True, text=True, user=harness.NOBODY, group=harness.NOBODY, extra_groups=[])
    assert refused.returncode == 3 and not refused.stdout and "egress" in refused.stderr, refused


def test_which(world):
    daemon, at = scene(world)
    world.ctl("block", "10.66.1.0/24", "--reason", "whole net", environment=at, check=True)
    done = world.ctl("which", "10.66.1.1", environment=at)
    assert done.returncode == 0, done
    assert "10.66.1.1/32 port 2222 tcp in egress" in done.stdout and "egress.conf:2:1" in done.stdout, done
    assert "10.66.1.0/24 in egress for ever: whole net" in done.stdout, done
    done = world.ctl("which", "10.66.9.4", environment=at)
    assert done.returncode == 0 and "exempt " in done.stdout and "egress.conf:6:1: 10.66.9.0/24" in done.stdout, done
    done = world.ctl("which", "10.66.8.9", environment=at)
    assert done.returncode == 1 and "10.66.8.0/24 port 2222" in done.stdout and "2 of 3" in done.stdout, done
    answer = json.loads(world.ctl("which", "10.66.1.1", "--json", environment=at, check=True).stdout)
    assert len(answer["blocks"]) == 2 and answer["exemptions"] == [] == answer["counts"], answer
    done = world.ctl("which", "192.0.2.77", environment=at)
    assert done.returncode == 1 and "no block and no exemption covers 192.0.2.77" in done.stderr, done
    assert world.ctl("which", "10.66.1.1:22", environment=at).returncode == 2
    for query in ("", "?addr=x", "?addr=10.0.0.1/8", "?addr=10.0.0.1&x=1"):
        assert daemon.get("/v1/which" + query)[0] == 400, query


def test_forget(world):
    daemon, at = scene(world)
    world.wait_element("10.66.1.3")
    done = world.ctl("forget", "10.66.1.2", environment=at)
    assert done.returncode == 0 and "forgot 1 row, lifted 0 blocks" in done.stdout, done
    assert daemon.row("10.66.1.2") is None
    assert world.ctl("forget", "10.66.1.2", environment=at).returncode == 1
    # What lies in a network goes with it; the escalation, too: the next block is as short as the first.
    done = world.ctl("forget", "10.66.1.0/24", "--name", "egress-mail", "--json", environment=at)
    assert json.loads(done.stdout) == {"forgotten": 1, "lifted": 1}, done
    world.wait_no_element("10.66.1.3")
    wait_for(lambda: daemon.row("10.66.1.3") is None, what="the row to go")
    stored = json.loads(world.ctl("dump", "-a", "--json", "-D", daemon.database, check=True).stdout)
    wait_for(lambda: daemon.status()["store"]["pending"] == 0, what="everything written")
    assert {row["addr"] for row in stored} <= {"10.66.1.1", "10.66.1.3", "10.66.8.0"}, stored
    world.fail(world.tcp("10.66.1.3", port=2223), 2)
    assert world.wait_element("10.66.1.3")["timeout"] == 600, "10 minutes, as at first"
    assert world.element("10.66.1.1"), "not asked for"
    done = world.ctl("forget", "10.66.8.7", environment=at)
    assert done.returncode == 1 and "egressctl which" in done.stderr, done
    for body in ({}, {"addr": "x"}, {"addr": "10.0.0.1", "seconds": 1}):
        assert daemon.request("POST", "/v1/forget", body)[0] == 400, body


def test_explain_a_report(world):
    daemon, at = scene(world)

    def explained(*words, status=0):
        done = world.ctl("explain", "--report", *words, environment=at)
        assert done.returncode == status, (words, done)
        return done.stdout
    text = explained("10.66.1.2", "2222")
    assert "counted as 10.66.1.2 in egress: 3 failures block it for 1h" in text, text
    assert "egress.conf:2:1: 2222 stream tcp" in text and "1 of 3 failures, counting" in text, text
    text = explained("10.66.8.200", "2223")
    assert "counted as 10.66.8.0/24 in egress-mail" in text and "egress.conf:7:1" in text, text
    assert "never blocked" in explained("10.66.9.1", "2222")
    assert "ignored" in explained("10.66.1.1", "22", status=1)
    text = explained("10.66.1.1", "2224", status=1)
    assert "ignored" in text and "write ADDR:PORT" in text, text
    assert "egress.conf:4:1" in explained("10.66.1.1", "10.66.0.1:2224")
    assert "ignored" in explained("10.66.1.1", "2222", "--proto", "udp", status=1)
    answer = json.loads(explained("10.66.1.1", "2222", "--json"))
    assert answer["action"] == "counted" and answer["row"]["addr"] == "10.66.1.1", answer
    for words in (("10.66.1.0/24", "2222"), ("10.66.1.1", "nowhere"), ("10.66.1.1", "10.66.0.1"),
                  ("10.66.1.1", "2222", "--exe", "/bin/sh"), ("10.66.1.1", "2222", "--type", "raw")):
        assert world.ctl("explain", "--report", *words, environment=at).returncode == 2, words
    for body in ({"addr": "10.0.0.1"}, {"port": 1}, {"addr": "10.0.0.1", "port": 0},
                 {"addr": "10.0.0.1", "port": 1, "local": "x"}, {"addr": "10.0.0.1", "port": 1, "type": "raw"}):
        assert daemon.request("POST", "/v1/explain/report", body)[0] == 400, body


def watching(world, daemon, *words):
    watcher = subprocess.Popen([harness.artefact("ctl/egressctl"), "-S", daemon.control, "watch", "--blocks", *words],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_for(lambda: daemon.status()["egress"]["events"]["watchers"] > watching.before, what="the watcher")
    watching.before += 1
    return watcher


watching.before = 0


def test_watch_blocks(world):
    daemon = world.daemon(CONF)
    at = {"EGRESS_CONTROL": daemon.control}
    watching.before = 0
    everything = watching(world, daemon, "--json")
    some = watching(world, daemon, "--addr", "10.66.1.0/24", "--action", "lift")
    named = watching(world, daemon, "--name", "egress-mail")
    connection = world.tcp("10.66.1.1")  # from before the block, which closes the port
    world.fail(connection, 3)
    world.wait_element("10.66.1.1")
    time.sleep(1.1)  # an end in the same second is the same end
    world.fail(connection, 1)
    wait_for(lambda: daemon.status()["reports"]["extended"] == 1, what="the extension")
    world.library.report(OK, connection, "in")
    wait_for(lambda: not daemon.blocks("blocked"), what="the lift")
    world.ctl("block", "10.66.1.9", "--name", "egress-mail", "--for", "1s", environment=at, check=True)
    wait_for(lambda: not daemon.blocks("blocked"), what="its end")
    world.ctl("block", "192.0.2.1", environment=at, check=True)
    world.ctl("unblock", "192.0.2.1", environment=at, check=True)
    daemon.stop()
    seen = [json.loads(line) for line in everything.stdout]
    told = [(one["action"], one["addr"], one.get("why")) for one in seen]
    assert told == [("BLOCK", "10.66.1.1", None), ("EXTEND", "10.66.1.1", None), ("LIFT", "10.66.1.1", "success"),
                    ("BLOCK", "10.66.1.9", None), ("LIFT", "10.66.1.9", "expired"),
                    ("BLOCK", "192.0.2.1", None), ("LIFT", "192.0.2.1", "by hand")], told
    assert seen[0]["reason"].endswith("egress.conf:2:1") and seen[0]["count"] == 3 and seen[0]["until"], seen[0]
    lines = some.stdout.read().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "LIFT 10.66.1.1/32 port 2222 tcp in egress: success", "LIFT 10.66.1.9/32 in egress-mail: expired"], lines
    assert [line.split(" ")[1] for line in named.stdout.read().splitlines()] == ["BLOCK", "LIFT"]


def test_watch_refuses_what_blocks_do_not_have(world):
    daemon = world.daemon(CONF)
    for query in ("kind=none", "kind=blocks&exe=/bin/sh", "kind=blocks&action=BLOCKED", "kind=blocks&port=0",
                  "kind=blocks&addr=x", "kind=blocks&name=a%20b", "name=egress", "action=LIFT"):
        status, answer = daemon.get("/v1/events?" + query)
        assert status == 400 and answer["error"], (query, answer)
    at = {"EGRESS_CONTROL": daemon.control}
    for words in (("--blocks", "--exe", "/bin/sh"), ("--blocks", "--action", "BLOCKED"), ("--name", "egress"),
                  ("--action", "LIFT"), ("--blocks", "--name", "a b")):
        assert world.ctl("watch", *words, environment=at).returncode == 2, words


def test_status_by_service(world):
    daemon, at = scene(world)
    services = {(one["name"], one["port"]): one for one in daemon.status()["services"]}
    one = services["egress", 2222]
    assert (one["protocol"], one["blocked"], one["counting"], one["failures"], one["blocks"]) == ("tcp", 1, 2, 6, 1), one
    assert services["egress-mail", 2223]["blocked"] == 1, services
    text = world.ctl("status", environment=at, check=True).stdout
    assert "egress-mail port 2223 tcp: 1 blocked, 2 failures, 1 block made" in text, text
    world.ctl("unblock", "--all", environment=at, check=True)
    wait_for(lambda: not world.elements(), what="no elements")
    world.ctl("forget", "0.0.0.0/0", environment=at, check=True)
    for one in daemon.status()["services"]:
        assert (one["blocked"], one["counting"], one["releasing"]) == (0, 0, 0), one
    daemon.stop()
    again = world.daemon(CONF)
    assert again.status()["services"] == [], "nothing is left"


def test_status_shows_what_is_not_zero(world):
    daemon, at = scene(world)
    short = world.ctl("status", environment=at, check=True).stdout
    whole = world.ctl("status", "-v", environment=at, check=True).stdout
    assert "too_short" not in short and " 0 " not in short.split("store", 1)[1], short
    assert "0 too_short" in whole and len(whole.splitlines()) > len(short.splitlines()) + 10, whole
    assert os.path.basename(daemon.database) in short


harness.main(globals())
