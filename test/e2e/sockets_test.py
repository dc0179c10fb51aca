"""Sockets whose files vanish while egressd runs."""

import os
import shutil
import socket

import harness
from programs import wait_for

RULES = "[local]\n2222 stream tcp * * 1 10m\n"


def state(daemon, path):
    return next(each for each in daemon.status()["sockets"] if each["path"] == path)


def test_removed_sockets_are_made_anew(world):
    daemon = world.daemon(RULES)
    kept = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept.connect(daemon.socket)
    for times in range(1, 5):
        os.unlink(daemon.socket)
        wait_for(lambda: os.path.exists(daemon.socket), what="the report socket")
        assert os.stat(daemon.socket).st_mode & 0o777 == 0o666
        wait_for(lambda: state(daemon, daemon.socket)["remade"] == times, what="a word about it")
        world.fail(world.tcp(f"10.66.9.{times}"))
        world.wait_element(f"10.66.9.{times}")
    mode = os.stat(daemon.control).st_mode
    os.unlink(daemon.control)
    wait_for(lambda: os.path.exists(daemon.control), what="the control socket")
    wait_for(lambda: state(daemon, daemon.control)["remade"] == 1, what="a word about it")
    assert os.stat(daemon.control).st_mode == mode
    assert f"{daemon.socket} is there again" in daemon.log(), daemon.log()
    fds = daemon.open_fds()
    for _ in range(20):
        remade = state(daemon, daemon.socket)["remade"]
        os.unlink(daemon.socket)
        wait_for(lambda: state(daemon, daemon.socket)["remade"] > remade, what="the socket")
    assert daemon.open_fds() <= fds + 2, (fds, daemon.open_fds())
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.socket) and not os.path.exists(daemon.control)


def test_a_socket_that_cannot_be_made_anew_is_shown(world):
    daemon = world.daemon(RULES)
    os.rename(daemon.socket, daemon.socket + ".old")
    os.mkdir(daemon.socket)
    wait_for(lambda: not state(daemon, daemon.socket)["listening"], what="its absence to be seen")
    assert "is there and is not a socket" in state(daemon, daemon.socket)["last_error"]
    at = {"EGRESS_CONTROL": daemon.control}
    done = world.ctl("status", environment=at)
    assert "DEAF" in done.stdout and daemon.socket in done.stdout, done
    os.rmdir(daemon.socket)
    wait_for(lambda: state(daemon, daemon.socket)["listening"], what="the socket to return")
    assert "DEAF" not in world.ctl("status", environment=at).stdout
    assert daemon.log().count("cannot be made anew") == 1, daemon.log()
    world.fail(world.tcp("10.66.9.7"))
    world.wait_element("10.66.9.7")


def test_the_directory_goes_and_comes(world):
    if os.environ.get("EGRESS_TEST_AS_INSTALLED"):
        raise harness.Skip("the unit's user may not write where root has made the directory anew")
    daemon = world.daemon(RULES)
    # At once: in a directory that is emptied file by file, they are made anew meanwhile.
    os.rename("/run/egress", "/run/egress.old")
    shutil.rmtree("/run/egress.old")
    wait_for(lambda: "report.sock cannot be made anew" in daemon.log(), what="a word about it")
    os.mkdir("/run/egress", 0o755)
    wait_for(lambda: os.path.exists(daemon.socket) and os.path.exists(daemon.control),
             what="both sockets")
    world.fail(world.tcp("10.66.9.7"))
    world.wait_element("10.66.9.7")
    os.unlink(daemon.socket)  # the new directory is watched, too
    wait_for(lambda: state(daemon, daemon.socket)["remade"] == 2, what="the socket again")


if __name__ == "__main__":
    harness.main(globals())
