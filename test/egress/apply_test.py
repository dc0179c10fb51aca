"""Rules that are tried out: they go back by themselves, or are confirmed."""

import json
import os
import socket
import subprocess
import time

from ctl_test import at
from guarded import guarded, harness
from harness import wait_for
from verdict_test import probe, servers

TARGET = "tcp,10.66.0.1,80"
BEFORE = "[local]\n2222 stream tcp * * 3 1h\n[egress]\n10.66.0.9 * * * * deny\n"
TRIED = "[local]\n2222 stream tcp * * 7 1h\n[egress]\n10.66.0.1 * * * * deny\n"


def apply(world, guard, text, *words):
    path = world.write("tried.conf", text)
    return world.ctl("apply", path, *words, environment=at(guard))


def trial(guard):
    return guard.daemon.status()["rules"].get("trial")


def nfail(guard):
    """Of the only line of [local]: all sections go together."""
    return int(guard.daemon.get("/v1/rules")[1]["text"].split("[local]")[1].split()[14])


def read(path):
    with open(path) as file:
        return file.read()


def test_it_goes_back_by_itself(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        done = apply(world, guard, TRIED, "--confirm", "4s")
        assert done.returncode == 0 and "egressctl confirm" in done.stdout, done
        # In force when it is said to be.
        assert probe(guard, TARGET) == ["EPERM"] or not trial(guard)
        wait_for(lambda: not trial(guard), 60, "the trial to be over")
        assert probe(guard, TARGET, "tcp,10.66.0.9,80") == ["ok", "EPERM"]
        assert nfail(guard) == 3 and read(guard.daemon.conf) == BEFORE
        wait_for(lambda: "it was not confirmed in time" in guard.daemon.log(), 20, "the log")
        done = world.ctl("confirm", environment=at(guard))
        assert done.returncode == 1 and "no rules are tried out" in done.stderr, done


def test_confirmed(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        conf = guard.daemon.conf
        os.chown(conf, 0, guard.gid())
        os.chmod(conf, 0o640)
        assert apply(world, guard, TRIED, "--confirm", "10m").returncode == 0
        assert probe(guard, TARGET) == ["EPERM"] and nfail(guard) == 7
        assert trial(guard)["name"].endswith("tried.conf") and trial(guard)["seconds"] <= 600
        assert read(conf) == BEFORE
        done = world.ctl("confirm", "--json", environment=at(guard))
        assert done.returncode == 0 and json.loads(done.stdout) == {
            "confirmed": True, "file": conf, "old": conf + ".old"}, done
        assert read(conf) == TRIED and read(conf + ".old") == BEFORE
        assert os.stat(conf).st_mode & 0o777 == 0o640 and os.stat(conf).st_gid == guard.gid()
        assert not trial(guard) and probe(guard, TARGET) == ["EPERM"]
        assert guard.daemon.request("POST", "/v1/reload")[0] == 200
        guard.daemon.stop()
        guard.start_with(conf)
        assert probe(guard, TARGET) == ["EPERM"] and not trial(guard)
        assert sorted(name for name in os.listdir(world.scratch) if ".new" in name) == []


def test_for_good(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        conf = guard.daemon.conf
        done = apply(world, guard, TRIED)
        assert done.returncode == 0 and "for good" in done.stdout, done
        assert read(conf) == TRIED and not trial(guard)
        assert probe(guard, TARGET) == ["EPERM"]


def test_killed_during_the_trial(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        conf = guard.daemon.conf
        assert apply(world, guard, TRIED, "--confirm", "15s").returncode == 0
        began = time.monotonic()
        guard.daemon.stop(9)
        assert probe(guard, TARGET) == ["EPERM"]
        guard.start_with(conf)
        if time.monotonic() - began < 10:
            assert trial(guard), guard.daemon.log()
            assert probe(guard, TARGET) == ["EPERM"]
        wait_for(lambda: not trial(guard), 60, "the trial to be over")
        assert probe(guard, TARGET, "tcp,10.66.0.9,80") == ["ok", "EPERM"]
        assert nfail(guard) == 3
        # And a daemon that starts when it is over.
        assert apply(world, guard, TRIED, "--confirm", "1s").returncode == 0
        over = time.clock_gettime(time.CLOCK_BOOTTIME) + 2
        guard.daemon.stop(9)
        wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > over, 20, "the end of the trial")
        guard.start_with(conf)
        assert not trial(guard)
        assert probe(guard, TARGET, "tcp,10.66.0.9,80") == ["ok", "EPERM"]


def test_taken_back(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        assert apply(world, guard, TRIED, "--confirm", "1h").returncode == 0
        # Whatever else is asked meanwhile is refused, and says why.
        done = apply(world, guard, BEFORE, "--confirm", "1m")
        assert done.returncode == 1 and "is tried out, for" in done.stderr, done
        done = world.ctl("reload", environment=at(guard))
        assert done.returncode == 1 and "is tried out, for" in done.stderr, done
        guard.daemon.send(harness.signal.SIGHUP)
        wait_for(lambda: "not reloaded" in guard.daemon.log(), 20, "the log to say so")
        assert probe(guard, TARGET) == ["EPERM"]
        # Confirmed by the wrong hand: the file does not have it.
        code, body = guard.daemon.request("POST", "/v1/trial")
        assert code == 409 and "not in " in body["error"], body
        done = world.ctl("confirm", "--back", environment=at(guard))
        assert done.returncode == 0, done
        assert probe(guard, TARGET, "tcp,10.66.0.9,80") == ["ok", "EPERM"]
        done = world.ctl("confirm", "--back", environment=at(guard))
        assert done.returncode == 1, done
        assert not os.path.exists(guard.daemon.conf + ".old")


def test_wrong_rules(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        for text, word in (("[egress]\n10.66.0.1 * * * * dany\n", ":2:19: "),
                           ("[egress]\n10.66.0.1 * * * * deny trap\n", "not there yet")):
            for words in ([], ["--confirm", "1m"]):
                done = apply(world, guard, text, *words)
                assert done.returncode == 1 and word in done.stderr, done
        assert world.ctl("apply", world.path("none"), environment=at(guard)).returncode == 3
        assert apply(world, guard, TRIED, "--confirm", "soon").returncode == 2
        assert apply(world, guard, TRIED, "--confirm", "2d").returncode == 2
        with open(world.path("latin.conf"), "wb") as file:
            file.write(b"# caf\xe9\n" + TRIED.encode())
        done = world.ctl("apply", world.path("latin.conf"), environment=at(guard))
        assert done.returncode == 1 and "UTF-8" in done.stderr, done
        for body in ({}, {"text": "", "name": "x"}, {"text": "", "name": "x", "seconds": 0},
                     {"text": 1, "name": "x", "seconds": 5},
                     {"text": "", "name": "x", "seconds": 86401}):
            assert guard.daemon.request("PUT", "/v1/trial", body)[0] == 400, body
        assert guard.daemon.get("/v1/trial")[0] == 404
        assert read(guard.daemon.conf) == BEFORE and not trial(guard)
        assert probe(guard, "tcp,10.66.0.9,80") == ["EPERM"]
        assert [n for n in os.listdir(world.scratch) if ".new" in n or ".old" in n] == []


def resolvers():
    """Those that the system names, each as a line that lets it be reached."""
    found = []
    with open("/etc/resolv.conf") as file:
        for line in file:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                address = words[1].split("%")[0]
                found.append(f"[{address}]" if ":" in address else address)
    return "".join(f"{address}:53 * * * * allow\n" for address in found)


def waiting(world, guard, time_limit):
    """egressctl apply --wait, once its rules are in force."""
    path = world.write("tried.conf", TRIED)
    process = subprocess.Popen([harness.artefact("ctl/egressctl"), "apply", path, "--confirm", time_limit, "--wait"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**harness.free_environment(), **at(guard)})
    assert process.stdout.readline().startswith("in force for")
    return process


def test_taken_back_before_it_is_in_force(world):
    """Whoever began it gets an answer all the same."""
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        body = json.dumps({"name": "x", "text": TRIED, "seconds": 600})
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(60 * harness.PATIENCE)
                asking.connect(guard.daemon.control)
                asking.sendall(f"PUT /v1/trial HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                wait_for(lambda: trial(guard), 60, "the trial to begin")
                assert guard.daemon.request("DELETE", "/v1/trial")[0] == 200
                assert asking.recv(65536).split()[1] in (b"200", b"409")
        assert nfail(guard) == 3 and not trial(guard)


def test_waiting_for_the_end(world):
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        process = waiting(world, guard, "10m")
        assert world.ctl("confirm", "--back", environment=at(guard)).returncode == 0
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and "the previous rules are in force" in out and not errors, out
        process = waiting(world, guard, "10m")
        assert world.ctl("confirm", environment=at(guard)).returncode == 0
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and "its rules were kept" in out and not errors, out
        done = apply(world, guard, TRIED, "--wait")
        assert done.returncode == 2 and "--confirm" in done.stderr, done


def test_the_daemon_is_lost_during_the_trial(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        conf = guard.daemon.conf
        process = waiting(world, guard, "3s")
        guard.daemon.stop(9)
        # The kernel goes on, and everybody who asks hears what to do.
        assert probe(guard, TARGET) == ["EPERM"]
        for words in (["status"], ["confirm"], ["confirm", "--back"]):
            done = world.ctl(*words, environment=at(guard))
            assert done.returncode == 3 and "the kernel goes on with" in done.stderr, done
            assert "systemctl start egressd" in done.stderr and "detach" in done.stderr, done
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 3 and "does not answer during the trial" in errors, errors
        assert errors.count("the trial does not end:") == 1 and "detach" in errors, errors
        # What it says is so.
        guard.start_with(conf)
        assert probe(guard, TARGET) == ["ok"] and not trial(guard)


def test_own_goals(world):
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        goals = ("[egress]\n* * * * * deny\n",
                 "[egress]\n127.0.0.53:53 * udp root * deny\n",
                 "[egress]\nlocal:53 * * * egressctl reject\n",  # whoever applies it
                 f"[egress]\n[::1] stream tcp root {os.path.realpath('/bin/sh')} deny\n")
        for text in goals:
            for words in ([], ["--confirm", "1m"]):
                done = apply(world, guard, text, *words)
                assert done.returncode == 1 and "tried.conf:2:1: warning: lockout" in done.stderr, (
                    text, done)
                assert "--force" in done.stderr and not trial(guard), done
        assert guard.status()["generation"] == 1 and read(guard.daemon.conf) == BEFORE
        innocent = ("[egress]\n* * * * * deny audit\n",
                    "[egress]\nlocal:53 * * * * allow\n" + resolvers() + "* * * * * deny\n",
                    "[egress]\n* * * 1000 /usr/bin/nobody-here deny\n",
                    "[egress]\n*:80 * * * * deny\n")
        for text in innocent:
            done = apply(world, guard, text, "--confirm", "1m")
            assert done.returncode == 0 and "lockout" not in done.stderr, (text, done)
            assert world.ctl("confirm", "--back", environment=at(guard)).returncode == 0
        # Named, and taken all the same.
        done = apply(world, guard, goals[1], "--force")
        assert done.returncode == 0 and "lockout" in done.stderr, done
        assert read(guard.daemon.conf) == goals[1]
        # Where nobody is asked, it is a warning.
        code, body = guard.daemon.request("POST", "/v1/reload?force=1")
        assert code == 200 and "lockout" in " ".join(body["warnings"]), body
        before = guard.status()["generation"]
        guard.daemon.send(harness.signal.SIGHUP)
        wait_for(lambda: guard.status()["generation"] > before, 60, "the reload by a signal")
        wait_for(lambda: "lockout: the line refuses name resolution to a root shell"
                 in guard.daemon.log(), 20, "the log to say so")
        done = harness.run(harness.artefact("daemon/egressd"), "-n", "-c", guard.daemon.conf)
        assert "lockout" in done.stderr, done
        done = world.ctl("check", guard.daemon.conf)
        assert done.returncode == 0 and "lockout" in done.stderr, done


def test_the_daemon_refuses_own_goals(world):
    """Whoever asks it without egressctl."""
    servers(world, 80)
    with guarded(world) as guard:
        guard.start_with(BEFORE)
        goal = "[local]\n2222 stream tcp * * 9 1h\n[egress]\n* * * * * deny\n"
        wish = {"name": "curl", "text": goal, "seconds": 600}
        code, body = guard.daemon.request("PUT", "/v1/trial", wish)
        assert code == 409 and any("curl:4:1: warning: lockout" in each for each in body["warnings"]), body
        assert "force" in body["error"] and not trial(guard), body
        # Nothing has happened, and nothing is left to happen.
        assert guard.status()["generation"] == 1 and guard.status()["state"] == "in force"
        assert nfail(guard) == 3 and probe(guard, TARGET, "tcp,10.66.0.9,80") == ["ok", "EPERM"]
        world.write(os.path.basename(guard.daemon.conf), goal)
        code, body = guard.daemon.request("POST", "/v1/reload")
        assert code == 409 and any(":4:1: warning: lockout" in each for each in body["warnings"]), body
        done = world.ctl("reload", environment=at(guard))
        assert done.returncode == 1 and ":4:1: warning: lockout" in done.stderr, done
        assert "--force" in done.stderr and nfail(guard) == 3, done
        done = world.ctl("reload", "--json", environment=at(guard))
        assert done.returncode == 1 and "lockout" in " ".join(json.loads(done.stdout)["warnings"]), done
        assert guard.status()["generation"] == 1 and not guard.status()["last_error"]
        # By force.
        code, body = guard.daemon.request("PUT", "/v1/trial?force=1", wish)
        assert code == 200 and "lockout" in " ".join(body["warnings"]) and nfail(guard) == 9, body
        assert probe(guard, TARGET) == ["EPERM"]
        assert guard.daemon.request("DELETE", "/v1/trial")[0] == 200
        done = world.ctl("reload", "--force", environment=at(guard))
        assert done.returncode == 0 and "lockout" in done.stderr, done
        assert nfail(guard) == 9 and probe(guard, TARGET) == ["EPERM"]


def test_own_goals_of_the_first_rules(world):
    """The kernel side is loaded for them, and stays without rules."""
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.daemon = world.daemon("[local]\n2222 stream tcp * * 3 1h\n", "-G", guard.cgroup)
        goal = {"name": "x", "text": "[egress]\n* * * * * deny\n", "seconds": 600}
        code, body = daemon.request("PUT", "/v1/trial", goal, timeout=90)
        assert code == 409 and "lockout" in " ".join(body["warnings"]), body
        assert guard.status()["state"] == "off" and not trial(guard) and nfail(guard) == 3
        # What was refused does not come when the system changes, either.
        path = world.path("program")
        goal["text"] = f"[egress]\n* * * * {path} deny\n* * * * * deny\n"
        assert daemon.request("PUT", "/v1/trial", goal, timeout=90)[0] == 409
        world.write("program", "")
        good = {"name": "x", "text": "[egress]\n10.66.0.9 * * * * deny\n", "seconds": 600}
        assert daemon.request("PUT", "/v1/trial", good, timeout=90)[0] == 200
        assert guard.status()["generation"] == 1, guard.status()
        assert probe(guard, TARGET, "tcp,10.66.0.9,80") == ["ok", "EPERM"]


def test_the_session_keeps_its_exemption(world):
    exempt = "[remote]\n192.0.2.0/24 * * * = * *\n"
    daemon = world.daemon("[local]\n22 stream tcp * * 3 1h\n" + exempt)
    path = world.write("tried.conf", "[local]\n22 stream tcp * * 5 1h\n")

    def tried(session, *words):
        return world.ctl("apply", path, "--confirm", "1m", *words,
                         environment={"EGRESS_CONTROL": daemon.control, "SSH_CONNECTION": session})
    done = tried("192.0.2.7 51234 10.66.0.1 22")
    assert done.returncode == 1 and ":2:1: warning: lockout: failures from 192.0.2.7" in done.stderr
    # Neither the exempt nor those who never were lose anything.
    for session in ("192.0.2.7 51234 10.66.0.1 23", "10.66.9.9 51234 10.66.0.1 22", "nonsense", ""):
        done = tried(session)
        assert done.returncode == 0 and not done.stderr, (session, done)
        assert daemon.request("DELETE", "/v1/trial")[0] == 200
    assert tried("192.0.2.7 51234 10.66.0.1 22", "--force").returncode == 0


if __name__ == "__main__":
    harness.main(globals())
