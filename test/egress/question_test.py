"""[dns] "queries listed": questions leave only for names that some line would let the program reach."""

import socket
import sys

import stream_test
from guarded import guarded, harness, wait_for

RESOLVER = stream_test.RESOLVER
RULES = f"""[dns]
resolver {RESOLVER}
resolver [::1]
queries listed
[egress]
{RESOLVER}:domain * * * * allow
[::1]:domain * * * * allow
2.**.example:9999 stream tcp * * allow
**.mine.example:9999 stream tcp nobody * allow
**.in-addr.arpa * * * * allow
bad.example * * * * deny
* * * * * deny
"""
RULES = RULES.replace("2.**.example", "**.listed.example")

CLIENT = stream_test.CLIENT + """
def made(name, kind=1, flags=0x0100, questions=1):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    return (os.urandom(2) + struct.pack("!5H", flags, questions, 0, 0, 0) + labels + bytes(1) +
            struct.pack("!HH", kind, 1))

def sent(text, way="connected", server="127.0.0.53", prepare=lambda s: 0):
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as s:
        prepare(s)
        try:
            if way == "elsewhere":
                s.connect(("127.0.0.1", 9))
            if way != "connected":
                s.sendto(text, (server, 53))
            else:
                s.connect((server, 53))
                s.send(text)
            return True
        except OSError as error:
            # EINVAL: the kernel takes fewer datagrams in a row.
            assert error.errno in (errno.EPERM, errno.ECONNREFUSED, errno.EINVAL), error
            return error.errno == errno.ECONNREFUSED

def answers(name):
    with reach() as stream:
        stream.settimeout(2)
        text = made(name)
        stream.sendall(struct.pack("!H", len(text)) + text)
        try:
            return len(answer(stream)) > 0
        except TimeoutError:
            return False
"""


def tells(guard, expression, **keywords):
    return eval(guard.run(sys.executable, "-c", CLIENT + f"\nprint(repr({expression}))", check=True, **keywords).stdout)


def test_only_for_names_of_lines(world):
    with guarded(world) as guard:
        guard.start_with(RULES)
        for way in ("connected", "unconnected", "elsewhere"):
            asked = ["3.1.listed.example", "3.1.LISTED.example", "listed.example", "x.other.example",
                     "data.listed.example.evil.example", "bad.example", "x.mine.example", "4.3.2.1.in-addr.arpa"]
            found = tells(guard, f"[sent(made(each), {way!r}) for each in {asked!r}]")
            assert found == [True, True, False, False, False, False, False, True], (way, found)
        assert tells(guard, "[os.setuid(65534), sent(made('x.mine.example')), sent(made('x.listed.example', 16))]") \
            == [None, True, True]
        assert tells(guard, "sent(made('x.third.example'))") is False
        event = guard.event(domain="x.third.example")
        assert event["action"] == "BLOCKED" and event["addr"] == RESOLVER and event["port"] == 53, event
        assert "names" in event["reason"], event


def test_what_is_no_question(world):
    """Garbage, a message that says it is an answer, several questions, datagrams in a row."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        assert tells(guard, "sent(made('3.1.listed.example', flags=0x8100))") is False
        assert tells(guard, "sent(made('3.1.listed.example', flags=0x2900))") is False, "an update"
        assert tells(guard, "sent(made('3.1.listed.example', questions=2))") is False
        assert tells(guard, "[sent(b'hello'), sent(bytes(40)), sent(os.urandom(200))]") == [False] * 3
        row = ("sent(made('3.1.listed.example') + made('3.1.stolen.example'), "
               "prepare=lambda s: s.setsockopt(17, 103, len(made('3.1.listed.example'))))")
        assert tells(guard, row) is False, "UDP_SEGMENT"
        many = ("sent(b''.join(made(f'{i}.1.{\"stolen\" if i == 199 else \"listed\"}.example') for i in range(100, 200)), "
                "prepare=lambda s: s.setsockopt(17, 103, len(made('100.1.listed.example'))))")
        assert tells(guard, many) is False, "a hundred in a row, of which the last is stolen"


def test_extension_headers(world):
    """They would hide where the question begins."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        options = "prepare=lambda s: s.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0]))"  # IPV6_DSTOPTS, padding
        if tells(guard, "sent(made('x.listed.example'), server='::1')") is not True:
            raise harness.Failure("the resolver ::1 may be asked")
        assert tells(guard, f"sent(made('x.other.example'), server='::1', {options})") is False


