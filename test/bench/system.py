#!/usr/bin/env python3
"""The real egressd with the real helper under load, next to the floor of the same minute.

usage: system.py BUILD-DIR [--quick] [--only PART,...] [--dir DIR] [--json FILE]

Needs root. Everything runs in network and mount namespaces of its own; the database lies below
DIR (/var/tmp), which must be on a disk. Parts: reports latency storm beside start bulk. Prints, judges nothing.
"""
import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTING, BLOCKING, STORM = 2222, 2223, 2224
RULES = f"""[local]
{COUNTING} dgram udp * counted 1000000 1h
{COUNTING} stream tcp * counted 1000000 1h
{BLOCKING} dgram udp * blocked 1 1h
{STORM} dgram udp * storm 1 1h
[settings]
rows 2000000
"""
results = {}


def say(key, text, value):
    results[key] = value
    print(f"{text:66} {value if isinstance(value, str) else json.dumps(value)}", flush=True)


class Daemon:
    """egressd with a directory of its own: rules, sockets, log; the database outlives it."""

    def __init__(self, build, directory, *options, fresh=True):
        self.dir = directory
        self.database = directory / "db"
        if fresh:
            shutil.rmtree(self.database, ignore_errors=True)
        (directory / "rules").write_text(RULES)
        self.env = dict(os.environ, EGRESS_SOCKET=str(directory / "r.sock"),
                        EGRESS_CONTROL=str(directory / "c.sock"))
        self.load_program = build / "test/bench/load"
        self.log = open(directory / "log", "ab")
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [build / "daemon/egressd", "-d", "-c", directory / "rules", "-C",
             build / "helper/egress-helper", "-D", self.database, "-s", self.env["EGRESS_SOCKET"],
             "-S", self.env["EGRESS_CONTROL"], *options], stderr=self.log, stdin=subprocess.DEVNULL)
        while (up := self.status()) is None:
            if self.process.poll() is not None:
                sys.exit(f"egressd ended: {(directory / 'log').read_text()[-2000:]}")
            time.sleep(0.001)
        self.started = time.monotonic() - self.begun
        self.rows = up["rows"]

    def status(self):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(self.env["EGRESS_CONTROL"])
            except OSError:
                return None
            client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n")
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])

    def wait(self, what, until, seconds=300):
        end = time.monotonic() + seconds
        while not until(status := self.status()):
            if time.monotonic() > end:
                sys.exit(f"{what} does not happen: {status}")
            time.sleep(0.002)
        return time.monotonic()

    def in_force(self):
        return self.wait("all blocks in force", lambda s: s["not_in_force"] == 0
                         and s["helper"]["pending"] == 0 and s["helper"]["state"] == "serving")

    def put_back(self):
        """What the log says of changes by other programs."""
        return [line.split("table: ")[-1] for line in (self.dir / "log").read_text().splitlines()
                if "put back" in line]

    def serves(self):
        return self.status()["helper"]["pending"] == 0

    def load(self, *words):
        run = subprocess.run([self.load_program, *map(str, words)], env=self.env, check=True,
                             stdout=subprocess.PIPE)
        return json.loads(run.stdout)

    def lanes(self):
        """The processes that read reports: children of a child of the daemon's. (An older egressd has
        none.)"""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                rest = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(rest[1]), []).append(int(stat.parent.name))
        return [lane for child in parents.get(self.process.pid, []) for lane in parents.get(child, [])]

    def cpu(self):
        """Seconds of processor time so far: (all threads and lanes, the loop's)."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        spent = {int(task.name): int((task / "schedstat").read_text().split()[0])
                 for task in tasks.iterdir()}
        for lane in self.lanes():
            try:
                spent[lane] = int(Path(f"/proc/{lane}/schedstat").read_text().split()[0])
            except OSError:
                pass  # a spare one that ended
        return sum(spent.values()) / 1e9, spent[self.process.pid] / 1e9

    def memory(self, quiet=3):
        """MiB, after `quiet` seconds without work: egressd gives back what a burst took."""
        time.sleep(quiet)
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {k: round(int(v.split()[0]) / 1024, 1) for k, v in
                (line.split(":") for line in lines if line.startswith(("VmRSS", "Rss")))
                if k in ("VmRSS", "RssAnon", "RssFile")}

    def measured(self, *words):
        """`load reports` with the processor time that egressd spent on it."""
        all_before, loop_before = self.cpu()
        out = self.load("reports", *words)
        all_after, loop_after = self.cpu()
        out["cpu_us"] = (all_after - all_before) / out["sent"] * 1e6
        out["loop_us"] = (loop_after - loop_before) / out["sent"] * 1e6
        if out["taken"] != out["sent"]:
            out["LOST"] = out["sent"] - out["taken"]
        return {k: round(v, 3 if v < 10 else 1) if isinstance(v, float) else v
                for k, v in out.items()}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()


def rate(out, floor):
    return (f"{out['per_s']:>9,.0f}/s  {out['per_s'] / floor['per_s']:.2f} of the floor;  "
            f"{out['cpu_us']:.2f} us CPU (loop {out['loop_us']:.2f}: "
            f"{1e6 / out['loop_us']:,.0f}/s);  {out['commits']} commits, "
            f"{out['retries']} EAGAIN, lost {out['sent'] - out['taken']}")


def reports(args):
    load = args.build / "test/bench/load"
    env = dict(os.environ, EGRESS_SOCKET=str(args.work / "floor.sock"))
    count = 20_000 if args.quick else 50_000
    floors = {}
    for way in ("handle", "oneshot", "tcp"):
        run = subprocess.run([load, "floor", way, str(COUNTING), "0", str(count * 2)], env=env,
                             check=True, stdout=subprocess.PIPE)
        floors[way] = json.loads(run.stdout)
        say(f"floor {way}", f"floor: receive, two names, close; {way}",
            f"{floors[way]['per_s']:>9,.0f}/s  {floors[way]['cpu_us']:.2f} us CPU")
    levels = (1_000, 10_000, 100_000) if args.quick else (1_000, 10_000, 100_000, 1_000_000)
    flat = {}
    for level in levels:
        daemon = Daemon(args.build, args.work)
        if level == levels[0]:
            say("rss idle", "memory idle, MiB", daemon.memory())
        filled = daemon.measured("handle", COUNTING, 0, level)
        text = f"{level:,} rows: "
        if level >= 100_000:
            say(f"fill {level}", f"0 -> {level:,} rows, handle", rate(filled, floors["handle"]))
            say(f"rss {level}", text + "memory, MiB", daemon.memory())
        # So many turns that rows go from the store's journal into their table in some of them.
        turns = [daemon.measured("handle", COUNTING, 0, count, level, turn * count)
                 for turn in range(4 if args.quick else 16)]
        known = {k: statistics.mean(turn[k] for turn in turns) if k.endswith("_us") or k == "per_s"
                 else sum(turn[k] for turn in turns) for k in turns[0]}
        fresh = daemon.measured("handle", COUNTING, level, count)
        shot = daemon.measured("oneshot", COUNTING, level + count, count)
        flat[level] = (fresh["cpu_us"], known["cpu_us"])
        say(f"new {level}", text + "new addresses, handle", rate(fresh, floors["handle"]))
        say(f"known {level}", text + "known addresses, handle", rate(known, floors["handle"]))
        say(f"shot {level}", text + "new addresses, one-shot", rate(shot, floors["oneshot"]))
        wanted = level + 2 * count
        rows = daemon.status()["rows"]
        if level == 10_000:
            say("tcp", "8,192 TCP peers, handle",
                rate(daemon.measured("tcp", COUNTING, 0, count), floors["tcp"]))
        if rows != wanted:
            say(f"rows {level}", text + "ROWS ARE MISSING", f"{rows} instead of {wanted}")
        daemon.stop()
    first, last = levels[0], levels[-1]
    say("flat", f"CPU per report at {last:,} rows / at {first:,}: new, known",
        "  ".join(f"{flat[last][i] / flat[first][i]:.2f}" for i in (0, 1)))


def quantiles(out):
    extra = "".join(f", {k} {out[k]:.1f}" if isinstance(out[k], float) else f", {k} {out[k]}"
                    for k in ("lost", "retries", "send_ms", "all_ms") if k in out)
    return (f"p50 {out['p50_ms']:.3f}  p95 {out['p95_ms']:.3f}  p99 {out['p99_ms']:.3f}  "
            f"max {out['max_ms']:.1f} ms{extra}")


def latency(args):
    count = 300 if args.quick else 2_000
    subprocess.run(["nft", "add table inet floor; add set inet floor s { type ipv4_addr . "
                    "inet_proto . inet_service; flags timeout; }"], check=True)
    daemon = Daemon(args.build, args.work)
    daemon.in_force()
    daemon.load("idle", BLOCKING, 15_000_000, 10)  # makes the table and the set
    say("element", "floor: one element by netlink -> in force",
        quantiles(daemon.load("element", 9_000_000, count)))
    say("idle", "report -> element in force, idle",
        quantiles(daemon.load("idle", BLOCKING, 8_000_000, count)))
    turns = sorted((daemon.load("burst", BLOCKING, 10_000_000 + turn * 1000, 1000)
                    for turn in range(5 if args.quick else 21)), key=lambda out: out["p95_ms"])
    for key, out in (("best", turns[0]), ("median", turns[len(turns) // 2]), ("worst", turns[-1])):
        say(f"burst {key}", f"the same in {len(turns)} bursts of 1,000: {key} by p95",
            quantiles(out))
    daemon.stop()
    flush_firewall()


def flush_firewall():
    subprocess.run(["nft", "flush", "ruleset"], check=True)


def elements():
    out = subprocess.run(["nft", "list", "table", "inet", "egress"], check=True,
                         stdout=subprocess.PIPE).stdout
    return out.count(b" expires ")


def nft_floor(args, count):
    """Seconds that nft -f takes for as many elements in a set of the same form."""
    lines = ",\n".join(f"127.{i >> 16}.{i >> 8 & 255}.{i & 255} . udp . {STORM} timeout 3600s"
                       for i in range(count))
    file = args.work / "floor.nft"
    file.write_text("table inet floor { set s { type ipv4_addr . inet_proto . inet_service; "
                    "flags timeout; elements = {" + lines + "}\n}\n}\n")
    begun = time.monotonic()
    subprocess.run(["nft", "-f", file], check=True)
    spent = time.monotonic() - begun
    flush_firewall()
    return spent


def storm(args):
    count = 10_000 if args.quick else 100_000
    daemon = Daemon(args.build, args.work)
    daemon.in_force()
    begun = time.monotonic()
    out = daemon.measured("handle", STORM, 0, count)
    spent = daemon.in_force() - begun
    say("storm", f"{count:,} new addresses blocked, handle: durable; all in force",
        f"{out['per_s']:,.0f}/s {out['cpu_us']:.1f} us CPU; {count / spent:,.0f}/s; "
        f"{elements():,} elements")
    say("rss blocks", f"memory with {count:,} blocks, MiB", daemon.memory())
    say("idle beside", f"report -> element in force, idle, beside {count:,} blocks",
        quantiles(daemon.load("idle", BLOCKING, 8_000_000, 300)))
    daemon.stop()
    for turn in range(3):
        flush_firewall()
        daemon = Daemon(args.build, args.work, "-r", fresh=False)
        spent = daemon.in_force() - daemon.begun
        say(f"restore {turn}", f"restore of {count:,} blocks: exec -> all in force",
            f"{spent:.3f} s (answers after {daemon.started:.3f} s), {elements():,} elements")
        say(f"rss restored {turn}", "memory after it, MiB", daemon.memory())
        daemon.stop()
    daemon = Daemon(args.build, args.work, fresh=False)
    spent = daemon.in_force() - daemon.begun
    say("restart", f"restart beside {count:,} blocks in force", f"{spent:.3f} s")
    daemon.stop()
    flush_firewall()
    say("nft floor", f"floor: nft -f with {count:,} elements", f"{nft_floor(args, count):.3f} s")


def beside(args):
    """Starts beside blocks in force, after a crash; an emptied firewall; a restore."""
    for count in (10_000, 100_000) if args.quick else (100_000, 400_000, 1_000_000):
        daemon = Daemon(args.build, args.work)
        daemon.in_force()
        daemon.measured("handle", STORM, 0, count)
        daemon.in_force()
        daemon.process.kill()
        daemon.process.wait()
        daemon = Daemon(args.build, args.work, fresh=False)
        new = daemon.load("idle", BLOCKING, 8_000_000, 20)
        early = daemon.status()["not_in_force"] > 0 or not daemon.serves()
        spent = daemon.in_force() - daemon.begun
        say(f"beside {count}", f"start beside {count:,} blocks after a crash: exec -> all confirmed",
            f"{spent:.3f} s, {elements():,} elements")
        say(f"new beside {count}", "report -> element in force "
            + ("meanwhile" if early else "(it had ended before)"), quantiles(new))
        before = daemon.put_back()
        flush_firewall()
        daemon.wait("the firewall closed again", lambda _: len(daemon.put_back()) > len(before))
        say(f"emptied {count}", "nft flush ruleset", daemon.put_back()[-1])
        daemon.stop()
        flush_firewall()
        daemon = Daemon(args.build, args.work, "-r", fresh=False)
        spent = daemon.in_force() - daemon.begun
        say(f"restore {count}", f"restore of {count:,} blocks: exec -> all in force",
            f"{spent:.3f} s")
        daemon.stop()
        flush_firewall()


def start(args):
    rows = 100_000 if args.quick else 1_000_000
    daemon = Daemon(args.build, args.work)
    daemon.measured("handle", COUNTING, 0, rows)
    daemon.stop()
    for turn in range(2):
        daemon = Daemon(args.build, args.work, fresh=False)
        say(f"start {turn}", f"start with {rows:,} rows: exec -> answers",
            f"{daemon.started:.3f} s, {daemon.rows:,} rows, {daemon.memory()}")
        daemon.stop()


def bulk(args):
    """A list of addresses by `egressctl block --from`, and lifted in the same way."""
    count = 10_000 if args.quick else 100_000
    listed = args.work / "listed"
    listed.write_text("".join(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}\n" for i in range(count)))
    for turn in range(3):
        daemon = Daemon(args.build, args.work)
        daemon.in_force()
        for verb, words in (("block", ("--for", "1h")), ("unblock", ())):
            commits = daemon.status()["store"]["commits"]
            begun = time.monotonic()
            subprocess.run([args.build / "ctl/egressctl", "-S", daemon.env["EGRESS_CONTROL"], verb, *words,
                            "--from", listed], check=True, stdout=subprocess.DEVNULL)
            durable = time.monotonic() - begun
            commits = daemon.status()["store"]["commits"] - commits
            done = daemon.wait(f"{verb} of all", lambda s: s["not_in_force"] == 0 and s["releasing"] == 0
                               and s["helper"]["pending"] == 0) - begun
            say(f"bulk {verb} {turn}", f"{verb} --from of {count:,} addresses: durable; done in the firewall",
                f"{durable:.3f}; {done:.3f} s, {commits} commits")
        daemon.stop()
        flush_firewall()


PARTS = {"reports": reports, "latency": latency, "storm": storm, "beside": beside, "start": start, "bulk": bulk}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("build", type=lambda text: Path(text).resolve())
    parser.add_argument("--quick", action="store_true", help="smaller numbers, about 30 seconds")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on a disk")
    parser.add_argument("--json", help="file for all results")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("must run as root, to make a network namespace")
    if os.environ.get("EGRESS_BENCH_INSIDE") != "1":
        os.environ["EGRESS_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "-m", "-p", "--mount-proc", "--kill-child", "-f",
                              sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="egress-bench-", dir=args.dir) as work:
        args.work = Path(work)
        for part in args.only.split(","):
            PARTS[part](args)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
