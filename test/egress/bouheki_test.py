"""The policies that bouheki shows, as rules of [egress]: real curl and wget, a real nginx on another host.

bouheki judges a connection by several lists; here each of its policies is a few lines, of which the
first that matches decides.
"""

import contextlib
import re
import shutil
import subprocess
import time

from guarded import guarded, harness
from harness import run, wait_for

NEIGHBOUR, SECRET = "10.0.1.1", "10.0.1.71"
HOSTNAME = "cdb99d181368"
PAGE = "welcome to nginx"
NGINX = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 80; location / {{ return 200 "{page}\\n"; }} }}
}}
"""

# What a line of bouheki's log tells: where ours tells it, and what it is for a curl in a container
# that was refused. Where it has a sentence for every line, ours has the reason.
LOG = {
    "Action": ("action", lambda value: value == "BLOCKED"),
    "Addr": ("addr", lambda value: value == SECRET),
    "Comm": ("comm", lambda value: value == "curl"),
    "Hostname": ("hostname", lambda value: value == HOSTNAME),
    "PID": ("pid", lambda value: isinstance(value, int) and value > 1),
    "Port": ("port", lambda value: value == 80),
    "msg": ("reason", lambda value: value == "deny"),
    "time": ("time", lambda value: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value)),
}


def programs():
    """The paths of curl, wget and nginx; the kernel knows a program by its file."""
    found = [shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("curl", "wget", "nginx")]
    if not all(found):
        raise harness.Skip("curl, wget or nginx is not installed (test/deps installs them)")
    return found


@contextlib.contextmanager
def nginx(world):
    """nginx on another host, which has both addresses."""
    program = programs()[2]
    web = world.host("web")
    for address in (NEIGHBOUR, SECRET):
        web.run("ip", "addr", "add", f"{address}/32", "dev", "up0")
    world.ip("route", "add", "10.0.1.0/24", "via", web.v4)
    path = world.write("nginx.conf", NGINX.format(directory=world.scratch, page=PAGE))
    log = world.path("error.log")
    process = subprocess.Popen(web.command(program, "-p", world.scratch, "-e", log, "-c", path),
                               stdin=subprocess.DEVNULL, env=harness.free_environment())
    try:
        wait_for(lambda: run("curl", "-sf", f"http://{SECRET}/", check=False).stdout == PAGE + "\n", 60,
                 "nginx to answer")
        yield
    finally:
        process.kill()
        process.wait()


def curl(guard, address, container=False, **keywords):
    """"ok", or curl's own word for what hindered it; in a container that is made for it, on request."""
    fetch = f"exec {programs()[0]} -sS -m 20 http://{address}/"
    if container:
        command = ["unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "sh", "-c",
                   f"echo {HOSTNAME} >/proc/sys/kernel/hostname; {fetch}"]
    else:
        command = ["sh", "-c", fetch]
    done = guard.run(*command, **keywords)
    if done.returncode == 0 and done.stdout == PAGE + "\n":
        return "ok"
    assert done.returncode == 7, done  # it could not connect
    return "refused"


def wget(guard, address, **keywords):
    done = guard.run(programs()[1], "-t", "1", "-T", "20", "-O", "-", f"http://{address}/", **keywords)
    if done.returncode == 0 and done.stdout == PAGE + "\n":
        return "ok"
    assert done.returncode == 4 and "Operation not permitted" in done.stderr, done
    return "refused"


CONTAINERS_ONLY = f"""\
{SECRET}     *  *  *  *  deny   container
10.0.1.0/24  *  *  *  *  allow  container
*            *  *  *  *  deny   container
"""