def test_over_tcp(world):
    """Nothing leaves after the refused question; the next connection starts anew."""
    with guarded(world) as guard:
        guard.start_with(RULES)
        with stream_test.Resolver([1 << 20]):
            assert tells(guard, "[answers(each) for each in ('3.1.listed.example', '3.1.other.example', "
                                "'4.1.listed.example')]") == [True, False, True]
            parts = tells(guard, """len(ask('3.1.listed.example', cuts=(1, 9)))""")
            assert parts > 40, parts
            two = """
with reach() as stream:
    stream.settimeout(2)
    stream.sendall(question("3.1.other.example"))
    time.sleep(.2)
    stream.sendall(question("3.2.listed.example"))
    try:
        print(len(answer(stream)))
    except TimeoutError:
        print("nothing")
"""
            assert guard.run(sys.executable, "-c", CLIENT + two, check=True).stdout == "nothing\n"


def test_over_mptcp(world):
    """Its parts of a question may take different ways."""
    with open("/proc/sys/net/mptcp/enabled") as file:
        if file.read() != "1\n":
            raise harness.Skip("this kernel has no MPTCP")
    with guarded(world) as guard:
        guard.start_with(RULES)
        with stream_test.Resolver([1 << 20]):
            code = """
stream = reach(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
stream.settimeout(3)
stream.sendall(question("3.1.listed.example"))
try:
    print(len(answer(stream)))
except TimeoutError:
    print("nothing")
"""
            assert guard.run(sys.executable, "-c", CLIENT + code, check=True).stdout == "nothing\n"


def test_a_connection_from_before(world):
    """What it has sent already could make the rest look like another question."""
    talk = """
stream = reach()
stream.settimeout(3)
for _ in range(2):
    stream.sendall(question("3.1.listed.example"))
    try:
        print(len(answer(stream)) > 0, flush=True)
    except TimeoutError:
        print("nothing", flush=True)
    sys.stdin.readline()
"""
    with guarded(world) as guard:
        guard.start("* * * * * allow")
        with stream_test.Resolver([1 << 20]):
            talking = guard.spawn(sys.executable, "-c", CLIENT + talk)
            assert talking.stdout.readline() == "True\n"
            with open(guard.daemon.conf, "w") as conf:
                conf.write(RULES)
            guard.world.ctl("reload", "--force", check=True)
            talking.stdin.write("go on\n")
            talking.stdin.flush()
            assert talking.stdout.readline() == "nothing\n"
            talking.kill()
            talking.wait()
            assert tells(guard, "answers('3.2.listed.example')") is True, "a new one"


def test_monitor_and_reload(world):
    with guarded(world) as guard:
        guard.start_with(RULES, "-m")
        assert tells(guard, "sent(made('x.other.example'))") is True
        assert guard.event(domain="x.other.example")["action"] == "MONITOR"
        guard.daemon.stop()
        guard.start_with(RULES)
        assert tells(guard, "sent(made('x.other.example'))") is False
        with open(guard.daemon.conf, "w") as conf:
            conf.write(RULES.replace("queries listed", "queries any"))
        guard.world.ctl("reload", "--force", check=True)
        wait_for(lambda: tells(guard, "sent(made('x.other.example'))"), 10, "any question to be let through")


if __name__ == "__main__":
    harness.main(globals())
