"""Families whose packets a socket of the kernel's own sends: judged when their sockets are made."""

import socket

from guarded import guarded, harness
from harness import Skip
from packet_test import ALLOW, Agent, reload
from verdict_test import PYTHON, copy_of

SEQPACKET = 5
# Family, type and protocol of a socket of each.
FAMILIES = {"rds": (21, SEQPACKET, 0), "tipc": (30, SEQPACKET, 0), "rxrpc": (33, socket.SOCK_DGRAM, 2),
            "smc": (43, socket.SOCK_STREAM, 0)}
OPEN = "RDS, SMC, TIPC and RxRPC sockets"
REASON = "no line allows a family whose packets cannot be judged"
MADE = "socket.socket({}, {}, {}).close()"


def there():
    """Those that this kernel has."""
    found = {}
    for name, kind in FAMILIES.items():
        try:
            socket.socket(*kind).close()
            found[name] = kind
        except OSError:
            pass
    return found


def covered(guard):
    hook = guard.status()["hooks"]["egress_family"]
    named = OPEN in guard.status()["not_covered"]
    assert named == (hook != "attached"), guard.status()
    return not named


def test_families(world):
    families = there()
    with guarded(world) as guard:
        other = copy_of(world, "other-python")
        guard.start("* * * * * deny\n")
        if not covered(guard):
            raise Skip(f"named by status: {guard.status()['hooks']['egress_family']}")
        if not families:
            raise Skip("the kernel has none of " + ", ".join(FAMILIES))
        print("     families here: " + ", ".join(families))
        agents = {"first": Agent(guard), "second": Agent(guard, other)}

        def made(which="first"):
            return {agents[which](MADE.format(*kind)) for kind in families.values()}
        assert made() == {"EPERM"}
        for _, kind, _ in families.values():
            assert guard.event(action="BLOCKED", reason="deny", protocol="0")["exe"] == PYTHON
        # What no line lets anywhere is refused, though other things pass that no line names.
        reload(world, guard, "10.66.9.9 * * * * deny\n")
        assert made() == {"EPERM"}
        reload(world, guard, f"* * * * {other} deny\n")
        assert made() == {"EPERM"}
        assert guard.event(action="BLOCKED", reason=REASON)["exe"] == PYTHON
        reload(world, guard, f"* * * * {PYTHON} allow\n")
        assert (made(), made("second")) == ({None}, {"EPERM"}), made("second")
        # A line for some destinations or ports or another protocol does not do.
        reload(world, guard, "10.0.0.0/8 * * * * allow\n*:80 * * * * allow\n* * 6 * * allow\n")
        assert made() == {"EPERM"}
        # And where some are refused nothing would refuse them.
        reload(world, guard, "10.66.9.9 * * * * deny\n* * * * * allow\n")
        assert made() == {"EPERM"}
        reload(world, guard, ALLOW.split("\n", 1)[1])
        assert made() == {None}
        reload(world, guard, "* * * * * deny audit\n* * * * * allow\n")
        assert made() == {None}


def test_monitoring_refuses_nothing(world):
    families = there()
    with guarded(world) as guard:
        guard.start("* * * nobody * deny\n", "-m")
        if not covered(guard) or not families:
            raise Skip("no hook for it, or none of " + ", ".join(FAMILIES))
        agent = Agent(guard)
        for kind in families.values():
            assert agent(MADE.format(*kind)) is None
        guard.event(action="MONITOR", reason=REASON)


def test_protocols_of_more_than_eight_bits(world):
    """SMC has 256, and raw sockets can be made with it; no line has a name for it."""
    with guarded(world) as guard:
        guard.start("* * 1 * * allow\n* * * * * deny\n")
        agent = Agent(guard)
        assert agent(MADE.format("socket.AF_INET", "socket.SOCK_RAW", 256)) == "EPERM"
        # This one's packets are ICMP.
        assert agent(MADE.format("socket.AF_INET", "socket.SOCK_RAW", 257)) is None
        smc = agent(MADE.format("socket.AF_INET", "socket.SOCK_STREAM", 256))
        assert smc in ("EPERM", "EPROTONOSUPPORT"), smc


if __name__ == "__main__":
    harness.main(globals())
