"""The demonstration that test/demo runs: hydra against an sshd, and egress in between. It is the sshd
with our patch where test/servers/build has built it, and otherwise Debian's own with our PAM module."""

import os
import shutil
import subprocess
import sys

import harness
import stage
import stock
from harness import run, wait_for
from stage import bad, good, note, say, show

BLOCK_TIME = 20
DROP_IN = f"""\
# The shipped rules count this service too; this more specific line only makes the block so short
# that the end of it can be watched.
[local]
{{address}}:ssh  stream  tcp  *  *  6  {BLOCK_TIME}s  kill
"""
PATCHED = "EGRESS_SHOW_SSHD"  # in the environment: "VERSION DIRECTORY" of the patched sshd
def watch_counting(daemon, attacker):
    """Prints every change of the attacker's row until the block is in force."""
    seen = None

    def changed():
        nonlocal seen
        row = daemon.row(attacker.v4)
        if row and (row["count"], row["state"]) != seen:
            seen = (row["count"], row["state"])
            text = f"{row['addr']} port {row['port']}/{row['protocol']}: {row['count']} of {row['nfail']}"
            (bad if row["state"] != "counting" else note)(f"{text}  {row['state']}")
        return row and row["state"] == "blocked"
    wait_for(changed, 60, "the attacker to be blocked")


def hosts(world):
    say("Three hosts: a server, an attacker, an honest client (network namespaces)")
    attacker, client = world.host("attacker"), world.host("client")
    note(f"attacker {attacker.v4} -> server {attacker.host4}; client {client.v4} -> server {client.host4}")
    return attacker, client


def patched():
    """(version, directory) of the sshd with our patch, or None."""
    return os.environ[PATCHED].split(" ", 1) if os.environ.get(PATCHED) else None


def find_patched():
    """Has patched() know what is built. Before the namespaces hide nothing and the network is there."""
    build = os.path.join(harness.SOURCE, "test/servers/build")
    os.environ[PATCHED] = ""
    for version in ("openssh-10.0p1", "openssh-9.2p1"):
        found = run(build, "--built", version, check=False,
                    env={**os.environ, "EGRESS_TEST_BUILD": harness.BUILD})
        if found.returncode == 0:
            os.environ[PATCHED] = f"{version} {found.stdout.strip()}"
            return


class PatchedSshd(stock.Sshd):
    """The patched sshd, with the configuration that Debian's package ships for its own."""

    def __init__(self, world, version, directory):
        os.makedirs("/run/sshd", exist_ok=True)
        shutil.rmtree("/etc/ssh/sshd_config.d", ignore_errors=True)
        shutil.copy("/usr/share/openssh/sshd_config", "/etc/ssh/sshd_config")
        run("ssh-keygen", "-A")
        options = [] if version == "openssh-9.2p1" else ["-o", "PerSourcePenalties=no"]
        self.log_path = world.path("sshd.log")
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen([os.path.join(directory, "sshd"), "-D", "-e", *options],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=harness.free_environment())
        wait_for(self.listens, what="sshd to listen")


def start_sshd(world):
    if patched():
        version, directory = patched()
        sshd = PatchedSshd(world, version, directory)
        note(f"sshd runs, {version} with our patch; it tells egressd by itself, through libegress:")
        libraries = run("ldd", os.path.join(directory, "sshd")).stdout
        show("ldd sshd | grep egress", "\n".join(line for line in libraries.splitlines()
                                                 if "egress" in line))
        return sshd
    stock.enable_pam()
    sshd = stock.Sshd(world)
    version = run("ssh", "-V").stderr.split(",")[0]
    note(f"Debian's own sshd runs, unpatched: {version}; pam_egress, enabled with pam-auth-update, "
         "tells egressd")
    return sshd


def set_up(world, attacker):
    say("The server: egress installed with its shipped rules")
    stock.install(world)
    stock.add_user("alice")
    with open("/etc/egress.conf.d/demo.conf", "w") as file:
        file.write(DROP_IN.format(address=attacker.host4))
    daemon_path, _, _ = stock.programs()
    run(daemon_path, "-n")
    show("grep -v '^#' /etc/egress.conf", run("grep", "-Ev", "^(#|$)", "/etc/egress.conf").stdout)
    show("grep -v '^#' /etc/egress.conf.d/demo.conf",
         run("grep", "-v", "^#", "/etc/egress.conf.d/demo.conf").stdout)
    daemon = world.daemon("/etc/egress.conf")
    note(f"egressd runs (pid {daemon.pid} in here)")
    return daemon, start_sshd(world)


def attack(world, daemon, attacker):
    say("hydra attacks from the other namespace; each failure is reported by "
        f"{'sshd' if patched() else 'PAM'} and counted")
    show("hydra -l alice -P passwords -t 1 ssh://" + attacker.host4, "")
    process = stock.hydra(world, attacker, attacker.host4, user="alice", tasks=1)
    watch_counting(daemon, attacker)
    return process


def cut_off(world, attacker, client):
    say("The attacker is cut off, in the firewall, before conntrack or sshd see a packet")
    element = world.wait_element(attacker.v4)
    show("nft list table inet egress", run("nft", "list", "table", "inet", "egress").stdout)
    wait_for(lambda: world.element(attacker.v4)["packets"] > 0, 30, "a dropped packet")
    bad(f"{world.element(attacker.v4)['packets']} packets of the attacker dropped so far, "
        f"{element['timeout']} s of block")
    say("Meanwhile the honest client gets in: the same sshd, the same port")
    done = stock.log_in(client, client.host4, "alice", command="echo welcome $USER from $SSH_CLIENT")
    if done.returncode != 0:
        raise harness.Failure(f"the client did not get in: {done.stderr}")
    show(f"ssh alice@{client.host4}   (in the client's namespace)", done.stdout)
    good("let in")


def dump(world, daemon):
    say("What egressd remembers")
    show("egressctl dump -a",
         world.ctl("dump", "-a", "-D", daemon.database, check=True).stdout)


def release(world, daemon, attacker, process):
    say("The attack stops; the block ends by itself, in the kernel and in the database")
    process.kill()
    process.wait()
    wait_for(lambda: not world.element(attacker.v4), 60, "the element to expire")
    good("the element is gone")
    wait_for(lambda: not daemon.blocks("blocked"), 30, "the row to be released")
    dump(world, daemon)
    done = stock.log_in(attacker, attacker.host4, "alice", command="echo and that host may try again")
    show(f"ssh alice@{attacker.host4}   (with the right password, from the attacker's host)", done.stdout)
    if done.returncode != 0:
        raise harness.Failure(f"still shut out: {done.stderr}")


def test_demo(world):
    attacker, client = hosts(world)
    daemon, sshd = set_up(world, attacker)
    process = attack(world, daemon, attacker)
    cut_off(world, attacker, client)
    dump(world, daemon)
    release(world, daemon, attacker, process)
    sshd.stop()
    daemon.stop()
    say(f"That was one direction, in {stage.seconds():.0f} seconds")


def main():
    if PATCHED not in os.environ:
        find_patched()
    harness.enter()
    result, text = harness.run_one("demo", test_demo)
    if result != "ok":
        print(f"\nthe demonstration {'cannot run here' if result == 'SKIP' else 'failed'}: {text}",
              file=sys.stderr)
    sys.exit({"ok": 0, "SKIP": 77}.get(result, 1))


main()
