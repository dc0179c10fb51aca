#!/usr/bin/env python3
"""How fast egress-helper changes the firewall, next to `nft -f` in the same run.

usage: helper_bench.py PATH-TO-egress-helper [ELEMENTS]      (root; everything in a private namespace)

Prints, and judges nothing: latency of single adds through `serve`, a burst of 1,000 adds in one
write, a sync of ELEMENTS (100,000) into an empty firewall, the same sync again, one with a tenth
changed, a list; a new helper that makes the set anew, with the delay of new blocks meanwhile; and as
the floor the same elements loaded by nft -f into such a set.
"""
import os
import select
import subprocess
import sys
import tempfile
import time


class Serve:
    def __init__(self, helper):
        self.child = subprocess.Popen([helper, "serve"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, bufsize=0)
        self.buffer = b""
        self.ask(b"HELLO egress-helper 2\n", 1)

    def ask(self, text, lines):
        """Writes text (concurrently with reading) and waits for that many lines."""
        view = memoryview(text)
        os.set_blocking(self.child.stdin.fileno(), False)
        while True:
            if view:
                try:
                    view = view[os.write(self.child.stdin.fileno(), view):]
                except BlockingIOError:
                    time.sleep(0)
                    continue
            if not view:
                break
        while self.buffer.count(b"\n") < lines:
            data = os.read(self.child.stdout.fileno(), 1 << 20)
            if not data:
                sys.exit("the helper ended")
            self.buffer += data
        out, self.buffer = self.buffer, b""
        return out


def address(i):
    return f"{10 + (i >> 22)}.{i >> 16 & 63}.{i >> 8 & 255}.{i & 255}"


def sync(name, first, count, seconds=3600):
    lines = [f"7 sync {name}"]
    lines += [f"7 elem tcp {address(i)} 32 22 {seconds} drop" for i in range(first, first + count)]
    lines.append("7 end\n")
    return "\n".join(lines).encode()


def percentile(times, part):
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1e6


def timed(what, function):
    start = time.perf_counter()
    answer = function()
    print(f"{what:48} {(time.perf_counter() - start) * 1e3:9.1f} ms   {answer}")


def bench(helper, count):
    serve = Serve(helper)
    times = []
    for i in range(5000):
        text = f"{i + 1} add one tcp 192.0.{i >> 8}.{i & 255} 32 22 3600 drop\n".encode()
        start = time.perf_counter()
        answer = serve.ask(text, 1)
        times.append(time.perf_counter() - start)
        assert answer.endswith(b" ok\n"), answer
    first = times[0]
    del times[0]
    print(f"single add, empty firewall (makes the table)     {first * 1e6:9.1f} us")
    for part in (0.5, 0.95, 0.99):
        print(f"single add, p{part * 100:<2.0f}                                  "
              f"{percentile(times, part):9.1f} us")
    burst = "".join(f"{i + 1} add two tcp {address(i)} 32 22 600 drop\n" for i in range(1000))
    timed("1,000 adds in one write",
          lambda: "{} ok".format(serve.ask(burst.encode(), 1000).count(b" ok\n")))
    text = sync("big", 0, count)
    timed(f"sync of {count:,} into nothing", lambda: serve.ask(text, 1).decode().strip())
    timed("the same again", lambda: serve.ask(text, 1).decode().strip())
    moved = sync("big", count // 10, count)
    timed("a tenth changed", lambda: serve.ask(moved, 1).decode().strip())
    longer = sync("big", count // 10, count, 7200)
    timed("every time changed", lambda: serve.ask(longer, 1).decode().strip())
    timed("list", lambda: "{} lines".format(serve.ask(b"8 list big\n", count + 1).count(b"\n")))
    times = []
    for i in range(2000):
        request = f"9 add big tcp 198.51.{i >> 8}.{i & 255} 32 22 3600 drop\n".encode()
        start = time.perf_counter()
        serve.ask(request, 1)
        times.append(time.perf_counter() - start)
    print(f"single add beside {count:,}, p50 / p99           "
          f"{percentile(times, 0.5):9.1f} us {percentile(times, 0.99):9.1f} us")
    with open(f"/proc/{serve.child.pid}/status") as status:
        print("".join(line for line in status if line.startswith(("VmHWM", "VmRSS"))), end="")
    timed("empty sync", lambda: serve.ask(sync("big", 0, 0), 1).decode().strip())
    serve.child.stdin.close()
    serve.child.wait()


def pieces(text, size=16384):
    """The text in pieces of about that size that end with a line."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + size) + 1 or len(text)
        yield text[start:end]
        start = end


def anew(helper, count):
    """A helper that knows nothing of the set in force: time of its sync, and of adds meanwhile."""
    Serve(helper).ask(sync("big", 0, count), 1)
    serve = Serve(helper)
    out, back = serve.child.stdin.fileno(), serve.child.stdout.fileno()
    os.set_blocking(out, False)
    rest = pieces(sync("big", 0, count))
    queue, delays, asked = next(rest), [], None
    begun = time.perf_counter()
    while b"\n7 ok" not in b"\n" + serve.buffer:
        readable, writable, _ = select.select([back], [out] if queue else [], [], 0.01)
        if writable:
            queue = queue[os.write(out, queue):]
        if readable:
            serve.buffer += os.read(back, 1 << 16)
            if asked and f"\n{len(delays) + 100} ok\n".encode() in b"\n" + serve.buffer:
                delays.append(time.perf_counter() - asked)
                asked = None
        if not queue:
            queue = next(rest, b"")
            if not asked:
                n = len(delays)
                queue = f"{n + 100} add big tcp 198.51.{n >> 8}.{n & 255} 32 22 60 drop\n".encode() + queue
                asked = time.perf_counter()
    spent = time.perf_counter() - begun
    print(f"a new helper makes {count:,} anew                   {spent * 1e3:9.1f} ms")
    print(f"{len(delays):5} single adds meanwhile, p50 / p99 / max    "
          + " ".join(f"{percentile(delays, part):9.1f}" for part in (0.5, 0.99, 1)) + " us")
    serve.child.stdin.close()
    serve.child.wait()


def floor(count):
    elements = ",\n".join(f"{address(i)} . tcp . 22 timeout 3600s" for i in range(count))
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write("table inet floor { set s { type ipv4_addr . inet_proto . inet_service; "
                   "flags timeout; elements = {" + elements + "}; }; }\n")
        file.flush()
        timed(f"floor: nft -f with {count:,}",
              lambda: subprocess.run(["nft", "-f", file.name], check=True).returncode)
    times = []
    for i in range(100):
        with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
            file.write(f"add element inet floor s {{ 192.0.2.{i} . tcp . 22 timeout 60s }}\n")
            file.flush()
            start = time.perf_counter()
            subprocess.run(["nft", "-f", file.name], check=True)
            times.append(time.perf_counter() - start)
    print(f"floor: one element by nft -f, p50 / p99          "
          f"{percentile(times, 0.5):9.1f} us {percentile(times, 0.99):9.1f} us")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if os.environ.get("EGRESS_BENCH_INSIDE") != "1":
        os.environ["EGRESS_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "--kill-child", "-f", sys.executable] + sys.argv)
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    bench(os.path.abspath(sys.argv[1]), size)
    anew(os.path.abspath(sys.argv[1]), size)
    floor(size)
