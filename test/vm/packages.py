"""The Debian packages in the guest under systemd: the README's tours as written, an upgrade, removal, purge.

    packages.py DIRECTORY    with the packages, and in DIRECTORY/next the same with a higher version

Blocks and verdicts are watched while the packages are changed: no connect may get through.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time

from steps import (HOME, LISTENERS, check, commands_of, egress, perform, prepare_network, run, service_line, wait_for,
                   write_program)

DIRECTORY, = sys.argv[1:]
PACKAGES = ("egressd", "egressctl", "libpam-egress")
LIBRARIES = ("libegress1", "libegress-dev")
BEFORE = set()  # traces of others of that name
ATTACKER, ADMIN, OTHER, HOST = "10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.1"
SSH = ["ssh", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
       "ConnectTimeout=60", "-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1", "-o",
       "LogLevel=ERROR"]
# Connects once or until its input ends; a line for each outcome, "in" where it got through.
CONNECT = """
import select, socket, sys
tries = 0
while not tries or "once" not in sys.argv and not select.select([sys.stdin], [], [], 0.1)[0]:
    tries += 1
    one = socket.socket()
    one.settimeout(3)
    try:
        one.connect((sys.argv[1], int(sys.argv[2])))
        print("in", flush=True)
    except OSError as error:
        print("out", error, flush=True)
    one.close()
