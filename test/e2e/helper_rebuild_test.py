#!/usr/bin/env python3
"""A large set that egress-helper makes anew: single changes meanwhile, and what may cut it short."""

import os
import re
import select
import signal

import harness
from harness import run
from helper_serve import Serve, event


def nft(*arguments, **keywords):
    return run("nft", *arguments, **keywords).stdout


def table():
    return nft("list", "table", "inet", "egress")


def large(count, first=0, seconds=3600, net=10):
    """That many elements, more than a helper that knows nothing of them reads."""
    return [f"tcp {net}.{i >> 16}.{i >> 8 & 255}.{i & 255} 32 22 {seconds} drop"
            for i in range(first, first + count)]


def sets():
    """The names of the sets of blocks."""
    return re.findall(r"set (egress\.\S+) ", table())


def has(set_, address):
    return run("nft", "get", "element", "inet", "egress", set_, f"{{ {address} . tcp . 22 }}",
               check=False).returncode == 0


MANY = 24_000


class Rebuild:
    """A new helper makes MANY elements anew as half of them and as many others. Stopped while a
    request that came after the sync is done and the sync is not; continue it with go()."""

    def __init__(self, request="add egress tcp 192.0.2.1 32 22 600 drop"):
        assert Serve().sync("egress", large(MANY)).startswith("ok")
        self.wanted = large(MANY, MANY // 2)
        for _ in range(20):
            self.serve = Serve()
            self.serve.write("".join(["1 sync egress\n", *(f"1 elem {each}\n" for each in self.wanted),
                                      f"1 end\n2 {request}\n"]))
            assert self.serve.line() == "2 ok"
            self.serve.child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.serve.child.pid, os.WSTOPPED | os.WNOWAIT)
            if not select.select([self.serve.child.stdout], [], [], 0)[0] and not self.serve.buffer:
                break
            self.serve.child.kill()  # the machine let it run before us
        else:
            raise harness.Skip("this machine is too busy to stop a helper in time")

    def go(self):
        self.serve.next_id = 3
        self.serve.child.send_signal(signal.SIGCONT)

    def die(self):
        self.serve.child.kill()
        self.serve.child.wait()

    def targets(self):
        return {" ".join(each.split()[:4]) + " drop" for each in self.wanted}


def test_a_new_block_goes_in_while_a_large_set_is_made_anew(world):
    work = Rebuild()
    old, new = sorted(sets())
    assert table().count("drop comment") == 1 and f'comment "{old}"' in table()
    assert has(old, "192.0.2.1") and has(old, "10.0.0.1") and has(old, "10.0.70.1")
    # Requests meanwhile count, whatever the sync lists.
    later = ["rem egress tcp 10.0.46.225 32 22", "rem egress tcp 10.0.140.159 32 22",
             "rem egress tcp 10.0.0.9 32 22", "add egress tcp 10.0.46.226 32 22 77 reject",
             "add egress tcp 10.0.0.8 32 22 77 drop"]
    work.serve.write("".join(f"3 {request}\n" for request in later))
    work.go()
    answers = [work.serve.line() for _ in range(6)]
    assert sorted(answers) == ["1 ok 0 0"] + 5 * ["3 ok"], answers
    wanted = work.targets() - {f"tcp 10.0.{end} 32 22 drop" for end in
                               ("46.225", "140.159", "46.226")}
    wanted |= {"tcp 192.0.2.1 32 22 drop", "tcp 10.0.46.226 32 22 reject",
               "tcp 10.0.0.8 32 22 drop"}
    assert set(work.serve.targets()) == wanted
    assert sorted(sets()) == sorted([new, "egress.v4.32.reject"]), sets()
    assert work.serve.sync("egress", large(10)) == f"ok 9 {MANY - 1}", "it knows what it made"


def test_a_rebuild_that_is_cut_short_opens_nothing(world):
    work = Rebuild()
    work.die()
    old, new = sorted(sets())
    assert table().count("drop comment") == 1 and f'comment "{old}"' in table()
    assert has(old, "192.0.2.1") and has(old, "10.0.0.1") and has(new, "192.0.2.1")
    # Whatever comes next uses the set in force, and not what was left behind.
    assert event("add", "egress", "tcp", "192.0.2.2", "32", "22", "").returncode == 0
    assert has(old, "192.0.2.2") and not has(new, "192.0.2.2")
    serve = Serve()
    assert serve.sync("egress", work.wanted) == "ok 0 0"
    assert sets() == [new] and set(serve.targets()) == work.targets()
    Rebuild("ping").die()
    assert Serve().sync("egress", large(5)).endswith(f" {MANY - 5}")
    assert len(sets()) == 1 and table().count(" timeout ") == 5


def test_a_rebuild_begins_again_where_the_table_was_emptied(world):
    work = Rebuild()
    nft("flush ruleset")
    work.go()
    assert work.serve.line().startswith("1 ok ")
    assert set(work.serve.targets()) == work.targets() | {"tcp 192.0.2.1 32 22 drop"}
    assert len(sets()) == 1


if __name__ == "__main__":
    harness.main(globals())
