"""What one user can use up of the tables that all share: answers to names of a zone that is theirs."""

import os
import socket
import struct
import subprocess
import threading
import time

from guarded import guarded, harness
from names_test import CLIENT, RESOLVER
from run_test import run
from verdict_test import PYTHON

USER, LENT, OTHER = 1000, 100000, 65534
SETS, WAYS, SHARE = 16384, 7, 3
EACH, NAMES = 3500, 60
RULES = f"""[dns]
resolver {RESOLVER}
grace 1h
[egress]
**.zone.example:9999 * * * * allow
{RESOLVER}:domain * * * * allow
**.good.example:9999 * * * * allow
**.evil.example:9999 * * * * deny
198.51.100.0/24:9999 * * * * allow
* * * * * deny
"""


def answer(text):
    """NUMBER.zone.example has its own 3,500 addresses, NUMBER.good.example has 203.0.113.NUMBER."""
    end = text.index(b"\0", 12) + 5
    number, zone = int(text[13:13 + text[12]]), text[14 + text[12]:18 + text[12]]
    if zone == b"good":
        found = [bytes([203, 0, 113, number])]
    else:
        found = [struct.pack("!I", (20 << 24) + number * EACH + i) for i in range(EACH)]
    head = text[:2] + b"\x81\x80" + struct.pack("!4H", 1, len(found), 0, 0) + text[12:end]
    return head + b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 3600, 4) + each for each in found)


class Resolver:
    """Over TCP only."""

    def __enter__(self):
        self.listener = socket.create_server((RESOLVER, 53), backlog=64)
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def run(self):
        try:
            while True:
                stream = self.listener.accept()[0]
                with stream:
                    size = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))[0]
                    text = answer(stream.recv(size, socket.MSG_WAITALL))
                    stream.sendall(struct.pack("!H", len(text)) + text)
        except OSError:
            pass

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)


def ask(guard, zone, numbers, user, then="0", before=""):
    code = (f"{CLIENT}\n{before}\nfound = []\nfor number in {numbers!r}:\n"
            f"    ask(f'{{number}}.{zone}.example', way='stream')\n    found.append({then})\nprint(found)")
    done = guard.run(PYTHON, "-c", code, user=user, group=user)
    assert done.returncode == 0, done.stderr[-2000:]
    return eval(done.stdout)


def dns(guard):
    return guard.status()["dns"]


def use_up(guard, *users):
    """Asks for nearly twice as many addresses as there is room; how many the users hold then."""
    for i, user in enumerate(users):
        ask(guard, "zone", list(range(i, NAMES, len(users))), user)
    assert dns(guard)["outcomes"]["full"] > NAMES * EACH / 3, dns(guard)
    return dns(guard)["grants"]


def others_are_granted(guard, user):
    numbers = list(range(1, 251))
    return all(ask(guard, "good", numbers, user, "goes(f'203.0.113.{number}')"))


def test_one_user_has_a_share(world):
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        held = use_up(guard, OTHER)
        assert SETS * SHARE * .9 < held <= SETS * SHARE + 64, held
        assert others_are_granted(guard, USER)
        # What finds no room is an allow: no refusal by name may follow from it, for nobody's address.
        assert ask(guard, "zone", [0], USER, "[goes(f'198.51.100.{i}') for i in range(256)]") == [[True] * 256]


def test_lent_ids_have_their_lenders_share(world):
    for name, text in (("passwd", f"root:x:0:0::/:/bin/sh\nalice:x:{USER}:{USER}::/:/bin/sh\n"),
                       ("subuid", f"alice:{LENT}:65536\nroot:{LENT + 65536}:65536\n")):
        if not os.path.exists(f"/etc/{name}"):
            raise harness.Skip(f"there is no /etc/{name} here")
        subprocess.run(["mount", "--bind", world.write(name, text), f"/etc/{name}"], check=True)
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        done = run(guard, "true", options=("--allow", "1.good.example"))
        assert done.returncode == 0, done
        held = use_up(guard, USER, LENT, LENT + 1, LENT + 65535)
        assert held <= SETS * SHARE + 64, held
        assert others_are_granted(guard, OTHER)


def test_what_root_lends(world):
    """Containers of root's have a share, too."""
    name = "/etc/subuid"
    if not os.path.exists(name):
        raise harness.Skip(f"there is no {name} here")
    subprocess.run(["mount", "--bind", world.write("subuid", f"root:{LENT}:65536\n"), name], check=True)
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        held = use_up(guard, LENT, LENT + 1, LENT + 65535)
        assert held <= SETS * SHARE + 64, held


def test_root_has_no_share(world):
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        held = use_up(guard, 0)
        assert held > SETS * WAYS * .9, held


def root_made(effective):
    """A user asks over sockets that root has made; `effective`: as a program with the set-user-ID bit, root's."""
    return f"""
made = [socket.socket() for _ in range({NAMES})]
os.setresuid({OTHER}, {effective}, {effective})
socket.socket = lambda *_: made.pop()
"""


def test_sockets_that_root_made(world):
    """Who asks counts."""
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        ask(guard, "zone", list(range(NAMES)), None, before=root_made(OTHER))
        assert dns(guard)["grants"] <= SETS * SHARE + 64, dns(guard)


def test_a_program_of_roots(world):
    """By the real id, as with all lines."""
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        ask(guard, "zone", list(range(NAMES)), None, before=root_made(0))
        assert dns(guard)["grants"] <= SETS * SHARE + 64, dns(guard)


def test_a_share_that_others_prolong(world):
    """Who asks again for what another asked for has it in their own share from then on."""
    with Resolver(), guarded(world) as guard:
        guard.start_with(RULES)
        ask(guard, "zone", list(range(20)), USER)
        first = dns(guard)["grants"]
        ask(guard, "zone", list(range(20)), OTHER)
        assert first <= SETS * SHARE + 64 and dns(guard)["grants"] < first * 1.5, (first, dns(guard))
        before = dns(guard)["grants"]
        ask(guard, "zone", list(range(20, 40)), USER)
        assert dns(guard)["grants"] > before + first / 4, (before, first, dns(guard))


if __name__ == "__main__":
    harness.main(globals())
