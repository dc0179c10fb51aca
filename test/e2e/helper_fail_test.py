"""A helper that fails, hangs, lies or is not there costs a block's delay, never a report."""

import os
import signal

import harness
from harness import wait_for

CONF = "[local]\n2222 stream tcp * * 2 1h\n"
# Works while the file "good" is there, and misbehaves otherwise; one that serves ends by itself
# when the file goes.
SWITCH = """#!/bin/sh
[ -e {scratch}/good ] && exec {real} "$@"
{bad}
"""


def bad_helper(world, bad, name="helper.sh"):
    text = SWITCH.format(scratch=world.scratch, real=harness.artefact("helper/egress-helper"),
                         bad=bad)
    return world.write(name, text, 0o755)


def repair(world):
    world.write("good", "")


def check_survives(world, helper):
    """Reports are counted, the state says what is wrong, and the block goes in after the repair."""
    daemon = world.daemon(CONF, helper=helper)
    connection = world.tcp("10.66.1.1")
    world.fail(connection, 2)
    wait_for(lambda: (daemon.row("10.66.1.1") or {}).get("state") == "wanted",
             what=lambda: f"the state 'wanted'; rows: {daemon.blocks()}")
    status = wait_for(lambda: (lambda s: s if s["helper"]["last_error"] else None)(daemon.status()),
                      60, "an error of the helper in the status")
    assert status["not_in_force"] == 1, status
    assert status["helper"]["errors"] >= 1, status
    shown = world.ctl("status", environment={"EGRESS_CONTROL": daemon.control}, check=True).stdout
    assert status["helper"]["last_error"][:20] in shown, shown
    # Reports go on being counted, and the daemon answers at once.
    other = world.tcp("10.66.1.2")
    world.fail(other, 1)
    wait_for(lambda: (daemon.row("10.66.1.2") or {}).get("count") == 1, what="a further count")
    world.fail(connection, 1)
    wait_for(lambda: daemon.row("10.66.1.1")["count"] == 3, what="the count of the blocked one")
    assert world.element("10.66.1.1") is None
    repair(world)
    wait_for(lambda: world.element("10.66.1.1"), 120, "the block after the repair")
    wait_for(lambda: daemon.row("10.66.1.1")["state"] == "blocked", what="the state 'blocked'")
    wait_for(lambda: daemon.status()["not_in_force"] == 0, what="nothing left to do")
    assert len(daemon.log()) < 100_000, "the log is flooded"
    return daemon


def test_exits_1(world):
    check_survives(world, bad_helper(world, "echo no such luck >&2; exit 1"))


def test_prints_nothing(world):
    check_survives(world, bad_helper(world, "exit 0"))


def test_prints_a_megabyte(world):
    check_survives(world, bad_helper(
        world, "head -c 1000000 /dev/zero | tr '\\0' x; exit 0"))


def test_prints_without_end(world):
    check_survives(world, bad_helper(world, "exec yes 'OK OK OK'"))


def test_prints_escapes(world):
    daemon = check_survives(world, bad_helper(
        world, "printf '\\033[2J\\n<3>FORGED\\n'; printf '\\033[2J\\n<3>FORGED\\n' >&2; exit 1"))
    assert "\x1b" not in daemon.log() and "\n<3>FORGED" not in daemon.log(), daemon.log()


def test_hangs(world):
    check_survives(world, bad_helper(world, "while [ ! -e {0}/good ]; do sleep 0.1; done; exit 1".format(
        world.scratch)))


def test_hangs_deaf_to_signals(world):
    check_survives(world, bad_helper(world, "trap '' TERM INT HUP PIPE; while :; do sleep 1; done"))


def test_missing(world):
    path = world.path("not-yet-there")
    helper = bad_helper(world, "exit 1")

    def rename(_name, _text):
        os.rename(helper, path)
    real_write = world.write
    world.write = lambda name, text, mode=0o644: (
        real_write(name, text, mode), rename(name, text) if name == "good" else None)[0]
    check_survives(world, path)


def test_not_executable(world):
    helper = bad_helper(world, "exit 1")
    os.chmod(helper, 0o644)
    real_write = world.write
    world.write = lambda name, text, mode=0o644: (
        real_write(name, text, mode), os.chmod(helper, 0o755) if name == "good" else None)[0]
    check_survives(world, helper)


LIAR = """
[ "$1" = serve ] || exit 1
read hello
echo 'HELLO egress-helper 1 liar'
while read -r id rest; do
    [ -e {scratch}/good ] && exit 1
    {answer}
done
"""


def test_serves_errors(world):
    check_survives(world, bad_helper(world, LIAR.format(
        scratch=world.scratch, answer='echo "$id err the firewall is on strike"')))


def test_serves_garbage(world):
    check_survives(world, bad_helper(world, LIAR.format(
        scratch=world.scratch, answer='echo "99999999 ok"; echo "$id"; echo; echo "x y z"')))


