"""The wall clock is set while blocks stand: the daemon, the kernel and dump stay of one mind."""

import re

import harness
from programs import DATABASE, Skip, run, sanitized, wait_for

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, now);
    FILE *file = id == CLOCK_REALTIME ? fopen(getenv("TEST_CLOCK"), "re") : NULL;
    long off = 0;
    if (file) {
        if (fscanf(file, "%ld", &off) == 1)
            now->tv_sec += off;
        fclose(file);
    }
    return done;
}
"""


class SetClock:
    """A wall clock that only the programs of the test see set."""

    def __init__(self, world):
        if sanitized():
            raise Skip("a library that sets the clock cannot stand before the sanitizer's")
        self.world = world
        source, library = world.write("clock.c", SHIM), world.path("clock.so")
        run("cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl")
        self.environment = {"LD_PRELOAD": library, "TEST_CLOCK": world.path("off")}
        self.set(0)

    def set(self, seconds):
        self.world.write("off", f"{seconds}\n")

    def dump(self, *options):
        done = self.world.ctl("dump", "-D", DATABASE, *options, environment=self.environment)
        assert done.returncode == 0, done
        return done.stdout

    def remaining(self, address):
        """Seconds by the last column of dump; None: it lists no block of that address."""
        for line in self.dump("-b", "-r", "-n").splitlines():
            if line.strip().startswith(address + "/"):
                text = line.split("\t")[-1]
                assert re.fullmatch(r"(\d+[dhms])+", text), line
                return sum(int(number) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit]
                           for number, unit in re.findall(r"(\d+)([dhms])", text))
        return None


def about(seconds, expected, slack=120):
    return seconds is not None and expected - slack <= seconds <= expected


def test_a_set_clock_changes_no_block(world):
    clock = SetClock(world)
    daemon = world.daemon("[local]\n2222 stream tcp * * 1 10m\n", environment=clock.environment)
    world.fail(world.tcp("10.66.9.7"))
    world.wait_element("10.66.9.7")
    wait_for(lambda: clock.remaining("10.66.9.7"), what="the block in the database")
    for number, off in enumerate((-3600, 3600, 86400 * 365)):
        clock.set(off)
        assert about(clock.remaining("10.66.9.7"), 600), (off, clock.dump("-b", "-r"))
        wait_for(lambda: daemon.log().count("the wall clock was set") >= 1, what="a word about it")
        host = f"10.66.10.{number}"
        world.fail(world.tcp(host))
        world.wait_element(host)
        wait_for(lambda: about(clock.remaining(host), 600), what="a block made since")
        assert about(clock.remaining("10.66.9.7"), 600), (off, clock.dump("-b", "-r"))
    rows = daemon.blocks("blocked")
    shown = harness.json.loads(clock.dump("-b", "--json"))
    assert {(row["addr"], row["until"]) for row in rows} == \
           {(row["addr"], row["until"]) for row in shown}, (rows, shown)


def test_a_restart_after_the_clock_was_set(world):
    clock = SetClock(world)
    rules = "[local]\n2222 stream tcp * * 1 10m\n"
    daemon = world.daemon(rules, environment=clock.environment)
    world.fail(world.tcp("10.66.9.7"))
    world.wait_element("10.66.9.7")
    for off in (3600, -3600):
        daemon.stop()
        clock.set(off)
        assert about(clock.remaining("10.66.9.7"), 600), (off, clock.dump("-b", "-r"))
        daemon = world.daemon(rules, environment=clock.environment)
        assert daemon.row("10.66.9.7")["state"] in ("blocked", "wanted"), daemon.blocks()
        assert about(world.wait_element("10.66.9.7")["expires"], 600)
        assert about(clock.remaining("10.66.9.7"), 600), (off, clock.dump("-b", "-r"))


if __name__ == "__main__":
    harness.main(globals())
