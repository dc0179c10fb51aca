"""egressctl and the kernel half: detach, watch, explain, status."""

import os

from guarded import guarded, harness
from harness import wait_for
from verdict_test import probe, servers

PINS = "/sys/fs/bpf/egress"
DENY = "10.66.0.1 * * * * deny\n"
TARGET = "tcp,10.66.0.1,80"


def at(guard):
    return {"EGRESS_CONTROL": guard.daemon.control}


def test_detach_by_the_daemon(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        assert probe(guard, TARGET) == ["EPERM"]
        done = world.ctl("detach", environment=at(guard))
        assert done.returncode == 0 and done.stdout.startswith("detached"), done
        assert "until its next reload" in done.stdout, done
        assert probe(guard, TARGET) == ["ok"]
        assert os.listdir(PINS) == []
        assert guard.status()["state"] == "detached", guard.status()
        assert "detached" in daemon.log()
        done = world.ctl("detach", environment=at(guard))
        assert done.returncode == 0 and "nothing was attached" in done.stdout, done
        assert daemon.request("POST", "/v1/reload")[0] == 200
        wait_for(lambda: guard.status()["state"] == "in force", 60, "the rules to be in force again")
        assert probe(guard, TARGET) == ["EPERM"]


def test_detach_without_daemon(world):
    servers(world, 80)
    with guarded(world) as guard:
        daemon = guard.start(DENY)
        elsewhere = {"EGRESS_CONTROL": world.path("no.sock")}
        done = world.ctl("detach", environment=elsewhere)
        assert done.returncode == 3 and "one runs" in done.stderr, done
        assert os.listdir(PINS)
        daemon.stop(9)
        assert probe(guard, TARGET) == ["EPERM"]

        def as_nobody():
            return world.ctl("detach", environment=elsewhere).returncode
        assert harness.as_user(harness.NOBODY, as_nobody) == 3
        assert probe(guard, TARGET) == ["EPERM"]
        done = world.ctl("detach", "--json", environment=elsewhere)
        assert done.returncode == 0 and '"daemon": false' in done.stdout, done
        assert probe(guard, TARGET) == ["ok"]
        assert os.listdir(PINS) == []
        done = world.ctl("detach", environment=elsewhere)
        assert done.returncode == 0 and "nothing was attached" in done.stdout, done


if __name__ == "__main__":
    harness.main(globals())
