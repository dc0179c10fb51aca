"""New rules, or the old ones; never a mixture."""

import ctypes
import json
import os
import shutil
import signal
import threading

import harness
from harness import wait_for

OLD = "[local]\n2222 stream tcp * * 5 1h\n"


def control(daemon):
    return {"EGRESS_CONTROL": daemon.control}


def test_bad_file_keeps_the_old_rules(world):
    daemon = world.daemon(OLD)
    before = daemon.get("/v1/rules")[1]["text"]
    world.write("egress.conf", "[local]\n2222 stream tcp * * 1 1h\n2223 stream tcp * * many 1h\n")
    done = world.ctl("reload", environment=control(daemon))
    assert done.returncode == 1, done
    assert "egress.conf:3:" in done.stderr, done
    assert daemon.get("/v1/rules")[1]["text"] == before
    assert "egress.conf:3:" in json.dumps(daemon.status()["rules"]["last_error"]), daemon.status()
    world.fail(world.tcp("10.66.1.1"), 4)
    wait_for(lambda: (daemon.row("10.66.1.1") or {}).get("count") == 4, what="count 4")
    assert daemon.row("10.66.1.1")["nfail"] == 5
    assert not world.elements()


def test_a_wrong_line_at_the_start_keeps_the_last_good_rules(world):
    """A host that boots with it is not without rules, and everybody is told."""
    wrong = "[local]\n2222 stream tcp * * 1 1h\n2223 stream tcp * * many 1h\n"
    first = world.daemon(world.write("wrong.conf", wrong), wait=False)
    assert first.wait() == 1 and "not started" in first.log(), "nothing good was there before"
    daemon = world.daemon(OLD + "[remote]\n10.66.9.0/24 * * * = * *\n")
    wait_for(lambda: daemon.status()["store"]["pending"] == 0, what="everything written")
    good = daemon.get("/v1/rules")[1]["text"]
    daemon.stop()
    daemon = world.daemon(wrong)
    assert daemon.get("/v1/rules")[1]["text"] == good
    error = daemon.status()["rules"]["last_error"]
    assert "last good start" in error and "egress.conf:3:" in error, error
    assert "error: the rules files have errors" in daemon.log() and "egress.conf:3:" in daemon.log(), daemon.log()
    assert "LAST ERROR    rules: the rules files have errors" in world.ctl("status", environment=control(daemon)).stdout
    world.fail(world.tcp("10.66.1.1"), 5)
    world.wait_element("10.66.1.1")
    daemon.send(signal.SIGKILL)  # and again: the kept ones are not lost by a start with them
    daemon.wait()
    daemon = world.daemon(wrong)
    assert daemon.get("/v1/rules")[1]["text"] == good
    world.write("egress.conf", "[local]\n2224 stream tcp * * 7 1h\n")
    assert world.ctl("reload", environment=control(daemon)).returncode == 0
    assert daemon.status()["rules"]["last_error"] == ""
    mended = daemon.get("/v1/rules")[1]["text"]
    wait_for(lambda: daemon.status()["store"]["pending"] == 0, what="everything written")
    daemon.stop()
    os.unlink(daemon.conf)  # no file is as wrong as a wrong one
    daemon = world.daemon(daemon.conf)
    assert daemon.get("/v1/rules")[1]["text"] == mended
    dry = harness.run(harness.artefact("daemon/egressd"), "-n", "-c", world.write("wrong.conf", wrong), check=False)
    assert dry.returncode == 1 and "wrong.conf:3:" in dry.stderr, dry


def test_good_file_replaces(world):
    daemon = world.daemon(OLD)
    world.write("egress.conf", "[local]\n2223 stream tcp * * 1 1h\n")
    done = world.ctl("reload", environment=control(daemon))
    assert done.returncode == 0, done
    world.fail(world.tcp("10.66.1.2"), 9)  # port 2222: no rule any more
    world.fail(world.tcp("10.66.1.3", port=2223))
    world.wait_element("10.66.1.3")
    wait_for(lambda: daemon.status()["reports"]["unmatched"] == 9, what="9 unmatched reports")
    assert world.element("10.66.1.2") is None


