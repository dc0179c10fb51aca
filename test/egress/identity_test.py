"""Which program a process is, for the rules: each way to be, or to seem, another one.

What the process says of itself (its name, its arguments, what /proc shows as its program) is in
matrix_test.py: paths "renamed", "reargued" and "other-exe".
"""

import os
import shutil
import stat
import subprocess

from guarded import guarded, harness
from harness import wait_for
from verdict_test import PROBE, PYTHON, copy_of, probe, servers

TARGET = "tcp,10.66.0.1,80"
DENY = "10.66.0.1 * * * {} deny {}\n"


def start(guard, rules, *words, **keywords):
    guard.start(rules, *words, **keywords)


class Waiting:
    """A process under the hooks that tries once for each line that it is given."""

    CODE = """
import errno, socket, sys
for line in sys.stdin:
    try:
        socket.create_connection(("10.66.0.1", 80), timeout=5).close()
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""

    def __init__(self, guard, program, *command, cgroup=""):
        self.process = guard.spawn(*(command or (program, "-c", self.CODE)), cgroup=cgroup)

    def tries(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.communicate(timeout=30)


def generation(guard):
    return guard.status()["generation"]


def replaced(world, guard, path):
    """Puts another file in the place of a program, and waits until the rules know of it."""
    before = generation(guard)
    shutil.copy(PYTHON, path + ".new")
    os.rename(path + ".new", path)
    wait_for(lambda: generation(guard) > before, 30, "the rules to be made anew")


def test_replaced_while_it_runs(world):
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "server")
        start(guard, DENY.format(program, ""))
        old = Waiting(guard, program)
        assert old.tries() == "EPERM"
        replaced(world, guard, program)
        assert old.tries() == "EPERM", "the old one lost its rule"
        assert probe(guard, TARGET, program=program) == ["EPERM"]
        # Nor does it when its name is gone altogether.
        before = generation(guard)
        os.unlink(program)
        wait_for(lambda: generation(guard) > before, 30, "the rules to be made anew")
        assert old.tries() == "EPERM"
        old.close()


def test_another_name_of_the_same_file(world):
    """The file counts, not the name: hard links, bind mounts and links are the program."""
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        bound = world.write("bound", "")
        harness.run("mount", "--bind", program, bound)
        start(guard, DENY.format(program, ""))
        assert probe(guard, TARGET, program=bound) == ["EPERM"]
        # A name that leads to it at the time of the rules is it as well.
        os.symlink(program, world.path("link"))
        world.write("egress.conf", "[local]\n2222 stream tcp * * 3 1h\n[egress]\n" +
                    DENY.format(world.path("link"), ""))
        assert guard.daemon.request("POST", "/v1/reload")[0] == 200
        assert probe(guard, TARGET, program=program) == ["EPERM"]
        harness.run("umount", bound)


def test_script(world):
    """A script is its interpreter, under the name of the script."""
    servers(world, 80)
    with guarded(world) as guard:
        interpreter = copy_of(world, "interpreter")
        script = world.write("script", f"#!{interpreter}\n{PROBE}", 0o755)
        start(guard, DENY.format(script, "") +
              f"10.66.0.1:81 * * * {interpreter} reject\n10.66.0.1:82 * * * script deny\n")
        assert probe_of(guard, script, TARGET, "tcp,10.66.0.1,81", "tcp,10.66.0.1,82") == [
            "ok", "ECONNREFUSED", "EPERM"]


def probe_of(guard, *command, **keywords):
    done = guard.run(*command, **keywords)
    assert done.returncode == 0, done
    return done.stdout.split()


IN_MEMORY = """
import os, sys
memory = os.memfd_create(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    os.write(memory, file.read())
os.execve(memory, ["allowed", "-c", *sys.argv[3:]], os.environ)
"""


def test_in_memory(world):
    """A program that was never a file of the system is none that a path can name."""
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        start(guard, f"10.66.0.1 * * * {program} allow\n10.66.0.1 * * * /memfd:program allow\n"
              "10.66.0.1 * * * * deny\n")
        command = [PYTHON, "-c", IN_MEMORY, "program", program, PROBE, TARGET]
        assert probe_of(guard, *command) == ["EPERM"]
        event = guard.event(action="BLOCKED", addr="10.66.0.1")
        assert "exe" not in event and event["comm"] != "program", event


def test_deleted_before_it_runs(world):
    """Opened, deleted, executed by its descriptor: the file that it was, for as long as it lives."""
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        start(guard, DENY.format(program, ""))
        held = os.open(program, os.O_RDONLY)
        before = generation(guard)
        os.unlink(program)
        wait_for(lambda: generation(guard) > before, 30, "the rules to be made anew")
        # Its name in the directory is what it was when it was looked up.
        assert probe_of(guard, f"/proc/self/fd/{held}", "-c", PROBE, TARGET, pass_fds=[held]) == [
            "EPERM"]
        os.close(held)


THREADS = """
import os, sys, threading
def work():
    os.execv(sys.argv[1], [sys.argv[1], "-c", *sys.argv[2:]])
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_executed_by_another_thread(world):
    """The kernel makes the thread that executes the process: it is the new program alone."""
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        other = copy_of(world, "other")
        start(guard, DENY.format(program, ""))
        assert probe_of(guard, other, "-c", THREADS, program, PROBE, TARGET) == ["EPERM"]
        assert probe_of(guard, program, "-c", THREADS, other, PROBE, TARGET) == ["ok"]


def unshared(*flags):
    return ["unshare", *flags, "--", "sh", "-c"]


def test_another_file_in_its_place(world):
    """In a mount namespace of its own, whoever is root there has any program under any path."""
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        fake = copy_of(world, "fake")
        start(guard, f"10.66.0.1:80 * * * {program} deny\n"
              f"10.66.0.1:81 * * * {program} reject container\n"
              f"10.66.0.1:82 * * * {program} deny host\n")
        targets = [f"tcp,10.66.0.1,{port}" for port in (80, 81, 82)]
        for port in (81, 82):
            world.listener("10.66.0.1", port)
        inside = f'mount --bind {fake} {program} && exec {program} -c "$@"'
        mounts = ("-m", "--propagation", "private")
        contained = ("-p", "--fork", *mounts)

        def told(flags):
            return probe_of(guard, *unshared(*flags), inside, "sh", PROBE, *targets)
        # The host's rules know the file; only the one for containers takes the path's word.
        assert told(contained) == ["ok", "ECONNREFUSED", "ok"]
        assert told(mounts) == ["ok"] * 3
        # The true file is it everywhere, whatever it is called in there.
        inside = f'mount --bind {program} {fake} && exec {fake} -c "$@"'
        assert told(contained) == ["EPERM", "ok", "ok"]
        assert told(mounts) == ["EPERM", "ok", "EPERM"]
        assert probe(guard, *targets, program=program) == ["EPERM", "ok", "EPERM"]


def test_what_a_container_is(world):
    """Another pid namespace than the host's first process; others count nothing. Services have mount
    namespaces (PrivateTmp), and are on the host."""
    servers(world, 80)
    with guarded(world) as guard:
        start(guard, "10.66.0.1:80 * * * * deny container\n10.66.0.1:81 * * * * reject host\n")
        world.listener("10.66.0.1", 81)
        inside, outside = ["EPERM", "ok"], ["ok", "ECONNREFUSED"]
        for flags, expected in ((["-m"], outside), (["-p", "--fork"], inside), (["-u"], outside),
                                (["-i"], outside), (["-C"], outside), (["-U", "-r"], outside),
                                (["-U", "-r", "-m"], outside), (["-U", "-r", "-m", "-p", "--fork"], inside)):
            command = [*unshared(*flags), 'exec "$@"', "sh", PYTHON, "-c", PROBE, TARGET, "tcp,10.66.0.1,81"]
            assert probe_of(guard, *command) == expected, flags


ID = "0123456789abcdef" * 4


def test_cgroup_of_a_container(world):
    """Without any namespace of its own: by the name that a runtime gives, however deep below it."""
    servers(world, 80)
    world.listener("10.66.0.1", 81)
    world.listener("10.66.0.1", 82)
    inside = (f"/docker-{ID}.scope", f"/docker-{ID}.scope/a/b", f"/pods/kubepods.slice/x",
              f"/libpod-{ID}.scope", f"/{ID}/init", "/machine-box.scope/payload/init.scope")
    outside = ("", f"/libpod-conmon-{ID}.scope", f"/docker-{ID[1:]}.scope", "/machine-box.scope/supervisor",
               "/machine-qemu\\x2d1\\x2dguest.scope/libvirt", "/payload")
    targets = [f"tcp,10.66.0.1,{port}" for port in (80, 81, 82)] + ["raw,0.0.0.0,253"]
    with guarded(world) as guard:
        for cgroup in inside + outside:
            os.makedirs(guard.cgroup + cgroup, exist_ok=True)
        # Where no rule asks, the event says it all the same; refused, so that no socket has it found out.
        start(guard, "* * * * * deny\n")
        for cgroup in inside + outside:
            assert probe(guard, TARGET, "udp,10.66.0.1,80", cgroup=cgroup) == ["EPERM"] * 2
            wait_for(lambda cgroup=cgroup: seen_in(guard, cgroup) == {cgroup in inside}, 20,
                     lambda cgroup=cgroup: f"{cgroup}: {guard.events()}")
        before = generation(guard)
        world.write("egress.conf", "[local]\n2222 stream tcp * * 3 1h\n[egress]\n"
                    "*:80 stream * * * deny container\n*:81 stream * * * reject host\n"
                    "* raw * * * deny container\n")
        assert guard.daemon.request("POST", "/v1/reload")[0] == 200
        wait_for(lambda: generation(guard) > before, 30, "the other rules")
        for cgroup in inside:
            assert probe(guard, *targets, cgroup=cgroup) == ["EPERM", "ok", "ok", "EPERM"], cgroup
        for cgroup in outside:
            assert probe(guard, *targets, cgroup=cgroup) == ["ok", "ECONNREFUSED", "ok", "ok"], cgroup


def seen_in(guard, cgroup):
    """What the events of the processes in it say of where they were."""
    return {event["container"] for event in guard.events()
            if event.get("cgroup") == "/" + os.path.basename(guard.cgroup) + cgroup}


def test_process_that_moves(world):
    """The cgroup counts that it is in when it connects, not the one that it was started in."""
    servers(world, 80)
    with guarded(world) as guard:
        os.makedirs(f"{guard.cgroup}/crio-{ID}.scope/child")
        start(guard, DENY.format("*", "container"))
        waiting = Waiting(guard, PYTHON)
        assert waiting.tries() == "ok"
        for cgroup, expected in ((f"/crio-{ID}.scope/child", "EPERM"), ("", "ok")):
            with open(guard.cgroup + cgroup + "/cgroup.procs", "w") as procs:
                procs.write(str(waiting.process.pid))
            assert waiting.tries() == expected, cgroup
        waiting.close()


def test_parent_replaced(world):
    """`parent` and `under`: whoever runs the old file is still the parent that the rule names."""
    servers(world, 80)
    with guarded(world) as guard:
        starter = copy_of(world, "starter")
        start(guard, DENY.format("*", f"parent={starter}") +
              f"10.66.0.1:81 * * * * deny under={starter}\n")
        code = ("import subprocess, sys\nfor line in sys.stdin:\n"
                "    done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
                "    print(*done.stdout.split(), flush=True)\n")
        old = Waiting(guard, None, starter, "-c", code, PYTHON, "-c", PROBE, TARGET,
                      "tcp,10.66.0.1,81")
        assert old.tries() == "EPERM EPERM"
        shutil.copy(PYTHON, starter + ".new")
        os.rename(starter + ".new", starter)
        new = Waiting(guard, None, starter, "-c", code, PYTHON, "-c", PROBE, TARGET,
                      "tcp,10.66.0.1,81")
        wait_for(lambda: new.tries() == "EPERM EPERM", 30, "the new file to be the parent")
        assert old.tries() == "EPERM EPERM", "the old one lost its rule"
        old.close()
        new.close()


def test_deep_cgroups(world):
    """A rule for a cgroup holds however deep below it a process is."""
    servers(world, 80)
    with guarded(world) as guard:
        inner = "/named" + "/deeper" * 14
        os.makedirs(guard.cgroup + inner)
        below = "/" + os.path.basename(guard.cgroup) + "/named"
        start(guard, DENY.format("*", f"cgroup={below}"))
        assert probe(guard, TARGET, cgroup="/named") == ["EPERM"]
        assert probe(guard, TARGET, cgroup=inner) == ["EPERM"]
        assert probe(guard, TARGET) == ["ok"]
        guard.daemon.stop()
        start(guard, DENY.format("*", f"cgroup=/{os.path.basename(guard.cgroup)}{inner}"))
        assert probe(guard, TARGET, cgroup=inner) == ["EPERM"]
        assert probe(guard, TARGET, cgroup=os.path.dirname(inner)) == ["ok"]


def test_set_uid_program(world):
    """The real owner counts, not the one that the program has by its set-uid bit."""
    servers(world, 80)
    with guarded(world) as guard:
        program = copy_of(world, "program")
        os.chmod(program, 0o755 | stat.S_ISUID)
        start(guard, "10.66.0.1 * * 1000 * deny\n")
        assert probe(guard, TARGET, program=program, user=1000, group=1000) == ["EPERM"]


if __name__ == "__main__":
    harness.main(globals())
