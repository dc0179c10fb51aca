"""Tools that guess passwords, as attackers use them, and what must have become of each in the end.

Every tool runs on another host (a network namespace), under timeout(1), against a list of wrong
passwords at the end of which stands the right one, which it must never come to.
"""

import collections
import os
import pwd
import shutil
import subprocess

import harness
import stock
from harness import wait_for

PATIENCE = 25  # seconds that a tool is given: several times what it takes to be shut out

# process: the running timeout(1); address: where it attacks from; path: of what it prints
Attack = collections.namedtuple("Attack", "tool process host address path")


def wrong(number=200):
    return [f"wrong-{index:04}" for index in range(number)]


def hydra(world, host, target, service, port, user, passwords, patience=PATIENCE):
    six = ["-6"] if ":" in target else []
    return start(world, host, target, patience, "hydra", *six, "-I", "-l", user, "-P",
                 word_list(world, passwords), "-t", "4", "-W", "1", "-s", str(port),
                 f"{service}://[{target}]" if six else f"{service}://{target}")


def medusa(world, host, target, service, port, user, passwords, patience=PATIENCE):
    """Knows IPv4 only."""
    return start(world, host, target, patience, "medusa", "-h", target, "-n", str(port), "-u", user,
                 "-P", word_list(world, passwords), "-M", service, "-t", "2", "-b", "-v", "4")


def ncrack(world, host, target, service, port, user, passwords, patience=PATIENCE):
    """Knows IPv6 by names only, so here IPv4."""
    return start(world, host, target, patience, "ncrack", "-v", "--user", user, "-P",
                 word_list(world, passwords), "-g", "CL=4", "-p", f"{service}:{port}", target)


def patator(world, host, target, service, port, user, passwords, patience=PATIENCE, options=()):
    """Over ssh it knows IPv4 only. options: more of its words, as "auth_type=keyboard-interactive"."""
    known = {"ssh": "Authentication failed.", "ftp": "Login incorrect."}[service]
    return start(world, host, target, patience, "patator", f"{service}_login", f"host={target}",
                 f"port={port}", f"user={user}", "password=FILE0", "0=" + word_list(world, passwords),
                 "-t", "4", "-x", f"ignore:mesg={known}", *options)


ALL = {"hydra": hydra, "medusa": medusa, "ncrack": ncrack, "patator": patator}
SIX = {"ssh": ("hydra",), "ftp": ("hydra", "patator")}  # who can do IPv6


def word_list(world, passwords):
    return world.write(f"passwords.{world.counter()}", "".join(word + "\n" for word in passwords))


def start(world, host, target, patience, tool, *arguments):
    """Runs that command on the other host; the running Attack."""
    for program in (tool, "timeout"):
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed (test/deps installs it)")
    keep_home_clean(world)
    path = world.path(f"{tool}-{host.name}.{world.counter()}.log")
    home = world.path(f"home-{host.name}.{world.counter()}")  # hydra's session file goes here
    os.mkdir(home)
    with open(path, "wb") as log:
        process = subprocess.Popen(
            host.command("timeout", "--kill-after=5", str(patience), tool, *arguments),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=home,
            env={**harness.free_environment(), "HOME": home})
    return Attack(tool, process, host, host.v6 if ":" in target else host.v4, path)


def keep_home_clean(world):
    """ncrack writes its session into the home directory that passwd names: let it write to memory."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    if not os.path.ismount(home):
        stock.overlay(world, home)


def said(attack):
    with open(attack.path, "rb") as file:
        return file.read().decode(errors="backslashreplace")


def blocked(world, daemon, attacks, serve, judge, timeout=90):
    """Waits until each of these attacks is shut out: a set element for its address that has dropped
    packets. judge(attack, row) looks at what egressd has counted then; serve(), when the first and
    when the last is shut out, at who is innocent."""
    waiting = {attack.address: attack for attack in attacks}

    def progress():
        shut = [element["addr"] for element in world.elements()
                if element["addr"] in waiting and element["packets"] > 0]
        rows = {row["addr"]: row for row in daemon.blocks()} if shut else {}
        first = len(waiting) == len(attacks)
        for address in shut:
            judge(waiting.pop(address), rows.get(address))
        if shut and (first or not waiting):
            serve()
        return not waiting
    wait_for(progress, timeout, lambda: "dropped packets of these: " + "".join(
        f"\n{attack.tool} from {attack.address}, which said: {said(attack)[-1000:]}"
        for attack in waiting.values()))


def ended(attack, secret=None, timeout=PATIENCE + 30):
    """Waits for the end of the tool: by itself or by timeout(1). It must not have found `secret`."""
    try:
        code = attack.process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise harness.Failure(f"{attack.tool} outlived its timeout: {said(attack)[-2000:]}") from None
    if code in (126, 127):
        raise harness.Failure(f"{attack.tool} did not run: {said(attack)}")
    if secret is not None and secret in said(attack):
        raise harness.Failure(f"{attack.tool} found the password:\n{said(attack)[-2000:]}")
    return code


def check_end(world, daemon, attacks, serve, release, secret, judge=None):
    """How each of these attacks has to end: its address in the firewall, packets dropped, the tool
    dead and the password not found; serve() (log-ins from other addresses) works meanwhile. Then the
    block expires, and release(attack) sees that the attacker's host is served like any other."""
    def counted(attack, row):
        assert row and row["count"] >= row["nfail"], (attack, row)
    blocked(world, daemon, attacks, serve, judge or counted)
    for attack in attacks:
        ended(attack, secret)
    for attack in attacks:
        world.wait_no_element(attack.address, 120)
        wait_for(lambda address=attack.address: not [
            row for row in daemon.blocks() if row["addr"] == address and row["state"] != "counting"],
            30, lambda address=attack.address: f"the release of {address}: {daemon.blocks()}")
        release(attack)