def test_containers_reach_one_network_but_one_address(world):
    with nginx(world), guarded(world) as guard:
        guard.start(CONTAINERS_ONLY)
        assert curl(guard, NEIGHBOUR, container=True) == "ok"
        assert curl(guard, SECRET, container=True) == "refused"
        # Outside of the network that is allowed.
        assert curl(guard, "10.66.0.1", container=True) == "refused"
        assert curl(guard, SECRET) == "ok"
        assert curl(guard, NEIGHBOUR) == "ok"
        assert guard.event(action="BLOCKED", addr=SECRET)["container"] is True
        assert guard.event(action="BLOCKED", addr="10.66.0.1")["container"] is True
        assert not guard.events(container=False), guard.events(container=False)


def test_curl_is_refused_where_wget_gets_through(world):
    with nginx(world), guarded(world) as guard:
        guard.start(f"{SECRET} * * * {programs()[0]} deny\n{SECRET} * * * {programs()[1]} allow\n")
        assert curl(guard, SECRET) == "refused"
        assert wget(guard, SECRET) == "ok"
        assert curl(guard, NEIGHBOUR) == "ok"
        assert guard.event(action="BLOCKED")["exe"] == programs()[0]
        # By what they are called, as bouheki has it.
        guard.daemon.stop()
        guard.start(f"{SECRET} * * * wget allow\n{SECRET} * * * curl deny\n")
        assert curl(guard, SECRET) == "refused"
        assert wget(guard, SECRET) == "ok"


def test_uid_0_may_and_uid_1000_not(world):
    with nginx(world), guarded(world) as guard:
        guard.start(f"{SECRET} * * 0 * allow\n{SECRET} * * 1000 * deny\n")
        for fetch in (curl, wget):
            assert fetch(guard, SECRET, user=0) == "ok"
            assert fetch(guard, SECRET, user=1000) == "refused"
            assert fetch(guard, NEIGHBOUR, user=1000) == "ok"
        assert guard.event(action="BLOCKED", comm="wget")["uid"] == 1000


def test_gid_0_may_and_gid_1000_not(world):
    with nginx(world), guarded(world) as guard:
        guard.start(f"{SECRET} * * :0 * allow\n{SECRET} * * :1000 * deny\n")
        for fetch in (curl, wget):
            assert fetch(guard, SECRET, user=1000, group=0) == "ok"
            assert fetch(guard, SECRET, user=0, group=1000) == "refused"
            assert fetch(guard, NEIGHBOUR, group=1000) == "ok"
        assert guard.event(action="BLOCKED", comm="wget")["gid"] == 1000


def test_monitor_mode_reports_and_blocks_nothing(world):
    with nginx(world), guarded(world) as guard:
        guard.start(CONTAINERS_ONLY + f"{SECRET} * * 1000 {programs()[1]} deny\n", "-m")
        assert curl(guard, SECRET, container=True) == "ok"
        assert wget(guard, SECRET, user=1000) == "ok"
        assert curl(guard, SECRET) == "ok"
        assert guard.event(action="MONITOR", addr=SECRET, comm="curl")["container"] is True
        assert guard.event(action="MONITOR", addr=SECRET, comm="wget")["container"] is False
        assert not guard.events(action="BLOCKED"), guard.events(action="BLOCKED")


def test_the_event_tells_at_least_what_bouheki_logs(world):
    with nginx(world), guarded(world) as guard:
        guard.start(CONTAINERS_ONLY)
        before = time.time() - 2
        assert curl(guard, SECRET, container=True) == "refused"
        event = guard.event(action="BLOCKED")
        for theirs, (ours, right) in LOG.items():
            assert ours in event and right(event[ours]), f"{theirs} is {ours} here: {event}"
        told = time.strptime(event["time"][:19], "%Y-%m-%dT%H:%M:%S")
        assert before <= time.mktime(told) - time.timezone <= time.time() + 2, event
        # "level": the priority of the line.
        line = next(line for line in guard.daemon.log().splitlines() if "\"BLOCKED\"" in line)
        assert re.match(r"egressd: (info|notice|warning): \{", line), line
        # And another process is another one.
        assert curl(guard, "10.66.0.1", container=True) == "refused"
        assert guard.event(addr="10.66.0.1")["pid"] != event["pid"]


if __name__ == "__main__":
    harness.main(globals())