"""
OF_ATTACKER = ["ip", "netns", "exec", "attacker"]
OF_SERVER = ["setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups"]


def connect(who, address, port):
    """Whether that one gets through."""
    done = subprocess.run([*who, sys.executable, "-c", CONNECT, address, str(port), "once"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=60)
    check(done.stdout.startswith(("in", "out")), done)
    return done.stdout.startswith("in")


class Watch:
    """Tries to get through, all the time that the block lasts."""

    def __init__(self, who, address, port):
        self.what = f"{address} port {port}"
        self.child = subprocess.Popen([*who, sys.executable, "-c", CONNECT, address, str(port)], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        check(self.child.stdout.readline().startswith("out"), f"{self.what} is open before the change")

    def end(self):
        output, _ = self.child.communicate("\n", timeout=60)
        lines = output.splitlines()
        check(len(lines) >= 3 and not [line for line in lines if line.startswith("in")], self.what, output)
        print(f"{self.what}: {len(lines)} tries, none got through", flush=True)


def apt(*words, status=0):
    return run("apt-get", "-qy", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "-o",
               "Dpkg::Options::=--force-confold", *words, status=status)


def next_of(*names):
    return [glob.glob(f"{DIRECTORY}/next/{name}_*.deb")[0] for name in names]


def traces():
    """Everything of that name where nothing may be left."""
    return {path for top in ("/etc", "/run/egress", "/sys/fs/bpf", "/var/lib", "/run/systemd")
            for path in glob.glob(top + "/**/*egress*", recursive=True, include_hidden=True)}


def log_in(source, tries):
    """Wrong passwords for root over ssh, all at once."""
    children = [subprocess.Popen([*OF_ATTACKER, "sshpass", "-p", f"wrong{n}", *SSH, "-b", source, f"root@{HOST}", "true"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for n in range(tries)]
    for child in children:
        child.wait(200)


def prepare():
    os.makedirs(HOME)
    write_program(f"{HOME}/bin/sudo", 'exec "$@"')
    for name in glob.glob(f"{DIRECTORY}/*.deb"):
        if "dbgsym" not in name:
            shutil.copy(name, HOME)
    # What apt and man-db would do with all of this machine's is not ours, and slow.
    shutil.rmtree("/var/lib/apt/lists", ignore_errors=True)
    os.makedirs("/var/lib/apt/lists/partial")
    for name in ("/usr/sbin/policy-rc.d",  # of a container, which this machine may be
                 "/var/lib/man-db/auto-update", "/etc/apt/apt.conf.d/docker-clean"):
        if os.path.exists(name):
            os.unlink(name)
    prepare_network(2222, 2223)
    for line in ("netns add attacker", "link add wire0 type veth peer name up0 netns attacker",
                 f"addr add {HOST}/24 dev wire0", "link set wire0 up", "-n attacker link set lo up",
                 f"-n attacker addr add {ATTACKER}/24 dev up0", f"-n attacker addr add {ADMIN}/24 dev up0",
                 "-n attacker link set up0 up"):
        run("ip", *line.split())
    BEFORE.update(traces())
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/key")
    with open("/etc/ssh/sshd_config", "w") as file:
        file.write(f"HostKey {HOME}/key\nUsePAM yes\nPermitRootLogin yes\nPasswordAuthentication yes\n")
    os.makedirs("/run/sshd", exist_ok=True)
    LISTENERS.append(subprocess.Popen(["/usr/sbin/sshd", "-D"]))
    wait_for(lambda: connect(OF_ATTACKER, HOST, 22), "sshd")


def shut_brute_force_out():
    """The first tour: installed, exempt, attacked."""
    for command in commands_of("Shut brute force out of my sshd"):
        run(command, shell=True, environment={"SSH_CLIENT": f"{ADMIN} 50000 22"})
    for unit in ("egressd.service", "egressd.socket", "egressd-control.socket"):
        check(run("systemctl", "is-active", unit, quiet=True).strip() == "active", unit)
        check(run("systemctl", "is-enabled", unit, quiet=True).strip() == "enabled", unit)
    log_in(ADMIN, 7)
    log_in(ATTACKER, 7)
    wait_for(lambda: blocked() == [ATTACKER], "the block")
    check(not connect(OF_ATTACKER, HOST, 22), "the attacker still gets in")
    log_in(ADMIN, 1)
    check(blocked() == [ATTACKER], blocked())


def blocked():
    rows = json.loads(run("egressctl", "dump", "-b", "--json"))
    return sorted(row["addr"].split("/")[0] for row in rows)


def set_the_clock():
    """An hour back, an hour ahead, and right again: a block keeps its ten minutes."""
    address = "192.0.2.77"
    run("egressctl", "block", address, "--for", "10m")
    for hours in (-1, 2, -1):
        time.clock_settime(time.CLOCK_REALTIME, time.time() + hours * 3600)
        wait_for(lambda: blocked() == sorted([address, ATTACKER]), "the block in the list")
        rest = run("egressctl", "dump", "-br", address).split()
        check([word for word in rest if re.fullmatch(r"(10m|9m|8m|7m|6m)(\d+s)?", word)], rest)
        check(address in run("nft", "list", "table", "inet", "egress", quiet=True), "the kernel has no such block")
    run("egressctl", "unblock", address)


def lose_the_socket():
    """What the service manager listens on is removed by hand: the daemon makes it anew, and log-ins count."""
    path = "/run/egress/report.sock"
    os.unlink(path)
    wait_for(lambda: os.path.exists(path), "the socket made anew")
    run("ip", "-n", "attacker", "addr", "add", f"{OTHER}/24", "dev", "up0")
    log_in(OTHER, 7)
    wait_for(lambda: blocked() == sorted([ATTACKER, OTHER]), "the block of another")
    check(path in run("journalctl", "-b", "-u", "egressd", quiet=True), "the log says nothing of it")
    run("egressctl", "unblock", OTHER)
    wait_for(lambda: blocked() == [ATTACKER], "its end")


def nail_it_down():
    """The second tour: watched, learnt, on trial, kept."""
    watched = False
    for command in commands_of("See what my server talks to, and nail it down"):
        run(command, shell=True)
        if "restart egressd" in command and not watched:
            watched = True
            check(connect(OF_SERVER, "10.66.0.1", 2222), "-m refuses")
            check("NOT ENFORCED" in service_line(), service_line())
            wait_for(lambda: "10.66.0.1:2222" in run("egressctl", "learn", status=None), "the lesson")
    check(connect(OF_SERVER, "10.66.0.1", 2222), "what was learnt is refused")
    check(not connect(OF_SERVER, "10.66.0.1", 2223), "what was not learnt is allowed")
    check(connect([], "10.66.0.1", 2223), "other users are refused")


def upgrade():
    script = "/etc/init.d/egressd"  # a file of the administrator's, too
    with open(script, "a") as file:
        file.write("# ours\n")
    with open("/etc/egress.conf") as file:
        rules = file.read()
    before = egress()["generation"]
    old = run("systemctl", "show", "-P", "MainPID", "egressd")
    watches = [Watch(OF_ATTACKER, HOST, 22), Watch(OF_SERVER, "10.66.0.1", 2223)]
    apt("install", *next_of(*PACKAGES))
    wait_for(lambda: egress()["state"] == "in force" and egress()["generation"] > before, "the new daemon")
    for watch in watches:
        watch.end()
    check(run("systemctl", "show", "-P", "MainPID", "egressd") != old, "the old daemon still runs")
    check(blocked() == [ATTACKER], blocked())
    with open("/etc/egress.conf") as file:
        check(file.read() == rules, "the administrator's rules were changed")
    with open(script) as file:
        check(file.read().endswith("# ours\n"), "the administrator's init script was changed")
    for name in ("/etc/egress.conf", script):
        check(os.path.exists(name + ".dpkg-dist"), f"the new version's {name} is not beside the administrator's")
        os.unlink(name + ".dpkg-dist")
    check(connect(OF_SERVER, "10.66.0.1", 2222))


def remove():
    apt("remove", *PACKAGES)
    check("egress" not in run("nft", "list", "tables"))
    check(not os.path.exists("/sys/fs/bpf/egress"), "pins are left")
    check(connect(OF_SERVER, "10.66.0.1", 2223) and connect(OF_ATTACKER, HOST, 22), "something is still refused")
    check(not os.path.exists("/run/egress"), "/run/egress is left")
    with open("/etc/pam.d/common-auth") as file:
        check("egress" not in file.read(), "PAM still uses the module")
    check(os.path.exists("/etc/egress.conf") and os.path.exists("/var/lib/egress/data.mdb"), "removed is not purged")


def again():
    """Installed again it goes on where it was; the libraries come with it."""
    apt("install", *next_of(*PACKAGES, *LIBRARIES))
    check("libegress.so.1" in run("ldconfig", "-p"), "ldconfig does not know libegress.so.1")
    wait_for(lambda: blocked() == [ATTACKER] and not connect(OF_ATTACKER, HOST, 22), "the block")
    wait_for(lambda: not connect(OF_SERVER, "10.66.0.1", 2223), "[egress]")


def purge():
    apt("purge", *PACKAGES, *LIBRARIES)
    check("egress" not in run("nft", "list", "tables"))
    check(not traces() - BEFORE, "left behind:", sorted(traces() - BEFORE))
    for database in ("passwd", "group"):
        run("getent", database, "egress", status=2)
    check(connect(OF_SERVER, "10.66.0.1", 2223) and connect(OF_ATTACKER, HOST, 22), "something is still refused")


perform((prepare, shut_brute_force_out, set_the_clock, lose_the_socket, nail_it_down, upgrade, remove, again, purge),
        "the packages come, stay and go as they should")
