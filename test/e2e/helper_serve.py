"""egress-helper as a co-process of a test: the daemon's side of the protocol, in a few lines."""

import os
import select
import subprocess
import time

from programs import Failure, artefact, free_environment, run

HELLO = "HELLO egress-helper 2"


def helper():
    return artefact("helper/egress-helper")


def event(*arguments, **environment):
    """One event, one process: blocklistd's contract."""
    return run(helper(), *arguments, check=False, env={**free_environment(), **environment})


class Serve:
    """`egress-helper serve`. Every wait is for a line, and bounded."""

    def __init__(self, hello=HELLO, clear=(), **environment):
        kept = {k: v for k, v in free_environment().items() if k not in clear}
        self.child = subprocess.Popen([helper(), "serve"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, bufsize=0,
                                      env={**kept, **environment})
        self.buffer = b""
        self.next_id = 0
        self.changed = 0  # how often it said that another program changed the table
        if hello:
            self.write(hello + "\n")
            self.greeting = self.line()

    def write(self, data):
        """Writes all of it, taking in what the helper says meanwhile."""
        view = memoryview(data.encode() if isinstance(data, str) else data)
        out, back = self.child.stdin.fileno(), self.child.stdout.fileno()
        os.set_blocking(out, False)
        while view:
            readable, writable, _ = select.select([back], [out], [], 30)
            if readable:
                self.take()
            elif writable:
                view = view[os.write(out, view):]
            else:
                raise Failure("the helper takes nothing for 30 s")

    def take(self):
        data = os.read(self.child.stdout.fileno(), 1 << 20)
        if not data:
            raise EOFError("the helper closed its output")
        self.buffer += data

    def line(self):
        while b"\n" not in self.buffer:
            if not select.select([self.child.stdout], [], [], 30)[0]:
                raise Failure("the helper says nothing for 30 s")
            self.take()
        line, self.buffer = self.buffer.split(b"\n", 1)
        assert len(line) < 256 and all(0x20 <= byte < 0x7f for byte in line), line
        if line == b"0 changed":
            self.changed += 1
            return self.line()
        return line.decode()

    def hears(self, patience=5):
        """True if it says, within the patience, that another program changed the table."""
        before = self.changed
        end = time.monotonic() + patience
        while self.changed == before and time.monotonic() < end:
            self.ok("ping")
            time.sleep(0.02)
        return self.changed > before

    def exempt(self, *entries):
        """Replaces the exemptions; the last line of the reply without its id."""
        self.next_id += 1
        number = self.next_id
        self.write("".join(f"{number} {line}\n" for line in ("exempt", *entries, "end")))
        return self.line().removeprefix(f"{number} ")

    def lines(self, count):
        return [self.line() for _ in range(count)]

    def ask(self, request):
        """The reply to one request, its id taken off: (items, last line)."""
        self.next_id += 1
        number = str(self.next_id)
        self.write(f"{number} {request}\n")
        items = []
        while True:
            got, kind, *rest = self.line().split(" ", 2)
            assert got == number, (got, number)
            if kind in ("ok", "err"):
                return items, " ".join([kind, *rest])
            items.append(" ".join(rest))

    def ok(self, request):
        items, last = self.ask(request)
        assert last.startswith("ok"), (request, last)
        return last[3:]

    def refused(self, request):
        items, last = self.ask(request)
        assert last.startswith("err ") and len(last) > 8, (request, last)
        return last[4:]

    def items(self, name="egress"):
        items, last = self.ask(f"list {name}")
        assert last == f"ok {len(items)}", last
        return sorted(items)

    def targets(self, name="egress"):
        """What is in force, without times and counters."""
        return sorted(" ".join(item.split()[:4] + [item.split()[5]]) for item in self.items(name))

    def packets(self, address, name="egress"):
        return sum(int(item.split()[6]) for item in self.items(name) if item.split()[1] == address)

    def sync(self, name, elements):
        self.next_id += 1
        number = self.next_id
        self.write("".join([f"{number} sync {name}\n",
                            *(f"{number} elem {element}\n" for element in elements),
                            f"{number} end\n"]))
        return self.line().split(" ", 1)[1]

    def end(self):
        """The exit status after the end of input."""
        self.child.stdin.close()
        status = self.child.wait(30)
        self.child.stdout.close()
        return status
