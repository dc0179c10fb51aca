"""What the jobs of a guest under systemd share: run commands, look, and tell the outcome (tour.py, packages.py)."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
import termios
import time
import traceback

HOME = "/run/tour"
PATH = f"{HOME}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LISTENERS = []


class Failure(Exception):
    pass


def run(*command, status=0, shell=False, quiet=False, environment=None):
    """Runs it; what it printed. Any other exit status is a failure; None: every one is right."""
    started = time.monotonic()
    done = subprocess.run(["/bin/bash", "-c", command[0]] if shell else command, cwd=HOME, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          env={**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", **(environment or {})})
    text = command[0] if shell else " ".join(command)
    if not quiet:
        print(f"$ {text}   ({time.monotonic() - started:.0f} s)", flush=True)
    if status is not None and done.returncode != status:
        raise Failure(f"{text}: exit status {done.returncode}, not {status}\n{done.stdout}")
    return done.stdout


def check(condition, *what):
    if not condition:
        raise Failure("\n".join(str(each) for each in what))


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.2)


def commands_of(heading):
    """The commands of the first block of shell below that heading of README.md, each as it stands there."""
    with open(f"{SOURCE}/README.md") as file:
        block = re.search(rf"^##+ {re.escape(heading)}\n.*?^```sh\n(.*?)^```$", file.read(), re.M | re.S)[1]
    return [line.split("   #")[0].strip() for line in block.replace("\\\n", "").splitlines()]


def write_program(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(f"#!/bin/sh\n{text}\n")
    os.chmod(path, 0o755)


def prepare_network(*ports):
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", "10.66.0.1/32", "dev", "lo")
    for port in ports:
        LISTENERS.append(socket.create_server(("10.66.0.1", port)))


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
    found = re.search(r'^ *Status: "(.*)"$', run("systemctl", "status", "egressd", quiet=True, status=None), re.M)
    return found[1] if found else ""


def show_log():
    done = subprocess.run(["journalctl", "-q", "--no-pager", "-n", "60", "-u", "egressd"], stdout=subprocess.PIPE,
                          text=True)
    print(done.stdout, flush=True)


def perform(parts, last):
    """Runs the parts in order, tells the outcome, and switches the guest off."""
    status = 1
    try:
        for part in parts:
            print(f"== {part.__name__}", flush=True)
            part()
        print(last, flush=True)
        status = 0
    except Failure as failure:
        print(f"FAIL {failure}", flush=True)
    except BaseException:
        print(f"FAIL {traceback.format_exc()}", flush=True)
    finally:
        if status:
            show_log()
        print(f"guest: exit {status}", flush=True)
        sys.stdout.flush()
        termios.tcdrain(1)
        with open("/proc/sysrq-trigger", "w") as file:
            file.write("o")
        time.sleep(60)
