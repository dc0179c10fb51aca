"""The control API as anything that speaks HTTP meets it, and a log that nobody reads."""

import fcntl
import http.client
import json
import os
import socket
import time

import yaml

import harness
from harness import wait_for

CONF = "[local]\n2222 stream tcp * * 3 1h\n"


def test_lists_are_json_however_many_rows_do_not_match(world):
    daemon = world.daemon(CONF)
    # More rows than one piece of the answer looks at, and none of them blocked.
    for host in range(600):
        body = {"addr": f"198.51.{100 + host // 256}.{host % 256}", "port": 22, "protocol": "tcp"}
        assert daemon.request("POST", "/v1/blocks", body)[0] == 201
    status, rows = daemon.get("/v1/blocks?state=counting")
    assert (status, rows) == (200, []), rows
    status, rows = daemon.get("/v1/blocks?state=blocked")
    assert status == 200 and len(rows) == 600
    assert len({row["addr"] for row in rows}) == 600
    assert len(daemon.get("/v1/blocks")[1]) == 600


def test_bad_requests_get_a_reason_and_change_nothing(world):
    daemon = world.daemon(CONF)
    bad = [
        ("POST", "/v1/blocks", {}),
        ("POST", "/v1/blocks", {"addr": "nobody"}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1/24"}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1\0"}),
        ("POST", "/v1/blocks", {"addr": 7}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "port": 65536}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "port": "ssh"}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "protocol": "tcpp"}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "seconds": 0}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "seconds": -1}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "seconds": 1 << 62}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "name": "a;b"}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "name": "x" * 64}),
        ("POST", "/v1/blocks", {"addr": "192.0.2.1", "reason": ["no", "text"]}),
        ("DELETE", "/v1/blocks", {"addr": ""}),
        ("GET", "/v1/blocks?state=none", None),
        ("PUT", "/v1/blocks", {"addr": "192.0.2.1"}),
        ("GET", "/v1/nothing", None),
    ]
    for method, path, body in bad:
        status, answer = daemon.request(method, path, body)
        assert 400 <= status < 500, (method, path, body, status, answer)
        assert answer["error"], (method, path, body)
    assert daemon.status()["rows"] == 0


def test_unknown_keys_are_errors(world):
    """A key that is ignored may be a mistyped one that matters: a block without "seconds" has no end."""
    daemon = world.daemon(CONF)
    explained = {"addr": "192.0.2.1", "exe": "/bin/sh"}
    tried = {"name": "new", "text": CONF, "seconds": 10}
    for method, path, good, wrong, hint in (
            ("POST", "/v1/blocks", {"addr": "192.0.2.1"}, "second", 'did you mean "seconds"?'),
            ("POST", "/v1/blocks", {"addr": "192.0.2.1"}, "for", "known are addr, name, port"),
            ("DELETE", "/v1/blocks", {"addr": "192.0.2.1"}, "seconds", "known are addr, all, name"),
            ("POST", "/v1/explain", explained, "ports", 'did you mean "port"?'),
            ("PUT", "/v1/trial", tried, "wait", "known are name, seconds, text"),
            ("POST", "/v1/selftest", {"started": 1}, "x", "known are prepare, started")):
        status, answer = daemon.request(method, path, {**good, wrong: 1})
        assert status == 400 and f'"{wrong}" is no key here' in answer["error"], (path, status, answer)
        assert hint in answer["error"], (path, answer)
    assert daemon.status()["rows"] == 0 and "trial" not in daemon.status()["rules"]


