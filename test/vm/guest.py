"""What runs in the guest of test/vm/run, as its first process: prepares it, runs the job, switches it off."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import termios
import time

LANES = 2  # tests at a time


def mount(kind, path, options=""):
    os.makedirs(path, exist_ok=True)
    command = ["mount", "-t", kind, kind, path] + (["-o", options] if options else [])
    subprocess.run(command, check=True)


def prepare(kernel, release):
    os.environ.update(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root",
                      LC_ALL="C.UTF-8", EGRESS_TEST_PATIENCE="5")
    mount("devpts", "/dev/pts", "mode=0620,ptmxmode=0666")
    mount("tmpfs", "/dev/shm", "mode=1777")
    mount("cgroup2", "/sys/fs/cgroup")
    mount("bpf", "/sys/fs/bpf", "mode=0700")
    mount("securityfs", "/sys/kernel/security")
    os.makedirs("/lib/modules", exist_ok=True)
    if not os.path.exists(f"/lib/modules/{release}"):
        os.symlink(f"{kernel}/lib/modules/{release}", f"/lib/modules/{release}")
    subprocess.run(["modprobe", "-a", "loop", "ext4", "btrfs"], stderr=subprocess.DEVNULL)  # tests that lack one skip
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Families that Debian's kernel loads for nobody who only asks for a socket.
    subprocess.run(["modprobe", "-a", "-q", "rds", "tipc"], check=False)
    with open("/proc/sys/kernel/hostname", "w") as file:
        file.write("guest")


def run(test):
    """(what it printed, exit status, seconds)"""
    started = time.monotonic()
    process = subprocess.Popen(test["command"], env={**os.environ, **test["environment"]}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=test["timeout"])
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"killed after {test['timeout']:.0f} s\n".encode()
        status = 124
    return output.decode(errors="replace"), status, time.monotonic() - started


def work(job):
    """Runs everything; the exit status for all of it."""
    with open("/proc/sys/kernel/osrelease") as file:
        print(f"Linux {file.read().strip()}, up {time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s", flush=True)
    results = []
    with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
        waiting = {lanes.submit(run, test): test["name"] for test in job}
        for done in concurrent.futures.as_completed(waiting):
            output, status, took = done.result()
            verdict = {0: "ok", 77: "SKIP"}.get(status, f"FAIL ({status})")
            print(f"== {waiting[done]}: {verdict}, {took:.0f} s\n{output.rstrip()}", flush=True)
            results.append(status)
    failed = sum(status not in (0, 77) for status in results)
    print(f"in the guest: {results.count(0)} passed, {failed} failed, {results.count(77)} skipped", flush=True)
    return 1 if failed else 77 if results.count(77) == len(results) else 0


def main(kernel, release, job):
    status = 1
    try:
        prepare(kernel, release)
        status = work(json.loads(job))
    finally:
        print(f"guest: exit {status}", flush=True)
        termios.tcdrain(1)
        with open("/proc/sysrq-trigger", "w") as file:
            file.write("o")
        time.sleep(60)  # it takes a moment; a first process that ends is a panic


main(*sys.argv[1:])