def test_sighup_reloads(world):
    daemon = world.daemon(OLD)
    loaded = daemon.get("/v1/rules")[1]["text"]
    world.write("egress.conf", "[local]\n2224 stream tcp * * 7 1h\n")
    daemon.send(signal.SIGHUP)
    wait_for(lambda: daemon.get("/v1/rules")[1]["text"] != loaded, what="the new rules")
    assert "2224" in daemon.get("/v1/rules")[1]["text"]
    good = daemon.get("/v1/rules")[1]["text"]
    world.write("egress.conf", "nonsense\n")
    daemon.send(signal.SIGHUP)
    wait_for(lambda: daemon.status()["rules"]["last_error"], what="an error in the status")
    assert daemon.get("/v1/rules")[1]["text"] == good
    wait_for(lambda: "egress.conf:1:" in daemon.log(), what="the error in the log")
    os.unlink(daemon.conf)
    daemon.send(signal.SIGHUP)
    wait_for(lambda: "egress.conf: " in daemon.status()["rules"]["last_error"] or
             "No such file" in daemon.status()["rules"]["last_error"], what="the missing file named")
    assert daemon.alive() and daemon.get("/v1/rules")[1]["text"] == good
    world.write("egress.conf", OLD)
    daemon.send(signal.SIGHUP)
    wait_for(lambda: not daemon.status()["rules"]["last_error"], what="the error to be over")


def test_new_nfail_applies_to_what_is_counted(world):
    daemon = world.daemon(OLD)
    connection = world.tcp("10.66.1.4")
    world.fail(connection, 3)
    wait_for(lambda: (daemon.row("10.66.1.4") or {}).get("count") == 3, what="count 3")
    world.write("egress.conf", "[local]\n2222 stream tcp * * 4 30m\n")
    assert world.ctl("reload", environment=control(daemon)).returncode == 0
    world.fail(connection, 1)
    assert world.wait_element("10.66.1.4")["timeout"] == 1800


def test_reload_under_fire(world):
    """Reports that come in meanwhile are judged by the old rules or the new ones: none is lost."""
    rules = "[local]\n2222 stream tcp * * 1000000 1h\n"
    daemon = world.daemon(rules)
    connection = world.tcp("10.66.1.5")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with world.library.connection() as report:
                sent = 0
                while sent < 20000:
                    sent += report(harness.FAIL, connection) == 0
            code = 0
        finally:
            os._exit(code)
    for number in range(50):
        world.write("egress.conf", rules + f"{3000 + number} stream tcp * * 3 1h\n")
        assert daemon.request("POST", "/v1/reload")[0] == 200
    assert os.waitpid(pid, 0)[1] == 0
    wait_for(lambda: daemon.row("10.66.1.5")["count"] == 20000, 60, "all 20,000 to be counted")


BLOCKLISTD = """\
# Blacklist rule
# adr/mask:port	type	proto	owner		name	nfail	disable
[local]
ssh		stream	*	*		*	3	24h
ftp		stream	tcp	*		*	3	24h
smtp		stream	*	*		*	3	24h
submission	stream	*	*		*	3	24h
domain		*	*	named		*	3	12h
*		*	*	*		*	3	60

# adr/mask:port	type	proto	owner		name	nfail	disable
[remote]
#129.168.0.0/16	*	*	*		=	*	*
6.6.6.0/24:ssh	*	*	*		*	*	*
10.66.9.0/24	*	*	*		=	*	*
*		stream	tcp	*		=	=	=
"""


def test_blocklistd_conf_is_taken_as_it_is(world):
    """(named may not be a user here; the shipped file's other lines are as their authors wrote.)"""
    text = BLOCKLISTD.replace("named", "daemon")
    daemon = world.daemon(text)
    connection = world.tcp("10.66.1.6", port=22)
    world.fail(connection, 3)
    element = world.wait_element("10.66.1.6")
    assert (element["port"], element["timeout"]) == (22, 86400), element
    world.fail(world.tcp("10.66.1.7", port=8080), 3)
    assert world.wait_element("10.66.1.7")["timeout"] == 60
    world.fail(world.tcp("10.66.9.1", port=22), 5)
    before = daemon.taken()
    world.fail(world.tcp("10.66.1.8", port=22))
    wait_for(lambda: daemon.taken() > before, what="the last report")
    assert world.element("10.66.9.1") is None


