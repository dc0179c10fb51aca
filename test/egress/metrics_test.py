"""/metrics of both directions, and the alerts on them, as Prometheus' own tool reads them."""

import os
import re
import shutil
import subprocess

from guarded import guarded, harness
from harness import Skip, wait_for
from verdict_test import probe, servers

RULES = os.path.join(harness.SOURCE, "etc/prometheus/egress.rules.yml")


def promtool(*words, **keywords):
    tool = shutil.which("promtool")
    if not tool:
        raise Skip("no promtool; package prometheus has it")
    done = subprocess.run([tool, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, **keywords)
    assert done.returncode == 0, done
    return done.stdout


def metrics(guard):
    text = harness.run(harness.artefact("ctl/egressctl"), "-S", guard.daemon.control, "metrics").stdout
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return text, found


def test_what_a_monitor_sees(world):
    servers(world, 80, 443)
    with guarded(world) as guard:
        guard.start("*:80 * * * * deny\n*:443 * * * * allow log\n")
        text, before = metrics(guard)
        assert promtool("check", "metrics", input=text) == ""
        assert before["egress_enforced"] == 1 and before['egress_state{state="in force"}'] == 1
        assert before['egress_state{state="not enforced"}'] == 0 and before["egress_trial"] == 0
        assert before['egress_hook_attached{hook="egress_connect4"}'] == 1, text
        assert re.search(r'^egress_build_info\{version="[0-9.]+"\} 1$', text, re.M), text
        assert probe(guard, "tcp,10.66.0.1,80", "tcp,10.66.0.1,443") == ["EPERM", "ok"]
        guard.event(action="BLOCKED", port=80)
        guard.event(action="ALLOWED", port=443)
        assert probe(guard, "udp,10.66.0.1,81") == ["ok"]  # matched by no line, which only -vv logs
        wait_for(lambda: metrics(guard)[1]['egress_verdicts_total{kind="unmatched"}'] ==
                 before['egress_verdicts_total{kind="unmatched"}'] + 1, what="the third")
        after = metrics(guard)[1]
        for name in ('egress_verdicts_total{kind="blocked"}', 'egress_verdicts_total{kind="allowed"}'):
            assert after[name] == before[name] + 1, name
        assert after['egress_checks_total{hook="connect4"}'] >= before['egress_checks_total{hook="connect4"}'] + 2
        assert after['egress_events_total{kind="made"}'] == before['egress_events_total{kind="made"}'] + 3
        wait_for(lambda: metrics(guard)[1]['egress_events_total{kind="read"}'] >= 2, what="the events")
        assert after['egress_losses_total{reason="ring"}'] == 0


def test_alarms_and_trials_are_seen(world):
    servers(world, 80)
    rules = "*:80 * * * * deny alarm\n"
    with guarded(world) as guard:
        guard.start(rules)
        alarms = 'egress_verdicts_total{kind="alarm"}'
        before = metrics(guard)[1]
        assert before[alarms] == 0 and before["egress_trial"] == 0
        assert probe(guard, "tcp,10.66.0.1,80") == ["EPERM"]
        wait_for(lambda: metrics(guard)[1][alarms] == 1, what="the alarm")
        tried = {"name": "tried", "text": "[egress]\n*:80 * * * * deny\n", "seconds": 60}
        assert guard.daemon.request("PUT", "/v1/trial", tried)[0] == 200
        assert metrics(guard)[1]["egress_trial"] == 1
        assert guard.daemon.request("DELETE", "/v1/trial")[0] == 200
        assert metrics(guard)[1]["egress_trial"] == 0


def test_not_enforced(world):
    with guarded(world) as guard:
        guard.start("* * * * * deny\n", "-m")
        found = metrics(guard)[1]
        assert found["egress_enforced"] == 0 and found['egress_state{state="in force"}'] == 1


def test_alerts(world):
    promtool("check", "rules", RULES)
    with open(os.path.join(harness.SOURCE, "test/egress/metrics_rules.yml")) as file:
        path = world.write("rules.test.yml", file.read().replace("[RULES]", f"[{RULES!r}]"))
    assert "SUCCESS" in promtool("test", "rules", path)


def test_alerts_name_what_there_is(world):
    """Every metric in an alert is one that egressd has."""
    with open(RULES) as file:
        named = set(re.findall(r"\b(egress_[a-z_]+)(?=[{ \[])", "\n".join(
            line for line in file if "expr:" in line)))
    with guarded(world) as guard:
        guard.start("* * * * * deny\n")
        there = {name.split("{")[0] for name in metrics(guard)[1]}
        assert len(named) >= 8 and named <= there, named - there


def test_kinds_of_messages(world):
    """Every EGRESS_EVENT that the journal gets is in the manual, and no other."""
    del world
    used = set()
    for where, _, files in os.walk(os.path.join(harness.SOURCE, "daemon")):
        for name in files:
            if name.endswith(".cpp"):
                with open(os.path.join(where, name)) as file:
                    text = file.read()
                used |= set(re.findall(r'log::(?:error|warning|notice|info|debug)\(\s*"([a-z-]+)"', text))
                for listed in re.findall(r"keys\[kinds\] = \{([^}]*)\}", text):
                    used |= set(re.findall(r'"([a-z-]+)"', listed))
    with open(os.path.join(harness.SOURCE, "man/egressd.8")) as file:
        part = file.read().split("names the kind of message:")[1].split(".El")[0]
    told = {word for line in part.splitlines() if line.startswith(".It Cm ")
            for word in line[7:].replace(" ,", "").split()}
    assert used == told, used ^ told


if __name__ == "__main__":
    harness.main(globals())
