"""egressctl as people and scripts meet it."""

import json
import os
import re
import shutil

import harness
from harness import NOBODY, wait_for

CONF = "[local]\n2222 stream tcp * * 3 1h\n"


def commands(world):
    """The subcommands that --help lists."""
    text = world.ctl("--help", check=True).stdout
    part = text.split("commands:\n", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^  (\w+) ", part, re.M)


def rows(daemon, world):
    """Two counted, one blocked."""
    world.fail(world.tcp("10.66.1.1"), 1)
    world.fail(world.tcp("10.66.1.2"), 2)
    world.fail(world.tcp("10.66.1.3"), 3)
    wait_for(lambda: (daemon.row("10.66.1.3") or {}).get("state") == "blocked", what="the block")
    wait_for(lambda: (daemon.row("10.66.1.2") or {}).get("count") == 2, what="the count")
    wait_for(lambda: daemon.status()["store"]["pending"] == 0, what="everything written")


def test_help_of_each_command(world):
    names = commands(world)
    assert {"dump", "status", "reload", "check", "block", "unblock"} <= set(names), names
    for name in names:
        for arguments in ((name, "--help"), ("help", name)):
            done = world.ctl(*arguments)
            assert done.returncode == 0 and f"egressctl {name}" in done.stdout, (arguments, done)
            assert not done.stderr, done


def test_wrong_usage_is_2(world):
    for arguments in ((), ("nonsense",), ("dump", "--nonsense"), ("dump", "-Z"), ("dump", "word"),
                      ("block",), ("block", "nonsense"), ("block", "10.0.0.1/33"),
                      ("block", "10.0.0.1:99999"), ("block", "10.0.0.1", "--for", "soon"),
                      ("block", "10.0.0.1", "10.0.0.2"), ("unblock",), ("status", "extra"),
                      ("-S",), ("completion", "fish"), ("help", "nonsense")):
        done = world.ctl(*arguments)
        assert done.returncode == 2, (arguments, done)
        assert done.stderr and not done.stdout, (arguments, done)
        assert "Traceback" not in done.stderr


def test_without_daemon_is_3(world):
    for arguments in (("status",), ("reload",), ("block", "10.0.0.1"), ("unblock", "10.0.0.1"),
                      ("rules",), ("metrics",), ("status", "--json")):
        done = world.ctl("-S", world.path("no.sock"), *arguments)
        assert done.returncode == 3, (arguments, done)
        assert world.path("no.sock") in done.stderr, (arguments, done)
    done = world.ctl("dump", "-D", world.path("no-db"))
    assert done.returncode == 3 and "no-db" in done.stderr, done


def test_dump_needs_no_daemon(world):
    daemon = world.daemon(CONF)
    rows(daemon, world)
    with_daemon = world.ctl("dump", "-a", "-D", daemon.database, check=True).stdout
    daemon.stop()
    without = world.ctl("dump", "-a", "-D", daemon.database, check=True).stdout
    assert with_daemon == without, (with_daemon, without)
    lines = without.splitlines()
    assert len(lines) == 4 and all("/32:2222" in line for line in lines[1:]), without
    assert len(world.ctl("dump", "-D", daemon.database, "-b").stdout.splitlines()) == 2
    assert len(world.ctl("dump", "-D", daemon.database, "-abn").stdout.splitlines()) in (1, 3)
    assert "10.66.1.3/32:2222" in world.ctl("dump", "-D", daemon.database, "-bn").stdout
    wide = world.ctl("dump", "-D", daemon.database, "-aw").stdout.splitlines()
    assert len(wide[0]) > len(lines[0]), wide
    assert "egress" in world.ctl("dump", "-D", daemon.database, "-ad").stdout


def test_dump_json(world):
    daemon = world.daemon(CONF)
    rows(daemon, world)
    found = json.loads(world.ctl("dump", "-a", "--json", "-D", daemon.database, check=True).stdout)
    assert {row["addr"] for row in found} == {"10.66.1.1", "10.66.1.2", "10.66.1.3"}, found
    keys = {"name", "addr", "prefixlen", "port", "protocol", "count", "nfail", "state", "since",
            "until", "id", "reason"}
    for row in found:
        assert set(row) <= keys, set(row) - keys
    blocked = [row for row in found if row["addr"] == "10.66.1.3"][0]
    assert blocked["state"] == "blocked" and blocked["count"] == 3 and blocked["nfail"] == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", blocked["since"]), blocked
    live = daemon.row("10.66.1.3")
    assert {k: live[k] for k in blocked if k in live} == blocked, (live, blocked)
    empty = world.path("empty")
    os.mkdir(empty)
    done = world.ctl("dump", "-a", "--json", "-D", empty)
    assert done.returncode == 3 or json.loads(done.stdout) == [], done


def test_status_and_friends(world):
    daemon = world.daemon(CONF)
    rows(daemon, world)
    at = {"EGRESS_CONTROL": daemon.control}
    for name in ("status", "rules", "version"):
        plain = world.ctl(name, environment=at)
        assert plain.returncode == 0 and plain.stdout, (name, plain)
        done = world.ctl(name, "--json", environment=at)
        assert done.returncode == 0 and json.loads(done.stdout), (name, done)
    status = json.loads(world.ctl("status", "--json", environment=at).stdout)
    assert status["pid"] == daemon.pid and status["blocked"] == 1 and status["counting"] == 2
    assert world.ctl("-S", daemon.control, "status").returncode == 0
    metrics = world.ctl("metrics", environment=at, check=True).stdout
    for line in metrics.splitlines():
        assert re.fullmatch(r'#.*|[a-z_:][a-z0-9_:]*(\{[^}]*\})? [0-9.e+-]+', line), line
    assert re.search(r"^egress\w*refused\w*\{.*too_short", metrics, re.M), metrics


def test_block_and_unblock(world):
    daemon = world.daemon(CONF)
    at = {"EGRESS_CONTROL": daemon.control}
    words = ("block", "192.0.2.1:2222", "--proto", "tcp", "--for", "10m", "--reason")
    done = world.ctl(*words, "said \x1b[2J so\n", environment=at)
    assert done.returncode == 2 and "\x1b" not in done.stderr, done
    assert not daemon.blocks()
    done = world.ctl(*words, "said so", environment=at)
    assert done.returncode == 0 and "192.0.2.1" in done.stdout, done
    stored = json.loads(world.ctl("dump", "-b", "--json", "-D", daemon.database).stdout)
    assert [row["addr"] for row in stored] == ["192.0.2.1"], "it was said to be durable"
    assert stored[0]["reason"] == "said so", stored
    element = world.wait_element("192.0.2.1")
    assert (element["proto"], element["port"], element["timeout"]) == ("tcp", 2222, 600), element
    for target in ("2001:db8::/32", "[2001:db8:1::1]:22", "192.0.2.0/25"):
        done = world.ctl("block", target, "--json", environment=at)
        assert done.returncode == 0, (target, done)
    wait_for(lambda: len(world.elements()) == 4, what=lambda: f"4 elements: {world.elements()}")
    for target in ("192.0.2.1:2222", "2001:db8::/32", "[2001:db8:1::1]:22", "192.0.2.0/25"):
        done = world.ctl("unblock", target, environment=at)
        covered = target == "192.0.2.1:2222"  # by the /25, which is lifted last
        assert done.returncode == covered, (target, done)
        assert ("still shut out, by the block of 192.0.2.0/25" in done.stderr) == covered, done
    wait_for(lambda: not world.elements(), what="no elements")
    done = world.ctl("unblock", "192.0.2.1", environment=at)
    assert done.returncode == 1, ("nothing to unblock is a no", done)


def test_check(world):
    good = world.write("good.conf", CONF)
    bad = world.write("bad.conf", "[local]\n2222 stream tcp * * many 1h\n")
    assert world.ctl("check", good).returncode == 0
    done = world.ctl("check", bad)
    assert done.returncode == 1 and "bad.conf:2:" in done.stderr + done.stdout, done
    done = world.ctl("check", bad, "--json")
    assert done.returncode == 1 and json.loads(done.stdout), done
    assert world.ctl("check", world.path("none.conf")).returncode in (1, 3)
    shipped = os.path.join(harness.SOURCE, "etc/egress.conf")
    done = world.ctl("check", shipped)
    assert done.returncode == 0, done


# What is parsed and cannot be enforced; what every line of [egress] is warned of.
NOT_YET = ("* * * * * redirect=127.0.0.1:3129", "* * * * * ask", "* * * * * deny token=6",
           "* * * * * deny trap", "* * * * * deny nfail=3,disable=10m",
           "* * * * * deny nfail=3,disable=10m,level=all", "* * * * * deny kill,until=2126-01-01")
WARNED = ("* * * * curl deny", "* * * * /nowhere/to/be/found deny", "* * * * * deny\n* * * * * allow",
          "* * udp * * deny quiet\n@twice * * * * deny", "a.example * * * * deny", "@named * * * * deny")


def said(text, path):
    """The diagnostics, whatever stands around them."""
    return [line.removeprefix("egressd: ") for line in text.splitlines()
            if ": " in line and (path in line or "egress.d/" in line) and "rules are good" not in line]


def test_check_says_what_the_daemon_says(world):
    daemon = world.daemon(CONF)
    os.mkdir(world.path("egress.d"))
    world.write("egress.d/named", "a.example\n")
    world.write("egress.d/twice", "10.0.0.0/8\n10.0.0.0/8\n")
    cases = [("[egress]\n" + line + "\n", 1) for line in NOT_YET]
    cases += [("[egress]\n" + line + "\n", 0) for line in WARNED]
    cases.append(("[local]\n2222 stream tcp * * many 1h\n", 1))
    for text, status in cases:
        conf = world.write(os.path.basename(daemon.conf), text)
        assert conf == daemon.conf
        check = world.ctl("check", conf)
        assert check.returncode == status, (text, check)
        dry = harness.run(harness.artefact("daemon/egressd"), "-n", "-c", conf, check=False)
        assert dry.returncode == status, (text, dry)
        found = said(check.stderr, conf)
        assert found and found == said(dry.stderr, conf), (text, check, dry)
        if status:
            code, body = daemon.request("POST", "/v1/reload")
            assert code == 422 and body["errors"] + body["warnings"] == found, (found, body)
    # What lies beside the file goes with it, and a pipe is read, too.
    conf = world.write("beside.conf", CONF)
    os.mkdir(conf + ".d")
    world.write("beside.conf.d/a.conf", "[egress]\n* * * * * ask\n")
    done = world.ctl("check", conf)
    assert done.returncode == 1 and "a.conf:2:1: the action ask is not there yet" in done.stderr, done
    os.chmod(daemon.conf, 0o666)
    assert world.ctl("check", daemon.conf).returncode == 1
    done = world.ctl("check", "-", input="[egress]\n* * * * * ask\n")
    assert done.returncode == 1 and "stdin:2:1: the action ask" in done.stderr, done


def test_check_reads_lists_beside_the_file(world):
    os.mkdir(world.path("egress.d"))
    rules = world.write("rules.conf", "[egress]\n@bad * * * * deny\n")
    done = world.ctl("check", rules)
    assert done.returncode == 1 and "rules.conf:2:1: list " in done.stderr, done
    world.write("egress.d/bad", "203.0.113.0/24\n198.51.100.7/24\n")
    done = world.ctl("check", rules)
    assert done.returncode == 1 and "egress.d/bad:2:1: " in done.stderr, done
    assert "did you mean 198.51.100.0/24?" in done.stderr, done
    world.write("egress.d/bad", "203.0.113.0/24\n198.51.100.0/24\n")
    done = world.ctl("check", "--print", rules)
    assert done.returncode == 0 and "\n@bad " in done.stdout, done


def test_without_root(world):
    daemon = world.daemon(CONF)
    at = {"EGRESS_CONTROL": daemon.control}

    def as_nobody():
        return [world.ctl(*arguments, environment=at).returncode
                for arguments in (("status",), ("block", "10.0.0.1"), ("help",), ("reload",))]
    assert harness.as_user(NOBODY, as_nobody) == [3, 3, 0, 3]
    assert not daemon.blocks()


def loaded_by(world, *words):
    """The shared objects that egressctl opens, by the loader's own account."""
    trace = world.path("loaded")
    world.ctl(*words, environment={"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": trace})
    found = set()
    for name in os.listdir(os.path.dirname(trace)):
        if name.startswith("loaded."):
            with open(world.path(name), errors="replace") as file:
                found |= set(re.findall(r"file=(\S+) \[0\];  (?:needed|dynamically loaded)", file.read()))
            os.unlink(world.path(name))
    return found


def test_starts_light(world):
    """What the loader brings in is most of what a short command costs, so it stays little: no library for requests."""
    daemon = world.daemon(CONF)
    for words in (("--version",), ("help",), ("dump", "-a", "-D", daemon.database), ("completion", "bash"),
                  ("check", daemon.conf), ("-S", daemon.control, "status"), ("-S", daemon.control, "block", "10.0.0.9"),
                  ("-S", daemon.control, "reload")):
        loaded = loaded_by(world, *words)
        assert "libc.so.6" in loaded, (words, loaded)
        # Those that a sanitized build adds do not count.
        own = {name for name in loaded if not re.match(r"lib(asan|ubsan|pthread|m|dl|rt|clang_rt[.]asan-\w+)\.so", name)}
        assert len(own) < 13, (words, own)


def test_closed_output_and_full_disk(world):
    daemon = world.daemon(CONF)
    rows(daemon, world)
    tool = harness.artefact("ctl/egressctl")
    with open("/dev/full", "w") as full:
        done = harness.subprocess.run([tool, "dump", "-a", "-D", daemon.database], stdout=full,
                                      stderr=harness.subprocess.PIPE, check=False)
    assert done.returncode != 0, "output that is lost is no success"


def test_completion_lists_the_same_commands(world):
    names = set(commands(world))
    bash = world.ctl("completion", "bash", check=True).stdout
    words = re.search(r"'' *\) words='([^']*)'", bash)
    assert words and set(words[1].split()) == names, (words and words[1], names)
    zsh = world.ctl("completion", "zsh", check=True).stdout
    listed = set(re.findall(r"^ +'(\w+):", zsh.split("names=(", 1)[1].split(")\n    _describe", 1)[0],
                            re.M))
    assert listed == names, (listed, names)
    script = world.write("completion.bash", bash + """
COMP_WORDS=(egressctl "")
COMP_CWORD=1
_egressctl
printf '%s\\n' "${COMPREPLY[@]}"
""")
    done = harness.run("bash", "-eu", script)
    assert set(done.stdout.split()) == names, done
    if shutil.which("zsh"):
        harness.run("zsh", "-n", world.write("_egressctl", zsh))


def test_commands_stand_in_the_manual(world):
    with open(os.path.join(harness.SOURCE, "man/egressctl.8")) as file:
        manual = file.read()
    for name in commands(world):
        assert re.search(rf"^\.It .*\b{name}\b|^\.Cm {name}\b|^\.Ss .*{name}", manual, re.M), name


harness.main(globals())
