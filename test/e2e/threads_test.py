"""No thread is to be had: a limit of tasks is an error like any other."""

import os
import re
import uuid

import harness
from harness import Skip, wait_for

RULES = "[local]\n2222 stream tcp * * 3 1h\n"
OUT = "[egress]\n10.66.7.0/24 stream tcp * * deny\n"

REFUSES = r"""
#include <errno.h>
#include <pthread.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    (void)thread, (void)attributes, (void)run, (void)argument;
    return EAGAIN;
}
"""


class PidsLimit:
    """A cgroup with the pids controller, version 1 or 2, that holds one process."""

    def __init__(self, pid):
        for root in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            self.path = f"{root}/egress-test-{uuid.uuid4().hex[:8]}"
            try:
                os.mkdir(self.path)
            except OSError:
                continue
            if os.path.exists(f"{self.path}/pids.max"):
                break
            os.rmdir(self.path)
        else:
            raise Skip("no cgroup with the pids controller can be made here")
        self.write("cgroup.procs", pid)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def stop_growth(self):
        with open(f"{self.path}/pids.current") as file:
            self.write("pids.max", int(file.read()))

    def lift(self):
        self.write("pids.max", "max")

    def remove(self):
        wait_for(self.gone, what=f"{self.path} to be empty")

    def gone(self):
        try:
            os.rmdir(self.path)
        except OSError:
            return False
        return True


def test_reload_without_a_thread(world):
    """The first [egress] line needs a thread: without it the reload fails, and the old rules stay."""
    daemon = world.daemon(RULES)
    limit = PidsLimit(daemon.pid)
    try:
        limit.stop_growth()
        before = daemon.get("/v1/rules")[1]["text"]
        with open(daemon.conf, "w") as conf:
            conf.write(RULES + OUT)
        done = world.ctl("reload", environment={"EGRESS_CONTROL": daemon.control})
        assert done.returncode == 3 and "cannot start a thread" in done.stderr, done
        assert "all rules before stay" in done.stderr, done
        assert daemon.get("/v1/rules")[1]["text"] == before
        status = daemon.status()
        assert "cannot start a thread" in status["rules"]["last_error"], status["rules"]
        assert status["egress"]["state"] == "off", status["egress"]
        world.fail(world.tcp("10.66.7.1"), 3)
        world.wait_element("10.66.7.1")
        limit.lift()
        code, answer = daemon.request("POST", "/v1/reload")
        assert "thread" not in str(answer), (code, answer)  # it goes on to what fails here: no cgroup
        daemon.stop()
    finally:
        limit.remove()


def test_start_without_a_thread(world):
    """egressd ends with the reason, by itself, and not by a signal."""
    if harness.sanitized():
        raise Skip("the sanitizers' runtime must be loaded first, and would be refused its threads too")
    source = world.write("refuses.c", REFUSES)
    shim = world.path("refuses.so")
    harness.run("cc", "-shared", "-fPIC", "-o", shim, source)
    daemon = world.daemon(RULES, wait=False, environment={"LD_PRELOAD": shim})
    assert daemon.wait() == 1, daemon.log()
    assert re.search(r"egressd: cannot start a thread", daemon.log()), daemon.log()


harness.main(globals())
