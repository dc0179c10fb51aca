"""The README's "Install it for real", done in the guest under systemd, and whether all that is said then is true.

    tour.py BUILD

The commands are read from README.md and run as they stand there. What builds has been done before (BUILD
stands for build-usr), `sudo` is nothing new to root, and `editor` adds a line of [egress].
"""

import json
import os
import re
import shutil
import subprocess
import sys

from steps import (HOME, PATH, check, commands_of, egress, perform, prepare_network, refused, run, service_line, wait_for,
                   write_program)

CONF = "/etc/egress.conf"
PINS = "/sys/fs/bpf/egress"
RULE = "10.66.0.1:2222 stream tcp * * deny\n"
OTHER = "10.66.0.1:2223 stream tcp * * deny\n"
STUBS = {"bin/sudo": 'exec "$@"',
         "bin/editor": f'printf "[egress]\\n{RULE}" | sed "s/\\\\\\\\n/\\n/g" >>"$1"',
         "bin/ninja": "[ \"$*\" = '-C build-usr' ]",
         "bin/cmake": 'case $1 in --install) exec /usr/bin/cmake "$@" ;; *) [ "$5" = -B ] && [ "$6" = build-usr ] ;; esac',
         "test/deps": ":"}


def commands():
    """The commands of the README's section."""
    found = commands_of("Install it for real")
    for needed in ("cmake --install", "systemd-sysusers", "systemd-tmpfiles", "editor", "egressd -n",
                   "enable --now egressd", "egressctl status"):
        check(any(needed in line for line in found), f"README.md has no {needed!r} any more: teach the tour", found)
    return found


def prepare(build):
    os.makedirs(HOME)
    for name, text in STUBS.items():
        write_program(os.path.join(HOME, name), text)
    os.symlink(build, f"{HOME}/build-usr")
    for name in ("egressd", "egressctl"):
        check(not shutil.which(name, path=PATH), f"{name} is installed already: no clean root")
    prepare_network(2222, 2223)


def event_of(generation):
    """A refusal under these rules, from the journal."""
    for line in run("journalctl", "-q", "-o", "cat", "-u", "egressd", quiet=True).splitlines():
        start = line.find("{\"action\":\"BLOCKED\"")
        if start >= 0:
            event, _ = json.JSONDecoder().raw_decode(line[start:])
            if event["generation"] == generation:
                return event
    return None


def check_everywhere(generation, port):
    """Status, selftest, events, metrics, the manager and the kernel say one thing."""
    check(refused(port) and not refused(4445 - port), f"the kernel does not refuse {port} alone")
    status = egress()
    check((status["state"], status["generation"], status["last_error"]) == ("in force", generation, ""), status)
    wait_for(lambda: event_of(generation), f"an event of generation {generation}")
    check("cgroup" in event_of(generation), event_of(generation))
    selftest = json.loads(run("egressctl", "selftest", "--json"))
    check(selftest["enforced"] and selftest["generation"] == generation, selftest)
    metrics = run("egressctl", "metrics")
    check(f"\negress_generation {generation}\n" in metrics and "\negress_enforced 1\n" in metrics, metrics)
    wait_for(lambda: service_line() == f"1 rules of [egress] in force, generation {generation}", "systemctl status")


def write_rules(path, text):
    with open(CONF) as file:
        before = file.read()
    with open(path, "w") as file:
        file.write(before[:before.rindex("[egress]\n")] + "[egress]\n" + text)


def install():
    for line in commands():
        run(line, shell=True)
    check(run("systemctl", "is-active", "egressd").strip() == "active")
    check_everywhere(1, 2222)


def reloads():
    write_rules(CONF, OTHER)
    run("egressctl", "reload")
    check_everywhere(2, 2223)
    write_rules(CONF, RULE)
    run("systemctl", "reload", "egressd")
    check_everywhere(3, 2222)


def trials():
    tried = f"{HOME}/tried.conf"
    write_rules(tried, OTHER)
    run("egressctl", "apply", tried, "--confirm", "10m")
    check(refused(2223) and not refused(2222))
    run("egressctl", "confirm")
    with open(CONF) as file:
        check(file.read().endswith(OTHER))
    check(refused(2223) and not refused(2222))
    write_rules(tried, RULE)
    run("egressctl", "apply", tried, "--confirm", "10m")
    check(refused(2222))
    run("egressctl", "confirm", "--back")
    check(refused(2223) and not refused(2222))


def restart():
    """The kernel goes on meanwhile, and the numbers, too."""
    before = egress()["generation"]
    run("systemctl", "stop", "egressd")
    check(refused(2223))
    run("systemctl", "start", "egressd")
    check_everywhere(before + 1, 2223)


def by_hand():
    """Root's own daemons, by egressd(8)'s example and by the init script, leave nothing that stops the unit."""
    units = ["egressd.service", "egressd.socket", "egressd-control.socket"]
    init = {"SYSTEMCTL_SKIP_REDIRECT": "1", "_SYSTEMCTL_SKIP_REDIRECT": "1"}
    run("systemctl", "stop", *units)
    run("egressctl", "detach")
    daemon = subprocess.Popen(["egressd", "-d", "-m", "-v"], env={**os.environ, "PATH": PATH},
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # The unit's sockets are still there, and nobody listens.
    wait_for(lambda: daemon.poll() is not None or "MONITOR" in run("egressctl", "status", status=None), "egressd -m")
    check(not refused(2223), "-m refuses")
    daemon.terminate()
    check(daemon.wait(60) == 0, "egressd -m as root: its exit status")
    run("systemctl", "start", *units)
    check(refused(2223) and egress()["state"] == "in force", egress())
    run("systemctl", "stop", *units)
    run("env", *(f"{name}={value}" for name, value in init.items()), "/etc/init.d/egressd", "start")
    check(refused(2223) and egress()["state"] == "in force", egress())
    run("env", *(f"{name}={value}" for name, value in init.items()), "/etc/init.d/egressd", "stop")
    # The unit's way to run with -m.
    with open("/etc/default/egressd", "w") as file:
        file.write('EGRESSD_OPTIONS="-m"\n')
    run("systemctl", "start", *units)
    check(not refused(2223) and "NOT ENFORCED" in service_line(), service_line())
    os.unlink("/etc/default/egressd")
    run("systemctl", "restart", "egressd")
    check(refused(2223) and egress()["state"] == "in force", egress())


def broken():
    """Rules that cannot be in force are said not to be, everywhere, and again when they are."""
    run("egressctl", "detach")
    wait_for(lambda: "NOT ENFORCED: [egress] is detached" in service_line(), "systemctl status")
    run("systemctl", "stop", "egressd")
    owner = os.stat(PINS)
    os.chown(PINS, 0, 0)
    run("systemctl", "start", "egressd")
    check(not refused(2223))
    wait_for(lambda: service_line().startswith("NOT ENFORCED: rules of [egress]"), "systemctl status")
    check(egress()["state"] == "not enforced" and egress()["generation"] == 0, egress())
    check("NOT ENFORCED" in run("egressctl", "status"))
    run("egressctl", "selftest", status=1)
    check("\negress_enforced 0\n" in run("egressctl", "metrics"))
    os.chown(PINS, owner.st_uid, owner.st_gid)
    run("egressctl", "reload")
    check_everywhere(1, 2223)


BUILD, = sys.argv[1:]


def start():
    prepare(BUILD)


perform((start, install, reloads, trials, restart, by_hand, broken), "the tour says the truth")