def test_what_a_route_does_not_take_is_an_error(world):
    """On every route: a mistyped "force" would refuse, a mistyped filter would list too much."""
    daemon = world.daemon(CONF)
    with open(f"{harness.SOURCE}/etc/egress-openapi.yaml") as file:
        paths = yaml.safe_load(file)["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            names = [each["name"] for each in operation.get("parameters", [])]
            hint = "known are" if names else "this takes none"
            status, answer = daemon.request(method.upper(), path + "?zzzzzz=1")
            assert status == 400 and '"zzzzzz" is no argument here' in answer["error"], (method, path, answer)
            assert hint in answer["error"] and all(name in answer["error"] for name in names), answer
            if "requestBody" not in operation:
                status, answer = daemon.request(method.upper(), path, {})
                assert status == 400 and "this takes no body" in answer["error"], (method, path, answer)
    for method, path, said in (("POST", "/v1/reload?forse=1", 'did you mean "force"?'),
                               ("GET", "/v1/blocks?stat=counting", 'did you mean "state"?'),
                               ("POST", "/v1/reload?force=yes", '"force" is 1')):
        status, answer = daemon.request(method, path)
        assert status == 400 and said in answer["error"], (path, answer)


def test_a_reason_is_text_and_nothing_more(world):
    daemon = world.daemon(CONF)
    body = {"addr": "192.0.2.1", "reason": "one\n\x1b[2Jtwo\u202ethree"}
    status, row = daemon.request("POST", "/v1/blocks", body)
    assert status == 201
    assert row["reason"] == "one\\n\\x1b[2Jtwo\\xe2\\x80\\xaethree", row
    assert daemon.get("/v1/blocks")[1][0]["reason"] == row["reason"]
    assert "\x1b" not in daemon.log()


def test_a_reason_of_256_bytes_is_kept_whole(world):
    daemon = world.daemon(CONF)
    for size in (253, 254, 255, 256):
        reason = "x" * (size - 2) + "\u00df"
        assert daemon.request("POST", "/v1/blocks", {"addr": "192.0.2.1", "reason": reason})[1]["reason"] == reason
    done = world.ctl("dump", "-b", "--json", "-D", daemon.database, check=True)
    assert json.loads(done.stdout)[0]["reason"] == reason
    long = daemon.request("POST", "/v1/blocks", {"addr": "192.0.2.1", "reason": "x" * 257})[1]["reason"]
    assert long == "x" * 253 + "...", long
    done = world.ctl("block", "192.0.2.2", "--reason", "y" * 256, "--json", environment={"EGRESS_CONTROL": daemon.control})
    assert json.loads(done.stdout)["reason"] == "y" * 256, done


def test_a_kept_connection_is_as_quick_as_new_ones(world):
    daemon = world.daemon(CONF)

    def seconds(ask):
        before = time.monotonic()
        for host in range(200):
            assert ask(json.dumps({"addr": f"198.51.100.{host}"})) == 201
        return time.monotonic() - before

    def connected():
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(daemon.control)
        return connection

    def ask(connection, body):
        connection.request("POST", "/v1/blocks", body)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    kept = connected()
    anew = seconds(lambda body: ask(connected(), body))
    again = seconds(lambda body: ask(kept, body))
    assert again < 4 * anew, (again, anew)


def test_the_log_reads_well(world):
    daemon = world.daemon(CONF)
    daemon.request("POST", "/v1/blocks", {"addr": "192.0.2.1"})
    daemon.request("DELETE", "/v1/blocks", {"addr": "192.0.2.1"})
    world.fail(world.tcp("10.66.1.1"), 3, message='a "quoted" word')
    world.wait_element("10.66.1.1")
    wait_for(lambda: "block 10.66.1.1" in daemon.log(), what="the line")
    log = daemon.log()
    assert "port 0" not in log and "1 blocks" not in log and "0 rows in" in log, log
    assert "unblocked 192.0.2.1: 1 block\n" in log and "block 192.0.2.1 by hand\n" in log, log
    assert 'reported: a "quoted" word\n' in log, log


def test_the_journal_names_the_program_itself(world):
    mark = 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"'
    daemon = world.daemon(CONF, wrapper=("sh", "-c", mark, "sh"))
    wait_for(lambda: "<5>ready: 0 rows, 0 blocked\n" in daemon.log(), what=lambda: daemon.log())
    assert "egressd: " not in daemon.log(), daemon.log()


def test_a_log_that_nobody_reads_stops_nothing(world):
    fifo = world.path("log")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # repeats are folded: a large pipe would take them
    daemon = world.daemon(CONF, "-v", wrapper=("sh", "-c", f'exec "$@" 2<>{fifo}', "sh"))
    for number in range(3000):
        body = {"addr": f"2001:db8::{number:x}", "reason": "x" * 200}
        assert daemon.request("POST", "/v1/blocks", body)[0] == 201, number
    assert daemon.status()["blocked"] == 3000
    connection = world.tcp("10.66.1.1")
    world.fail(connection, 3)
    wait_for(lambda: daemon.status()["blocked"] == 3001, 10, "the report to count all the same")
    os.close(reader)


harness.main(globals())
