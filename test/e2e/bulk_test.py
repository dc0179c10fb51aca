"""Many blocks at once, and all of them away again: one request, one answer when everything is durable."""

import json

import harness
from harness import wait_for

CONF = "[local]\n2222 stream tcp * * 3 1h\n[settings]\nrows 30000\n"
MANY = 20_000


def addresses(number):
    return [f"10.{80 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(number)]


def test_one_request_blocks_many(world):
    daemon = world.daemon(CONF)
    body = [{"addr": one, "port": 2222, "protocol": "tcp", "seconds": 3600, "reason": "a list"}
            for one in addresses(MANY)]
    status, answer = daemon.request("POST", "/v1/blocks", body)
    assert (status, answer) == (201, {"blocked": MANY}), (status, answer)
    # Some thousand rows each, and some more for what the firewall has confirmed by now.
    assert daemon.status()["store"]["commits"] < 200, daemon.status()["store"]
    stored = json.loads(world.ctl("dump", "-b", "--json", "-D", daemon.database, check=True).stdout)
    assert len(stored) == MANY, "it was said to be durable"
    assert {row["reason"] for row in stored} == {"a list"}, stored[0]
    wait_for(lambda: daemon.status()["not_in_force"] == 0, what="all of them in force")
    assert len(world.elements()) == MANY
    lines = [line for line in daemon.log().splitlines() if "10.80.0." in line]
    assert len(lines) < 10, "one line for one request"
    half = [{"addr": one} for one in addresses(MANY)[::2]] + [{"addr": "192.0.2.1"}]
    status, answer = daemon.request("DELETE", "/v1/blocks", half)
    assert (status, answer) == (200, {"removed": MANY // 2}), answer
    wait_for(lambda: len(world.elements()) == MANY // 2, what="half of them away")
    status, answer = daemon.request("DELETE", "/v1/blocks", {"all": True, "name": "other"})
    assert (status, answer) == (200, {"removed": 0}), answer
    status, answer = daemon.request("DELETE", "/v1/blocks", {"all": True})
    assert (status, answer) == (200, {"removed": MANY // 2}), answer
    wait_for(lambda: not world.elements(), what="all of them away")


def test_all_or_nothing(world):
    daemon = world.daemon(CONF)
    good = [{"addr": one} for one in addresses(3000)]
    for wrong, reason in (({"addr": "10.0.0.1/8"}, "host bits"), ({"addr": "10.0.0.1", "for": 1}, '"for"'),
                          ({}, '"addr" is missing'), (7, "object"), ([], "object")):
        for method in ("POST", "DELETE"):
            status, answer = daemon.request(method, "/v1/blocks", [*good, wrong])
            assert status == 400 and answer["error"].startswith("entry 3001: "), (wrong, answer)
            assert reason in answer["error"], (wrong, answer)
    for text in ('[{"addr":"10.0.0.1"}', '[{"addr":"10.0.0.1"},]', '[{"addr":"10.0.0.1"}] x', "[,]", "[}",
                 '[{"addr":"10.0.0.1"} {"addr":"10.0.0.2"}]', '["', "[" * 100_000, '[{"addr":"10.0.0.1"]}'):
        done = harness.run("curl", "-sS", "--unix-socket", daemon.control, "--data-binary", "@-",
                           "-w", " %{http_code}", "http://x/v1/blocks", input=text)
        assert done.stdout.endswith(" 400") and '"error"' in done.stdout, (text[:40], done)
    status, answer = daemon.request("DELETE", "/v1/blocks", {"all": True, "addr": "10.0.0.1"})
    assert status == 400 and "all" in answer["error"], answer
    status, answer = daemon.request("DELETE", "/v1/blocks", {"all": False})
    assert status == 400, answer
    assert daemon.status()["rows"] == 0
    for method in ("POST", "DELETE"):
        status, answer = daemon.request(method, "/v1/blocks", [])
        assert (status, list(answer.values())) == (201 if method == "POST" else 200, [0]), answer


def test_too_many_for_the_table_is_said(world):
    daemon = world.daemon(CONF)
    status, answer = daemon.request("POST", "/v1/blocks", [{"addr": one} for one in addresses(30_002)])
    assert status == 507 and "30000 of 30002" in answer["error"] and "rows" in answer["error"], answer
    assert daemon.status()["blocked"] == 30_000


def test_a_body_is_bounded(world):
    daemon = world.daemon(CONF)
    for path, mib in (("/v1/explain", 2), ("/v1/blocks", 17)):
        status, answer = daemon.request("POST", path, "x" * (mib << 20))
        assert status == 413 and f"over {mib - 1} MiB" in answer["error"], answer


def test_the_daemon_goes_on_meanwhile(world):
    """A block by report comes into force while a long list is taken, and other requests are answered."""
    daemon = world.daemon(CONF.replace("30000", "200000"))
    lists = [harness.subprocess.Popen(
        ["curl", "-sS", "--unix-socket", daemon.control, "--data-binary", "@" + world.write(
            f"list{i}", json.dumps([{"addr": f"10.{90 + i}.{n // 256}.{n % 256}"} for n in range(60_000)])),
         "http://x/v1/blocks"], stdout=harness.subprocess.PIPE, text=True) for i in range(3)]
    world.fail(world.tcp("10.66.1.1"), 3)
    answered = 0
    while any(one.poll() is None for one in lists):
        assert daemon.request("GET", "/v1/status", timeout=5)[0] == 200
        answered += 1
    assert answered > 3, answered
    assert [json.loads(one.stdout.read()) for one in lists] == [{"blocked": 60_000}] * 3
    world.wait_element("10.66.1.1")


def test_a_dump_of_many_takes_little_memory(world):
    """Rows go through egressctl one by one."""
    if harness.sanitized():
        raise harness.Skip("the sanitizers keep what is freed")
    daemon = world.daemon(CONF.replace("30000", "300000"))
    for turn in range(3):
        body = [{"addr": f"10.{90 + turn}.{n // 256}.{n % 256}"} for n in range(60_000)]
        assert daemon.request("POST", "/v1/blocks", body)[0] == 201
    # A child counts what its parent had, too, so the parent is a small one.
    measure = ("import resource, subprocess, sys\n"
               "subprocess.run(sys.argv[2:], stdout=open(sys.argv[1], 'wb'), check=True)\n"
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = harness.run("python3", "-c", measure, world.path("rows"), harness.artefact("ctl/egressctl"), "dump", "-b",
                       "--json", "-D", daemon.database, env=harness.free_environment())
    with open(world.path("rows")) as rows:
        assert len(json.load(rows)) == 180_000
    assert int(done.stdout) < 24 << 10, f"{done.stdout} KiB"


def test_lists_from_a_file(world):
    daemon = world.daemon(CONF)
    at = {"EGRESS_CONTROL": daemon.control}
    path = world.write("list", "# a feed\n\n10.80.0.1\n  10.80.1.0/24  # a network\n2001:db8::/32:2222\n"
                               "[2001:db8:1::1]:22\r\n10.80.0.2:2222")
    done = world.ctl("block", "--from", path, "--for", "1h", "--reason", "feed", environment=at)
    assert done.returncode == 0 and "blocked 5" in done.stdout, done
    rows = daemon.blocks()
    assert {(row["addr"], row["prefixlen"], row.get("port")) for row in rows} == {
        ("10.80.0.1", 32, None), ("10.80.1.0", 24, None), ("2001:db8::", 32, 2222), ("2001:db8:1::1", 128, 22),
        ("10.80.0.2", 32, 2222)}, rows
    assert all(row["reason"] == "feed" and row.get("until") for row in rows), rows
    done = world.ctl("unblock", "--from", "-", "--json", environment=at, input="10.80.0.1\n10.80.0.2\n10.80.0.9\n")
    assert done.returncode == 0 and json.loads(done.stdout) == {"removed": 2}, done
    done = world.ctl("unblock", "--from", "-", environment=at, input="10.80.0.9\n")
    assert done.returncode == 1 and "no block" in done.stderr, done
    wrong = world.write("wrong", "10.80.0.5\n10.80.0.1/24\nnobody\x1b[2J\n10.80.0.7 10.80.0.8\n")
    done = world.ctl("block", "--from", wrong, environment=at)
    assert done.returncode == 1 and "\x1b" not in done.stderr, done
    for line in (2, 3, 4):
        assert f"wrong:{line}: " in done.stderr, done
    assert not [row for row in daemon.blocks() if row["addr"] == "10.80.0.5"], "a wrong list changes nothing"
    for words in (("block", "--from", wrong, "10.0.0.1"), ("block",), ("unblock", "--all", "10.0.0.1"),
                  ("unblock", "--all", "--from", wrong), ("unblock",)):
        done = world.ctl(*words, environment=at)
        assert done.returncode == 2 and done.stderr, (words, done)
    done = world.ctl("block", "--from", world.path("none"), environment=at)
    assert done.returncode == 3 and "none" in done.stderr, done
    done = world.ctl("block", "--from", world.write("empty", "# nothing\n"), environment=at)
    assert done.returncode == 1 and "no address" in done.stderr, done
    done = world.ctl("unblock", "--all", "--name", "other", environment=at)
    assert done.returncode == 1, done
    done = world.ctl("unblock", "--all", environment=at)
    assert done.returncode == 0 and "lifted 3 blocks" in done.stdout, done
    wait_for(lambda: not world.elements(), what="no elements")


harness.main(globals())
