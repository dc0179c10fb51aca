"""The README's "Install it for real", done in the guest under systemd, and whether all that is said then is true.

    tour.py BUILD

The commands are read from README.md and run as they stand there. What builds has been done before (BUILD
stands for build-usr), `sudo` is nothing new to root, and `editor` adds a line of [egress].
"""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import termios
import time
import traceback

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOME = "/run/tour"
CONF = "/etc/egress.conf"
PINS = "/sys/fs/bpf/egress"
RULE = "10.66.0.1:2222 stream tcp * * deny\n"
OTHER = "10.66.0.1:2223 stream tcp * * deny\n"
STUBS = {"bin/sudo": 'exec "$@"',
         "bin/editor": f'printf "[egress]\\n{RULE}" | sed "s/\\\\\\\\n/\\n/g" >>"$1"',
         "bin/ninja": "[ \"$*\" = '-C build-usr' ]",
         "bin/cmake": 'case $1 in --install) exec /usr/bin/cmake "$@" ;; *) [ "$5" = -B ] && [ "$6" = build-usr ] ;; esac',
         "test/deps": ":"}
PATH = f"{HOME}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failure(Exception):
    pass


def run(*command, status=0, shell=False, quiet=False):
    """Runs it; what it printed. Any other exit status is a failure."""
    started = time.monotonic()
    done = subprocess.run(command[0] if shell else command, shell=shell, cwd=HOME, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          env={**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"})
    text = command[0] if shell else " ".join(command)
    if not quiet:
        print(f"$ {text}   ({time.monotonic() - started:.0f} s)", flush=True)
    if done.returncode != status:
        raise Failure(f"{text}: exit status {done.returncode}, not {status}\n{done.stdout}")
    return done.stdout


def check(condition, *what):
    if not condition:
        raise Failure("\n".join(str(each) for each in what))


def wait_for(condition, what):
    end = time.monotonic() + 60
    while not condition():
        check(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.2)


def commands():
    """The commands of the README's section."""
    with open(f"{SOURCE}/README.md") as file:
        block = re.search(r"^## Install it for real\n+```sh\n(.*?)^```$", file.read(), re.M | re.S)[1]
    found = [line.split("   #")[0].strip() for line in block.splitlines()]
    for needed in ("cmake --install", "systemd-sysusers", "systemd-tmpfiles", "editor", "egressd -n",
                   "enable --now egressd", "egressctl status"):
        check(any(needed in line for line in found), f"README.md has no {needed!r} any more: teach the tour", found)
    return found


def prepare(build):
    for name, text in STUBS.items():
        path = os.path.join(HOME, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
    os.symlink(build, f"{HOME}/build-usr")
    for name in ("egressd", "egressctl"):
        check(not shutil.which(name, path=PATH), f"{name} is installed already: no clean root")
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", "10.66.0.1/32", "dev", "lo")
    for port in (2222, 2223):
        server = socket.create_server(("10.66.0.1", port))
        LISTENERS.append(server)


LISTENERS = []


def refused(port):
    # In a process of its own each time: what one process repeats is one event.
    pid = os.fork()
    if pid == 0:
        with socket.socket() as one:
            one.settimeout(20)
            os._exit(one.connect_ex(("10.66.0.1", port)))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    check(code in (0, errno.EPERM), f"connect: {os.strerror(code)}")
    return code == errno.EPERM


def egress():
    return json.loads(run("egressctl", "status", "--json"))["egress"]


def service_line():
    """What `systemctl status` shows."""
    found = re.search(r'^ *Status: "(.*)"$', run("systemctl", "status", "egressd", quiet=True), re.M)
    return found[1] if found else ""


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
    wait_for(lambda: daemon.poll() is not None or os.path.exists("/run/egress/control.sock") and
             egress()["state"] == "in force", "egressd -m")
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


def show_log():
    done = subprocess.run(["journalctl", "-q", "--no-pager", "-n", "60", "-u", "egressd"], stdout=subprocess.PIPE,
                          text=True)
    print(done.stdout, flush=True)


def main(build):
    status = 1
    try:
        os.makedirs(HOME)
        prepare(build)
        for part in (install, reloads, trials, restart, by_hand, broken):
            print(f"== {part.__name__}", flush=True)
            part()
        print("the tour says the truth", flush=True)
        status = 0
    except Failure as failure:
        print(f"FAIL {failure}", flush=True)
    except BaseException:
        print(f"FAIL {traceback.format_exc()}", flush=True)
    finally:
        if status:
            show_log()
        print(f"guest: exit {status}", flush=True)
        termios.tcdrain(1)
        with open("/proc/sysrq-trigger", "w") as file:
            file.write("o")
        time.sleep(60)


main(*sys.argv[1:])