def test_serves_changes_without_end(world):
    """Version 2 of the protocol, and a helper that says "0 changed" instead of an answer."""
    liar = LIAR.replace("egress-helper 1 liar", "egress-helper 2 liar")
    check_survives(world, bad_helper(world, liar.format(
        scratch=world.scratch, answer='yes "0 changed" | head -n 1000; echo "$id ok 0 0"')))


def test_serves_silence(world):
    check_survives(world, bad_helper(world, LIAR.format(scratch=world.scratch, answer=":")))


def helpers_of(daemon):
    """The daemon's children."""
    with open(f"/proc/{daemon.pid}/task/{daemon.pid}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_killed(world):
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.2.1"), 2)
    world.wait_element("10.66.2.1")
    for number in range(2, 6):
        children = wait_for(lambda: helpers_of(daemon), 60, "the helper to be there")
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        world.fail(world.tcp(f"10.66.2.{number}"), 2)
        world.wait_element(f"10.66.2.{number}", 60)
    assert world.element("10.66.2.1")


def test_stopped(world):
    """A helper that is there and does nothing: SIGSTOP."""
    daemon = world.daemon(CONF)
    world.fail(world.tcp("10.66.2.8"), 2)
    world.wait_element("10.66.2.8")
    for pid in helpers_of(daemon):
        os.kill(pid, signal.SIGSTOP)
    world.fail(world.tcp("10.66.2.9"), 2)
    wait_for(lambda: (daemon.row("10.66.2.9") or {}).get("state") == "wanted", what="'wanted'")
    world.wait_element("10.66.2.9", 120)


def test_flushed_table_comes_back(world):
    world.daemon(CONF, "-t", "2")
    for number in range(1, 6):
        world.fail(world.tcp(f"10.66.3.{number}"), 2)
        world.wait_element(f"10.66.3.{number}")
    harness.run("nft", "flush", "ruleset")  # they may be back before anybody can look
    wait_for(lambda: len(world.elements()) == 5, 30, "the blocks to come back")
    world.fail(world.tcp("10.66.3.9"), 2)
    world.wait_element("10.66.3.9")


def test_element_removed_by_hand_comes_back_and_strangers_go(world):
    world.daemon(CONF, "-t", "2")
    world.fail(world.tcp("10.66.4.1"), 2)
    element = world.wait_element("10.66.4.1")
    harness.run("nft", f"delete element inet egress {element['set']} {{ 10.66.4.1 . tcp . 2222 }}")
    harness.run("nft", f"add element inet egress {element['set']} "
                       "{ 10.66.4.2 . tcp . 2222 timeout 1h }")
    wait_for(lambda: [e["addr"] for e in world.elements()] == ["10.66.4.1"], 180,
             "the set to hold what the daemon wants")


SHELL_HELPER = os.path.join(harness.SOURCE, "etc/helper-example.sh")


def test_shell_helper_example(world):
    if not os.path.exists(SHELL_HELPER):
        raise harness.Failure(f"{SHELL_HELPER} is missing")
    daemon = world.daemon("[local]\n2222 stream tcp * * 2 4s\n2223 stream tcp * */24 1 1h\n",
                          helper=SHELL_HELPER)
    world.fail(world.tcp("10.66.5.1"), 2)

    def listed(text):
        done = harness.run("nft", "list", "ruleset")
        return text in done.stdout
    wait_for(lambda: listed("10.66.5.1"), what="the block in the firewall")
    wait_for(lambda: daemon.row("10.66.5.1")["state"] == "blocked", what="the helper's answer")
    assert daemon.status()["helper"]["state"] == "per-event", daemon.status()
    wait_for(lambda: not listed("10.66.5.1"), 30, "the block to end")
    world.fail(world.tcp("10.66.6.1", port=2223))
    wait_for(lambda: listed("10.66.6.0/24"), what="the prefix in the firewall")


def test_back_from_monitoring(world):
    """What a daemon lifted as it only monitored is put back, also by a helper that runs per event or begins slowly."""
    real = harness.artefact("helper/egress-helper")
    for i, serve in enumerate(("exec {real} \"$@\"", "sleep 12; exec {real} \"$@\"", "exit 1")):
        address = f"10.66.1.{7 + i}"
        daemon = world.daemon(CONF)
        world.fail(world.tcp(address), 2)
        world.wait_element(address)
        daemon.stop()
        daemon = world.daemon(CONF, "-m")
        world.wait_no_element(address)
        wait_for(lambda: daemon.row(address)["state"] == "monitored", what=lambda: daemon.blocks())
        daemon.stop()
        slow = world.write(f"helper{i}", f"#!/bin/sh\n[ \"$1\" != serve ] || {{ {serve.format(real=real)}; }}\n"
                                         f"exec {real} \"$@\"\n", 0o755)
        daemon = world.daemon(CONF, helper=slow)
        world.wait_element(address, 20)
        daemon.stop()


harness.main(globals())
