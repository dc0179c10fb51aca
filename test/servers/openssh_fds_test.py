"""OpenSSH with our patches: however many log-ins, no process keeps a descriptor of them.

EGRESS_TEST_LOGINS says how many tries there are, four in each connection (10000).
"""

import os
import pwd
import sys
import time

import built
import harness
import logins
import sshd as servers
import stock
from harness import run, wait_for

NUMBER = int(os.environ.get("EGRESS_TEST_LOGINS", "10000"))
THREADS = 12


def descriptors(*pids):
    """What each of these processes has open: {pid: number}."""
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}


def many(client, sshd, number, *passwords):
    """So many connections that try these passwords; how many got in and how many tries failed."""
    done = run(*client.host.command(sys.executable, "-B", logins.__file__, client.target, "22", "alice",
                                    str(number), str(THREADS), *passwords), timeout=1500, check=False)
    assert done.returncode == 0 and not done.stderr, (done.stderr[-2000:], sshd.text()[-2000:])
    words = done.stdout.split()
    return int(words[0]), int(words[2])


def of_this_connection(sshd, before):
    """The processes that serve a new connection, when there are as many as there will be."""
    names = ("sshd-session", "sshd-auth") if sshd.modern else ("sshd", "sshd")

    def all_there():
        new = sorted({pid for name in names for pid in sshd.processes(name)} - set(before))
        return new if len(new) == 2 else None
    return wait_for(all_there, what="a monitor and a process for the client")


def runs_as(pid, name):
    with open(f"/proc/{pid}/status") as file:
        uids = next(line.split()[1:] for line in file if line.startswith("Uid:"))
    return set(uids) == {str(pwd.getpwnam(name).pw_uid)}


def settled(sshd):
    """The listener and two processes for each of two clients, of whom one is in; None: fewer are there."""
    try:
        found = processes(sshd)
        done = len(found) == 5 and any(runs_as(pid, "alice") for pid in found)
        return found if done and found == processes(sshd) else None
    except FileNotFoundError:
        return None


def processes(sshd):
    return [pid for name in ("sshd", "sshd-session", "sshd-auth") for pid in sshd.processes(name)]


def log_ins(world, version):
    try:
        library = logins.load()
    except OSError:
        raise harness.Skip(f"{logins.LIBRARY} is not installed (hydra brings it)") from None
    daemon = world.daemon("[local]\n22 stream tcp * * * 10m\n")
    sshd = servers.Sshd(world, version, pam="no", tries=1000000, grace=0)
    # What a log-in costs is not the question here.
    run("chpasswd", "-c", "SHA512", "-s", "1000", input=f"alice:{stock.PASSWORD}\n")
    client = servers.Client(world, "client")
    many(client, sshd, 2 * THREADS, stock.PASSWORD)  # what is opened once is open now
    wait_for(lambda: len(processes(sshd)) == 1, 60, "one process")

    # A connection before a log-in and one after it, that stay; and all that are there for everybody.
    with client.host.entered():
        guest = logins.Session(library, client.target, 22, "alice")
        seen = of_this_connection(sshd, processes(sshd)[:1])
        user = logins.Session(library, client.target, 22, "alice")
        assert not user.try_password("wrong") and user.try_password(stock.PASSWORD)
    helper = [int(pid) for pid in run("pgrep", "-x", "egress-helper").stdout.split()]
    witnesses = [daemon.pid, *helper, *wait_for(lambda: settled(sshd), what="five processes of sshd")]
    assert set(seen) < set(witnesses) and helper, (seen, witnesses)
    wait_for(lambda: daemon.taken() >= 2 * THREADS + 2, what="the first reports to be read")
    before = descriptors(*witnesses)

    for _ in range(NUMBER // 40):  # many reports of one process
        assert not guest.try_password("wrong")
    start = time.monotonic()
    half = NUMBER // 8
    assert many(client, sshd, half, "a", "b", "c", stock.PASSWORD) == (half, 3 * half)
    assert many(client, sshd, half, "a", "b", "c", "d") == (0, 4 * half)
    print(f"     {version}: {2 * half} connections with {8 * half} tries in "
          f"{time.monotonic() - start:.0f} s", flush=True)

    expected = 2 * THREADS + 2 + NUMBER // 40 + 8 * half
    wait_for(lambda: daemon.taken() >= expected, 60, lambda: f"{expected} reports: {daemon.status()}")
    assert daemon.taken() == expected, (expected, daemon.status())
    wait_for(lambda: sorted(processes(sshd)) == sorted(set(witnesses) - {daemon.pid, *helper}), 60,
             "the other processes of sshd to end")
    # A report on its way when they were counted is one more that is not there for long.
    wait_for(lambda: all(now <= before[pid] for pid, now in descriptors(*witnesses).items()), 60,
             lambda: f"no more descriptors than before: {before}; now {descriptors(*witnesses)}")
    guest.close()
    user.close()
    sshd.stop()


def define():
    for version in servers.VERSIONS:
        short = version.replace("openssh-", "").replace(".", "_")
        globals()[f"test_log_ins_{short}"] = lambda world, v=version: log_ins(world, v)


define()
built.prepare(*servers.VERSIONS)
harness.main(globals())