def test_conf_directory_is_read_in_order(world):
    os.mkdir(world.path("egress.conf.d"))
    # Of equal lines the first decides: 10-a comes before 20-b whatever order they were made in.
    world.write("egress.conf.d/20-b.conf", "[local]\n2223 stream tcp * -two 1 1h\n")
    world.write("egress.conf.d/10-a.conf", "[local]\n2223 stream tcp * -one 1 1h\n")
    world.write("egress.conf.d/ignored", "nonsense\n")
    daemon = world.daemon(OLD)
    world.fail(world.tcp("10.66.2.1", port=2223))
    assert world.wait_element("10.66.2.1")["name"] == "egress-one"
    world.write("egress.conf.d/30-c.conf", "nonsense\n")
    done = world.ctl("reload", environment=control(daemon))
    assert done.returncode == 1 and "30-c.conf:1:" in done.stderr, done


class Halted:
    """A thread of another process, held as a disk that hangs would hold it."""

    SEIZE, INTERRUPT, DETACH, ALL = 0x4206, 0x4207, 17, 0x40000000
    over = False  # the process has ended

    def __init__(self, pid, name):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/comm") as file:
                if file.read().strip() == name:
                    self.tid = int(tid)
                    return
        raise harness.Failure(f"{pid} has no thread {name}")

    def ptrace(self, request):
        if harness.libc.ptrace(request, self.tid, None, None) != 0:
            raise harness.Skip(f"no thread can be held here: {os.strerror(ctypes.get_errno())}")

    def __enter__(self):
        self.ptrace(self.SEIZE)
        self.ptrace(self.INTERRUPT)
        os.waitpid(self.tid, self.ALL)
        return self

    def __exit__(self, *_):
        if not self.over:
            self.ptrace(self.DETACH)


def test_nothing_waits_for_the_reading(world):
    daemon = world.daemon(OLD)
    assert world.ctl("reload", environment=control(daemon)).returncode == 0  # from now on it reads
    world.write("egress.conf", "[local]\n2222 stream tcp * * 9 1h\n")
    answers = []
    asker = threading.Thread(target=lambda: answers.append(daemon.request("POST", "/v1/reload", timeout=90)))
    with Halted(daemon.pid, "egressd-rules"):
        asker.start()
        wait_for(lambda: daemon.status()["rules"]["reading"] == 1, what="the reload to be asked for")
        world.fail(world.tcp("10.66.1.4"), 4)
        wait_for(lambda: (daemon.row("10.66.1.4") or {}).get("count") == 4, what="count 4")
        assert daemon.row("10.66.1.4")["nfail"] == 5 and not answers
        assert "new ones are being read" in world.ctl("status", environment=control(daemon)).stdout
    asker.join()
    assert answers[0][0] == 200, answers
    assert daemon.status()["rules"]["reading"] == 0
    assert " 9 " in " ".join(daemon.get("/v1/rules")[1]["text"].split())


def test_the_end_does_not_wait_for_the_reading(world):
    daemon = world.daemon(OLD)
    assert world.ctl("reload", environment=control(daemon)).returncode == 0
    answers = []
    asker = threading.Thread(target=lambda: answers.append(daemon.request("POST", "/v1/reload", timeout=90)))
    with Halted(daemon.pid, "egressd-rules") as halted:
        asker.start()
        wait_for(lambda: daemon.status()["rules"]["reading"] == 1, what="the reload to be asked for")
        daemon.send(signal.SIGTERM)
        os.waitpid(halted.tid, halted.ALL)  # it is ended where it is held
        halted.over = True
        code = daemon.wait()
    asker.join()
    assert code == 0 and answers[0][0] == 503, (code, answers, daemon.log())


def test_an_owner_that_comes_later(world):
    passwd = world.path("passwd")
    shutil.copy("/etc/passwd", passwd)
    harness.run("mount", "--bind", passwd, "/etc/passwd")
    daemon = world.daemon("[local]\n2222 stream tcp eg-late * 1 10m\n")
    assert "unknown user 'eg-late': the line matches no report" in daemon.log(), daemon.log()
    world.fail(world.tcp("10.66.9.7"))
    wait_for(lambda: daemon.status()["reports"]["unmatched"] == 1, what="the report to be unmatched")
    code, body = daemon.get("/v1/rules")
    assert code == 200 and "eg-late" in body["text"], body
    with open(passwd, "a") as file:
        file.write("eg-late:x:0:0::/:/bin/false\n")
    code, body = daemon.request("POST", "/v1/reload")
    assert code == 200 and "eg-late" not in str(body), body
    world.fail(world.tcp("10.66.9.7"))
    world.wait_element("10.66.9.7")


harness.main(globals())
