"""The second act of test/demo: a rule refuses curl and lets wget through, also without the daemon."""

import json
import os
import signal
import subprocess
import sys

from bouheki_test import SECRET, nginx, programs
from guarded import guarded, harness
from names_test import RESOLVER, Resolver

import stage  # of test/e2e, as guarded has found that
from harness import wait_for
from stage import bad, good, note, say, show

RULES = f"""\
{SECRET}:http  stream  tcp  *  {{curl}}  deny
*               *       *    *  *              allow
"""


def fetch(guard, command, refused):
    """Runs it inside the guarded cgroup and shows what it said."""
    done = guard.run("sh", "-c", command)
    show(command, (done.stdout + done.stderr).strip())
    if bool(done.returncode) != refused:
        raise harness.Failure(f"{command}: {done}")
    if refused:
        bad("refused: the kernel did not let it connect")
    else:
        good("let through")


def watching(guard):
    """egressctl watch, until the first event."""
    before = guard.status()["events"]["watchers"]
    process = subprocess.Popen([harness.artefact("ctl/egressctl"), "watch", "--json", "--action", "BLOCKED"],
                               stdout=subprocess.PIPE, text=True, env=harness.free_environment())
    wait_for(lambda: guard.status()["events"]["watchers"] > before, 30, "the watcher to be known")
    return process


def rules(guard):
    say("The other direction: which program may go where, decided in the kernel")
    curl, wget, _ = programs()
    text = RULES.format(curl=curl)
    # Before the start: under the unit egressd does not see what is mounted later.
    resolv = guard.world.path("resolv.conf")
    with open(resolv, "w") as file:
        file.write(f"nameserver {RESOLVER}\nsearch example.org\n")
    harness.libc.mount(resolv.encode(), os.path.realpath("/etc/resolv.conf").encode(), None, 4096, None)
    guard.start(text)
    path = guard.world.path("egress.conf")
    show(f"sed -n '/egress]/,$p' {path}", harness.run("sed", "-n", "/egress]/,$p", path).stdout)
    note("in force for one cgroup of this demonstration; on a server egressd takes the root of all (-G)")
    return curl, wget


def refused(guard, curl, wget):
    say("A web server runs on another host. wget may, curl may not")
    watcher = watching(guard)
    fetch(guard, f"{wget} -q -O - http://{SECRET}/", refused=False)
    fetch(guard, f"{curl} -sS http://{SECRET}/", refused=True)
    say("egressd has seen it, with everything that there is to know")
    line = watcher.stdout.readline()
    watcher.kill()
    watcher.wait()
    event = json.loads(line)
    if event["exe"] != curl or event["addr"] != SECRET or event["action"] != "BLOCKED":
        raise harness.Failure(f"another event: {line}")
    show("egressctl watch --json --action BLOCKED", line)


def explained(guard, curl):
    say("And says why, from the same text that the kernel runs")
    words = ["explain", "--exe", curl, "--uid", "0", f"{SECRET}:80"]
    done = guard.world.ctl(*words)
    if curl not in done.stdout:
        raise harness.Failure(f"explain: {done}")
    show("egressctl " + " ".join(words), done.stdout)


def kept(guard, wget):
    say("One command is kept to one name, and whatever it starts, too: no proxy, no container")
    resolver = Resolver(RESOLVER)  # ends with this object
    resolver.says("files.example.org", SECRET)
    run = f"{harness.artefact('ctl/egressctl')} run --allow files.example.org:http --"
    fetch(guard, f"{run} {wget} -q -O - http://files.example.org/", refused=False)
    note("with another name listed, the same server is out of reach")
    fetch(guard, f"{harness.artefact('ctl/egressctl')} run --allow other.example.org:http -- "
          f"{wget} -T 5 -t 1 -nv -O - http://files.example.org/", refused=True)


def without_daemon(guard, curl, wget):
    say("The daemon is killed. The verdict stays: hooks and tables are the kernel's now")
    pid = guard.daemon.pid
    guard.daemon.send(signal.SIGKILL)
    wait_for(lambda: not guard.daemon.alive(), 30, "egressd to be dead")
    note(f"egressd, pid {pid} in here, is dead")
    fetch(guard, f"{curl} -sS http://{SECRET}/", refused=True)
    fetch(guard, f"{wget} -q -O - http://{SECRET}/", refused=False)


def restarted(guard, curl):
    say("Started again, it takes over what it finds, and reads what it has missed")
    guard.start(RULES.format(curl=curl))
    lines = [line for line in guard.daemon.log().splitlines() if "went on by itself" in line]
    show("grep 'by itself' egressd.log", "\n".join(lines))
    event = guard.event(action="BLOCKED", exe=curl)
    good(f"the refusal while it was dead: {event['comm']} to {event['addr']} port {event['port']}")
    say("Nothing but this takes it out of the kernel")
    done = guard.world.ctl("detach", check=True)
    show("egressctl detach", done.stdout)
    fetch(guard, f"{curl} -sS http://{SECRET}/", refused=False)


def test_second_act(world):
    with nginx(world), guarded(world) as guard:
        curl, wget = rules(guard)
        refused(guard, curl, wget)
        explained(guard, curl)
        kept(guard, wget)
        without_daemon(guard, curl, wget)
        restarted(guard, curl)
    say(f"That was it, in {stage.seconds():.0f} seconds. Nothing of it is left on this machine.")


def main():
    harness.enter()
    result, text = harness.run_one("second act", test_second_act)
    if result == "SKIP":
        print(f"\nthe second act cannot run here: {text}", file=sys.stderr)
    elif result != "ok":
        print(f"\nthe demonstration failed: {text}", file=sys.stderr)
    sys.exit({"ok": 0, "SKIP": 77}.get(result, 1))


main()
