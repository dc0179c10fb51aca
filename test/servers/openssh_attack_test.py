"""OpenSSH with our patches, attacked: each tool ends in the firewall, everybody else is served."""

import os
import re
import shutil

import built
import harness
import sshd as servers
import stock
import tools
from harness import run

# On port 22 tools guess passwords; on the others, connections misbehave in ways that no tool does. A
# block is short enough to see its end. Only abuse can be blocked on the last.
ODD, STRICT = 2222, 2223
RULES = f"""[local]
22 stream tcp * * 4 20s
{ODD} stream tcp * * 5 20s
{STRICT} stream tcp * * 100 20s
"""
ATTACKERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attackers.py")
PYTHON = "/usr/bin/python3"  # the one that Debian's paramiko belongs to
GARBAGE = """while :; do
    printf 'GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n' | nc.openbsd -w 3 {} {}
done"""


def guessing(world, pam):
    """Every tool, hydra over IPv6 as well, patator in keyboard-interactive where there is PAM."""
    words = tools.wrong() + [stock.PASSWORD]
    attacks = []
    for tool, function in tools.ALL.items():
        for six in (False, True) if tool in tools.SIX["ssh"] else (False,):
            host = world.host(f"{tool}{int(six)}")
            attacks.append(function(world, host, host.host6 if six else host.host4, "ssh", 22, "alice",
                                    words))
    if pam == "yes":
        host = world.host("asked")
        attacks.append(tools.patator(world, host, host.host4, "ssh", 22, "alice", words,
                                     options=["auth_type=keyboard-interactive"]))
    return attacks


def misbehaving(world):
    """Guesses past MaxAuthTries, silence after the key exchange, something else than SSH."""
    if run(PYTHON, "-c", "import paramiko", check=False).returncode or not shutil.which("nc.openbsd"):
        raise harness.Skip("paramiko or netcat is not installed (test/deps installs them)")
    attacks = {}
    for kind, port in (("guess", STRICT), ("idle", ODD)):
        for six in (False, True):
            host = world.host(f"{kind}{int(six)}")
            attacks[kind, six] = tools.start(
                world, host, host.host6 if six else host.host4, tools.PATIENCE, PYTHON, "-B",
                ATTACKERS, kind, host.host6 if six else host.host4, str(port))
    for six in (False, True):
        host = world.host(f"garbage{int(six)}")
        target = host.host6 if six else host.host4
        attacks["garbage", six] = tools.start(world, host, target, tools.PATIENCE, "sh", "-c",
                                              GARBAGE.format(target, ODD))
    return attacks


def attack(world, version, pam):
    daemon = world.daemon(RULES, "-v")
    sshd = servers.Sshd(world, version, pam=pam)
    odd = servers.Sshd(world, version, pam=pam, grace=5, port=ODD)
    strict = servers.Sshd(world, version, pam=pam, tries=2, port=STRICT)
    friend = servers.Client(world, "friend")
    other = servers.Client(world, "other", six=True, port=STRICT)

    def serve():
        for client, server in ((friend, sshd), (other, strict)):
            assert client.log_in(), (client.said, server.text()[-3000:])

    def log_in(attack, patience):
        target = attack.host.host6 if ":" in attack.address else attack.host.host4
        return stock.log_in(attack.host, target, "alice", timeout=patience)

    def release(attack):
        done = log_in(attack, 30)
        assert done.stdout == "in\n", (attack, done)
    serve()
    guesses, misbehaviours = guessing(world, pam), misbehaving(world)
    abusive = {misbehaviours["guess", six].address for six in (False, True)}

    def judge(attack, row):
        assert row and row["count"] >= row["nfail"], (attack, row)
        if attack.tool == "hydra":  # the right password does not help either
            assert log_in(attack, 2).returncode != 0, attack
        if attack.address in abusive:
            assert re.search(rf'block {attack.address} port {STRICT} .*reported: too many tries',
                             daemon.log()), (attack, row)
    tools.check_end(world, daemon, guesses + list(misbehaviours.values()), serve, release,
                    stock.PASSWORD, judge)
    for guess in guesses:
        assert f"for alice from {guess.address} " in sshd.text(), (guess, sshd.text()[-3000:])
    assert not any(daemon.status()["refused"].values()), daemon.status()
    for server in (sshd, odd, strict):
        server.stop()


def define():
    """A test per version and configuration, so that each can be run and fail by itself."""
    for version in servers.VERSIONS:
        short = version.replace("openssh-", "").replace(".", "_")
        for pam in ("yes", "no"):
            globals()[f"test_attack_{short}_pam_{pam}"] = (
                lambda world, v=version, p=pam: attack(world, v, p))


define()
built.prepare(*servers.VERSIONS)
harness.main(globals())
