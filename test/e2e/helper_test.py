#!/usr/bin/env python3
"""egress-helper against the kernel's nf_tables, without packets: both contracts, sets, sync, and
everything that a confused daemon or a careless administrator can do to it."""

import re
import select
import signal
import subprocess

import harness
from harness import run, wait_for
from helper_serve import HELLO, Serve, event, helper


def nft(*arguments, check=True, **keywords):
    return run("nft", *arguments, check=check, **keywords).stdout


def table():
    return nft("list", "table", "inet", "egress")


def unprivileged(*arguments, **keywords):
    return run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
               "--bounding-set=-all", "--inh-caps=-all", *arguments, check=False, **keywords)


# --- the protocol ------------------------------------------------------------------------------

def test_greeting_names_the_version_and_the_implementation(world):
    serve = Serve()
    assert re.fullmatch(HELLO + r" egress-nftables/[0-9.]+", serve.greeting), serve.greeting
    assert serve.ok("ping") == ""
    assert serve.end() == 0


def test_a_later_version_is_answered_with_ours(world):
    assert Serve("HELLO egress-helper 7").greeting.startswith(HELLO + " ")


def test_the_first_version_is_answered_with_it(world):
    serve = Serve("HELLO egress-helper 1")
    assert serve.greeting.startswith("HELLO egress-helper 1 egress-nftables/"), serve.greeting
    serve.ok("add egress tcp 192.0.2.1 32 22 600 drop")
    nft("delete", "table", "inet", "egress")
    assert not serve.hears(0.5), "a peer of the first version does not know \"changed\""


def test_another_greeting_ends_the_helper(world):
    serve = Serve("GET / HTTP/1.1")
    assert serve.greeting.startswith("0 err expected HELLO")
    assert serve.child.wait(30) == 1


def test_add_rem_list_flush_names(world):
    serve = Serve()
    assert serve.items() == []
    for request in ("add egress tcp 192.0.2.1 32 22 600 drop",
                    "add egress udp 192.0.2.0 24 53 * reject",
                    "add egress * 2001:db8::1 128 * 3600 drop",
                    "add egress tcp 2001:db8:1:: 64 * 60 drop",
                    "add egress * 192.0.2.9 32 25 60 reject",
                    "add egress 132 192.0.2.10 32 99 60 drop",
                    "add egress 47 192.0.2.11 32 * 60 drop",
                    "add other.2-x tcp 192.0.2.1 32 22 5 drop"):
        assert serve.ok(request) == ""
    # Twice within a second of adding, times are what was asked, rounded up.
    assert serve.items() == sorted([
        "tcp 192.0.2.1 32 22 600 drop 0", "udp 192.0.2.0 24 53 * reject 0",
        "* 2001:db8::1 128 * 3600 drop 0", "tcp 2001:db8:1:: 64 * 60 drop 0",
        "* 192.0.2.9 32 25 60 reject 0", "132 192.0.2.10 32 99 60 drop 0",
        "47 192.0.2.11 32 * 60 drop 0"])
    names, last = serve.ask("names")
    assert (names, last) == (["egress", "other.2-x"], "ok 2")
    serve.ok("rem egress tcp 192.0.2.1 32 22")
    serve.ok("rem egress tcp 192.0.2.1 32 22")
    serve.ok("rem nobody tcp 192.0.2.1 32 22")
    assert "tcp 192.0.2.1 32 22 drop" not in serve.targets()
    serve.ok("flush egress")
    serve.ok("flush egress")
    assert serve.items() == [] and len(serve.items("other.2-x")) == 1
    assert serve.ask("names") == (["other.2-x"], "ok 1")


def test_adding_again_sets_time_and_action_anew(world):
    for environment in ({}, {"EGRESS_HELPER_COMPAT": "1"}):
        serve = Serve(**environment)
        serve.ok("add egress tcp 192.0.2.1 32 22 600 drop")
        for seconds, action in (("60", "drop"), ("7200", "drop"), ("*", "drop"), ("30", "drop"),
                                ("90", "reject"), ("*", "reject"), ("50", "drop")):
            serve.ok(f"add egress tcp 192.0.2.1 32 22 {seconds} {action}")
            assert serve.items() == [f"tcp 192.0.2.1 32 22 {seconds} {action} 0"], environment
        serve.ok("flush egress")
        # In one transaction too, in order.
        serve.write("801 add egress tcp 192.0.2.1 32 22 600 drop\n"
                    "802 add egress tcp 192.0.2.1 32 22 60 drop\n"
                    "803 add egress tcp 192.0.2.2 32 22 60 drop\n"
                    "804 rem egress tcp 192.0.2.2 32 22\n"
                    "805 rem egress tcp 192.0.2.3 32 22\n"
                    "806 add egress tcp 192.0.2.3 32 22 70 reject\n"
                    "807 add egress tcp 192.0.2.3 32 22 80 drop\n")
        assert serve.lines(7) == [f"{n} ok" for n in range(801, 808)]
        assert serve.items() == ["tcp 192.0.2.1 32 22 60 drop 0", "tcp 192.0.2.3 32 22 80 drop 0"]
        serve.ok("flush egress")
        assert serve.end() == 0


def test_very_long_times_do_not_overflow(world):
    serve = Serve()
    serve.ok("add egress tcp 192.0.2.1 32 22 18446744073 drop")
    serve.ok("add egress tcp 192.0.2.2 32 22 2000000000 drop")
    for item in serve.items():
        assert int(item.split()[4]) > 1_999_999_990, item
    assert "seconds" in serve.refused("add egress tcp 192.0.2.1 32 22 18446744074 drop")


BAD = ["bogus", "", "add", "add egress", "add egress tcp 192.0.2.1 32 22 600", "names x", "ping x",
       "add egress tcp 192.0.2.1 32 22 600 drop more", "add  egress tcp 192.0.2.1 32 22 600 drop",
       "add egress tcp 192.0.2.1 32 22 600 drop ", "ADD egress tcp 192.0.2.1 32 22 600 drop",
       "add egress tcp 192.0.2.1 33 22 600 drop", "add egress tcp 192.0.2.1 -1 22 600 drop",
       "add egress tcp 192.0.2.1 24 22 600 drop", "add egress tcp 2001:db8::1 129 22 600 drop",
       "add egress tcp 2001:db8::1 64 22 600 drop", "add egress tcp ::ffff:192.0.2.1 32 22 6 drop",
       "add egress tcp 192.0.2 32 22 600 drop", "add egress tcp localhost 32 22 600 drop",
       "add egress tcp 192.0.2.1%lo 32 22 600 drop", "add egress tcp fe80::1%lo 128 22 600 drop",
       "add egress tcp 192.0.2.1 32 0 600 drop", "add egress tcp 192.0.2.1 32 65536 600 drop",
       "add egress tcp 192.0.2.1 32 022 600 drop", "add egress tcp 192.0.2.1 32 ssh 600 drop",
       "add egress 0 192.0.2.1 32 22 600 drop", "add egress 256 192.0.2.1 32 22 600 drop",
       "add egress tpc 192.0.2.1 32 22 600 drop", "add egress icmp 192.0.2.1 32 22 600 drop",
       "add egress tcp 192.0.2.1 32 22 0 drop", "add egress tcp 192.0.2.1 32 22 -1 drop",
       "add egress tcp 192.0.2.1 32 22 1.5 drop", "add egress tcp 192.0.2.1 32 22 1h drop",
       "add egress tcp 192.0.2.1 32 22 99999999999999999999999 drop",
       "add egress tcp 192.0.2.1 32 22 600 accept", "add egress tcp 192.0.2.1 32 22 600 Drop",
       "add e/gress tcp 192.0.2.1 32 22 600 drop", "add .x tcp 192.0.2.1 32 22 600 drop",
       "add -x tcp 192.0.2.1 32 22 600 drop", "add {x} tcp 192.0.2.1 32 22 600 drop",
       "add " + 64 * "x" + " tcp 192.0.2.1 32 22 600 drop", "list", "list *", "flush", "flush *",
       "elem tcp 192.0.2.1 32 22 600 drop", "end", "sync", "kill tcp 192.0.2.1 32",
       "kill 47 192.0.2.1 32 *", "rem egress tcp 192.0.2.1 32 22 600", "add\tegress", "add \x7f",
       "add egress t\u00e9p 192.0.2.1 32 22 600 drop", "add \x1b[31m", "x" * 240]


def test_bad_lines_are_refused_and_nothing_else_happens(world):
    serve = Serve()
    serve.ok("add egress tcp 198.51.100.1 32 22 600 drop")
    before = table().split("expires")[0]
    for line in BAD:
        serve.refused(line)
    assert serve.refused("bogus") == "unknown verb"
    for raw in (b"\n", b" \n", b"hello\n", b"0 ping\n", b"-1 ping\n", b"01 ping\n", b"1ping\n",
                b"18446744073709551616 ping\n", b"\0\n", b"\xff\xfe\n", b"x" * 100_000 + b"\n",
                b" 1 ping\n", b"+1 ping\n", b"1e3 ping\n"):
        serve.write(raw)
        assert serve.line().startswith("0 err "), raw
    for raw in (b"7\n", b"7 \n", b"7 ping\0\n", b"7 ping\r\n", b"7 " + b"y" * 300 + b"\n",
                b"7 add egress tcp 192.0.2.1 32 22 600 drop\0\n",
                b"7 ping" + b" " * 5_000_000 + b"\n"):
        serve.write(raw)
        assert serve.line().startswith("7 err "), raw[:40]
    serve.write(f"{2 ** 64 - 1} ping\n")
    assert serve.line() == f"{2 ** 64 - 1} ok"
    assert table().split("expires")[0] == before
    assert serve.ok("ping") == ""


def test_lines_may_arrive_in_any_pieces(world):
    serve = Serve()
    serve.write("1 ping\n2 ping\n3 pi")
    assert serve.lines(2) == ["1 ok", "2 ok"]
    serve.write("n")
    serve.write("g")
    serve.write("\n4 ping\n")
    assert serve.lines(2) == ["3 ok", "4 ok"]


def test_end_of_input_does_what_was_whole_and_nothing_else(world):
    serve = Serve()
    serve.write("1 add egress tcp 192.0.2.1 32 22 600 drop\n2 add egress tcp 192.0.2.2 32 22 6 dr")
    assert serve.end() == 0
    assert Serve().targets() == ["tcp 192.0.2.1 32 22 drop"]


def test_the_reader_going_away_ends_the_helper(world):
    serve = Serve()
    serve.child.stdout.close()
    serve.child.stdin.write(b"1 ping\n")
    assert serve.child.wait(30) == 0


def test_sigterm_ends_it_even_where_the_parent_blocked_it(world):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    serve = Serve()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    serve.child.terminate()
    assert serve.child.wait(30) == -signal.SIGTERM


# --- transactions ------------------------------------------------------------------------------

def test_a_thousand_adds_in_one_write_are_few_transactions(world):
    serve = Serve()
    serve.ok("add egress tcp 192.0.2.1 32 22 600 drop")
    monitor = subprocess.Popen(["nft", "monitor"], stdout=subprocess.PIPE, text=True)
    # The monitor is ready when it reports a change of ours.
    wait_for(lambda: monitor_sees(serve, monitor), 30, "nft monitor")
    serve.write("".join(f"{i} add egress tcp 10.9.{i >> 8}.{i & 255} 32 22 600 drop\n"
                        for i in range(1, 1001)))
    assert sorted(serve.lines(1000)) == sorted(f"{i} ok" for i in range(1, 1001))
    serve.ok("add egress tcp 10.10.10.10 32 99 600 drop")
    generations = 0
    for line in monitor.stdout:
        generations += line.startswith("# new generation")
        if "10.10.10.10" in line:
            break
    monitor.kill()
    assert len(serve.targets()) >= 1002
    assert generations <= 20, generations


def monitor_sees(serve, monitor):
    serve.ok("add egress tcp 192.0.2.77 32 22 600 drop")
    serve.ok("rem egress tcp 192.0.2.77 32 22")
    ready, _, _ = select.select([monitor.stdout], [], [], 0.1)
    if not ready:
        return False
    monitor.stdout.readline()
    return True


def test_only_the_culprit_of_a_batch_is_refused(world):
    serve = Serve()
    nft("-f", "-", input="""table inet egress {
        set tight.v4.32.drop { type ipv4_addr . inet_proto . inet_service; flags timeout; counter
                               size 2; }
        set alien.v4.32.drop { type ipv4_addr; }
    }""")
    serve.write("".join([
        *(f"{i} add egress tcp 192.0.2.{i} 32 22 600 drop\n" for i in range(1, 6)),
        *(f"{i} add tight tcp 192.0.2.{i} 32 22 600 drop\n" for i in range(6, 11)),
        *(f"{i} add alien tcp 192.0.2.{i} 32 22 600 drop\n" for i in range(11, 14)),
        *(f"{i} add egress tcp 192.0.2.{i} 32 22 600 reject\n" for i in range(14, 20))]))
    replies = dict(line.split(" ", 1) for line in serve.lines(19))
    ok = {int(number) for number, text in replies.items() if text == "ok"}
    assert ok == {1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17, 18, 19}, replies
    assert "full" in replies["8"] and "another program" in replies["11"], replies
    assert len(serve.targets()) == 11 and len(serve.targets("tight")) == 2
    assert serve.sync("alien", ["tcp 192.0.2.1 32 22 60 drop"]).startswith("err ")
    assert serve.ask("names")[0] == ["egress", "tight"]


def test_without_rights_every_request_says_so(world):
    done = unprivileged(helper(), "add", "egress", "tcp", "192.0.2.1", "32", "22", "")
    assert done.returncode == 1 and done.stdout == "" and "CAP_NET_ADMIN" in done.stderr, done
    done = unprivileged(helper(), "serve", input=(
        HELLO + "\n1 ping\n2 add egress tcp 192.0.2.1 32 22 600 drop\n3 list egress\n"
        "4 kill tcp 192.0.2.1 32 *\n5 sync egress\n5 end\n6 ping\n"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[1] == "1 ok" and lines[-1] == "6 ok", done
    for line in (lines[2], lines[3], lines[5]):
        assert "needs CAP_NET_ADMIN" in line, lines


def test_it_keeps_no_capability_but_the_one(world):
    serve = Serve()
    with open(f"/proc/{serve.child.pid}/status") as status:
        fields = dict(line.split(":\t") for line in status.read().splitlines() if ":\t" in line)
    net_admin = f"{1 << 12:016x}"
    assert (fields["CapPrm"], fields["CapEff"], fields["CapBnd"]) == (net_admin,) * 3, fields
    assert fields["CapInh"] == "0" * 16 and fields["NoNewPrivs"] == "1", fields


# --- what others do to the table ---------------------------------------------------------------

def test_nft_prints_what_was_made_and_reads_it_back(world):
    serve = Serve()
    elements = [f"{proto} {source} {port} 600 {action}"
                for proto in ("tcp", "*") for port in ("22", "*") for action in ("drop", "reject")
                for source in ("192.0.2.1 32", "192.0.0.0 16", "0.0.0.0 0", "2001:db8::1 128",
                               "2001:db8:: 61")]
    # One action to a target: the last one counts.
    assert serve.sync("9lives", elements) == "ok 20 0"
    saved = table()
    assert "_9lives.v6.61.reject" in saved
    nft("delete", "table", "inet", "egress")
    assert serve.items("9lives") == []
    nft("-f", "-", input=saved)
    assert len(serve.items("9lives")) == 20
    assert serve.sync("9lives", elements) == "ok 0 0"
    assert len(serve.items("9lives")) == 20


def test_elements_count_packets_where_that_is_wanted(world):
    for names, counting in ((None, ()), ("", ()), ("*", ("a", "b")), ("b", ("b",)), ("x,b", ("b",)),
                            ("b*", ())):
        environment = {} if names is None else {"EGRESS_COUNTERS": names}
        serve = Serve(clear=["EGRESS_COUNTERS"], **environment)
        for name in ("a", "b"):
            serve.ok(f"add {name} tcp 192.0.2.1 32 22 600 drop")
            made = nft("list", "set", "inet", "egress", f"{name}.v4.32.drop")
            assert ("counter" in made) == (name in counting), (names, made)
            assert serve.items(name)[0].endswith(" drop 0")
        assert table().count("@a.v4.32.drop counter packets 0 bytes 0 drop") == 1
        nft("flush ruleset")


def test_a_deleted_table_is_made_again(world):
    serve = Serve()
    serve.ok("add egress tcp 192.0.2.1 32 22 600 reject")
    for destroy in (["delete", "table", "inet", "egress"], ["flush", "ruleset"]):
        nft(*destroy)
        assert serve.items() == []
        serve.ok("rem egress tcp 192.0.2.1 32 22")
        serve.ok("add egress tcp 192.0.2.2 32 22 600 reject")
        assert serve.targets() == ["tcp 192.0.2.2 32 22 reject"]
        nft(*destroy)
        assert serve.sync("egress", ["tcp 192.0.2.3 32 22 600 reject"]) == "ok 1 0"
        assert serve.targets() == ["tcp 192.0.2.3 32 22 reject"]
        assert "hook prerouting priority raw" in table()


def test_elements_without_their_rule_are_not_in_force(world):
    serve = Serve()
    wanted = ["tcp 192.0.2.1 32 22 600 reject", "udp 192.0.2.1 32 * 600 drop"]
    assert serve.sync("egress", wanted) == "ok 2 0"
    for chain in ("prerouting", "refuse"):
        nft("flush", "chain", "inet", "egress", chain)
        if chain == "prerouting":
            assert serve.items() == []
        assert serve.sync("egress", wanted) == "ok 0 0"
        assert len(serve.items()) == 2
    nft("flush", "chain", "inet", "egress", "prerouting")
    serve.ok("add egress tcp 192.0.2.2 32 22 600 reject")
    assert len(serve.items()) == 2  # those of the set that was used
    assert "goto refuse" in table() and "tcp reset" in table()


def test_it_says_when_another_program_changes_its_table(world):
    serve = Serve()
    serve.ok("add egress tcp 192.0.2.1 32 22 600 drop")
    serve.exempt("pass * 192.0.2.9 32 *")
    serve.ok("rem egress tcp 192.0.2.1 32 22")
    nft("add table ip other; add chain ip other c; add rule ip other c accept")
    nft("add table inet firewalld; add set inet firewalld egress { type ipv4_addr; };"
        "add element inet firewalld egress { 192.0.2.1 }; delete table inet firewalld")
    assert not serve.hears(0.5), "of its own changes, or of other tables"
    for command in ("add element inet egress egress.v4.32.drop { 192.0.2.7 . tcp . 22 }",
                    "flush set inet egress egress.v4.32.drop",
                    "flush chain inet egress prerouting", "flush ruleset"):
        nft(command)
        assert serve.hears(), command
        serve.ok("add egress tcp 192.0.2.1 32 22 600 drop")
        assert not serve.hears(0.3), command


def exempt_rules():
    """The sets that the chain of the exemptions asks, in order."""
    chain = run("nft", "list", "chain", "inet", "egress", "exempt", check=False).stdout
    return re.findall(r'comment "([^"]*)"', chain)


def test_exemptions_are_put_right_wherever_they_differ(world):
    serve = Serve()
    entries = ["pass * 10.0.0.0 8 *", "hold tcp 10.0.0.5 32 22", "pass tcp 2001:db8:: 32 443",
               "hold * 10.0.0.0 16 *", "pass * 10.0.0.0 16 53"]
    order = ["exempt.v4.32.hold", "exempt.v4.16.pass.port", "exempt.v4.16.hold.all",
             "exempt.v4.8.pass.all", "exempt.v6.32.pass"]
    assert serve.exempt(*entries) == "ok 5"
    assert exempt_rules() == order, exempt_rules()
    before = table()
    assert serve.exempt(*reversed(entries)) == "ok 5"
    assert table() == before, "nothing was to be changed"
    for damage in ("delete element inet egress exempt.v4.8.pass.all { 10.0.0.0 }",
                   "add element inet egress exempt.v4.8.pass.all { 11.0.0.0 }",
                   "flush chain inet egress exempt", "flush chain inet egress prerouting",
                   "insert rule inet egress prerouting tcp dport 22 drop",
                   "insert rule inet egress exempt accept", "delete table inet egress"):
        nft(damage)
        assert serve.exempt(*entries) == "ok 5"
        assert exempt_rules() == order, (damage, exempt_rules())
        elements = run("nft", "list", "set", "inet", "egress", "exempt.v4.8.pass.all").stdout
        assert "elements = { 10.0.0.0 }" in elements, (damage, elements)
        chain = run("nft", "list", "chain", "inet", "egress", "prerouting").stdout
        assert chain.split("policy accept;")[1].lstrip().startswith("jump exempt"), (damage, chain)
    assert serve.ask("names") == ([], "ok 0"), "exemptions are no name's blocks"
    assert serve.exempt() == "ok 0"
    assert exempt_rules() == [] and "exempt.v" not in table(), table()


def test_bad_exemptions_change_nothing(world):
    serve = Serve()
    assert serve.exempt("pass * 192.0.2.0 24 *") == "ok 1"
    before = table()
    for wrong in ("pass * 192.0.2.1 24 *", "pass * 192.0.2.1", "elem * 192.0.2.1 32 * 60 drop",
                  "pass smtp 192.0.2.1 32 *", "hold"):
        reply = serve.exempt("pass * 198.51.100.0 24 *", wrong)
        assert reply.startswith("err line 2 of the sync"), reply
        assert table() == before
    assert serve.ask("pass * 192.0.2.0 24 *")[1] == "err pass outside a sync"
    assert serve.sync("egress", ["tcp 192.0.2.0 24 22 60 drop"]) == "ok 1 0"


def test_other_tables_are_left_alone(world):
    nft("-f", "-", input="""
        table inet other { set egress.v4.32.drop { type ipv4_addr; elements = { 192.0.2.1 } }
                           chain prerouting { type filter hook prerouting priority raw; }
        }
        table ip egress {
            chain x { tcp dport 22 accept comment "egress.v4.32.drop"; }
        }""")
    before = nft("list", "ruleset")
    serve = Serve()
    serve.ok("add egress tcp 192.0.2.1 32 22 600 drop")
    serve.sync("egress", ["tcp 192.0.2.2 32 22 600 drop"])
    serve.ok("flush egress")
    nft("delete", "table", "inet", "egress")
    assert nft("list", "ruleset") == before


def test_others_who_commit_all_the_time_do_not_stop_it(world):
    nft("add", "table", "inet", "busy")
    script = "while :; do nft 'add chain inet busy x; delete chain inet busy x' || exit; done"
    noise = subprocess.Popen(["sh", "-c", script])
    try:
        serve = Serve()
        for i in range(1, 101):
            serve.ok(f"add egress tcp 192.0.2.{i} 32 22 600 drop")
        assert len(serve.items()) == 100
        assert serve.sync("egress", []) == "ok 0 100"
    finally:
        noise.kill()
        noise.wait()


def test_two_helpers_at_war_refuse_nothing(world):
    """Each makes and removes sets that the other has just seen."""
    one, two = Serve(), Serve()
    for serve in (one, two):
        serve.write("".join(f"{i} {'flush egress' if i % 3 == 0 else request(i)}\n"
                            for i in range(1, 1501)))
    for serve in (one, two):
        replies = serve.lines(1500)
        assert all(reply.endswith(" ok") for reply in replies), [
            reply for reply in replies if not reply.endswith(" ok")][:5]
    assert one.sync("egress", ["tcp 192.0.2.1 32 22 600 drop"]).startswith("ok")
    assert two.targets() == ["tcp 192.0.2.1 32 22 drop"]
    assert table().count("comment") == 1


def request(i):
    return f"add egress tcp 192.0.2.{i % 250} 32 22 600 {'drop' if i % 2 else 'reject'}"


# --- sync --------------------------------------------------------------------------------------

def test_sync_changes_what_differs_only(world):
    for environment in ({}, {"EGRESS_HELPER_COMPAT": "1"}):
        serve = Serve(**environment)
        first = [f"tcp 192.0.2.{i} 32 22 600 drop" for i in range(1, 11)]
        assert serve.sync("egress", first) == "ok 10 0"
        assert serve.sync("egress", first) == "ok 0 0"
        assert serve.sync("egress", first[5:] + ["* 2001:db8:: 32 * * drop"]) == "ok 1 5"
        assert serve.sync("egress", ["tcp 192.0.2.9 32 22 900 drop",
                                     "tcp 192.0.2.10 32 22 600 reject",
                                     "tcp 192.0.2.9 32 22 1200 drop"]) == "ok 1 5"
        assert serve.items() == ["tcp 192.0.2.10 32 22 600 reject 0",
                                 "tcp 192.0.2.9 32 22 1200 drop 0"]
        assert serve.sync("egress", []) == "ok 0 2"
        assert serve.ask("names") == ([], "ok 0")
        assert "egress.v4" not in table()


def test_a_sync_that_changes_an_action_is_remembered(world):
    for environment in ({}, {"EGRESS_HELPER_COMPAT": "1"}):
        serve = Serve(**environment)
        block = "tcp 192.0.2.1 32 22 600"
        assert serve.sync("egress", [f"{block} drop"]) == "ok 1 0"
        assert serve.sync("egress", [f"{block} reject"]) == "ok 1 1"
        assert serve.sync("egress", [f"{block} reject"]) == "ok 0 0"
        assert serve.sync("egress", [f"{block} drop"]) == "ok 1 1"
        assert serve.sync("egress", []) == "ok 0 1"
        assert "192.0.2.1" not in table()


def test_a_sync_with_a_bad_line_changes_nothing(world):
    serve = Serve()
    serve.sync("egress", ["tcp 192.0.2.1 32 22 600 drop"])
    reply = serve.sync("egress", ["tcp 192.0.2.2 32 22 600 drop", "tcp 192.0.2.3 24 22 6 drop",
                                  "tcp x 32 22 600 drop"])
    assert reply.startswith("err line 2 of the sync:"), reply
    assert serve.targets() == ["tcp 192.0.2.1 32 22 drop"]
    # Two at a time, mixed with other requests, one of them given up.
    serve.write("91 sync a\n92 sync b\n93 sync c\n91 elem tcp 192.0.2.1 32 22 600 drop\n94 ping\n"
                "92 elem tcp 192.0.2.2 32 22 600 drop\n92 end\n91 end\n")
    assert serve.lines(3) == ["94 ok", "92 ok 1 0", "91 ok 1 0"]
    assert serve.targets("a") == ["tcp 192.0.2.1 32 22 drop"]


def test_sync_of_100000(world):
    serve = Serve()
    elements = [f"tcp 10.{i >> 16}.{i >> 8 & 255}.{i & 255} 32 22 {3600 + i % 1000} drop"
                for i in range(100_000)]
    assert serve.sync("egress", elements) == "ok 100000 0"
    assert len(set(serve.targets())) == 100_000
    serve.ok("rem egress tcp 10.0.0.7 32 22")
    serve.ok("add egress tcp 10.200.0.7 32 22 60 drop")
    assert serve.sync("egress", elements) == "ok 1 1"
    assert serve.sync("egress", elements[10_000:]) == "ok 0 10000"
    kept = {" ".join(item.split()[:4]) for item in serve.items()}
    assert kept == {" ".join(element.split()[:4]) for element in elements[10_000:]}
    # A helper that knows nothing of what was done makes so large a set anew, and counts nothing.
    other = Serve()
    other.ok("add egress tcp 10.200.0.8 32 22 60 drop")
    assert Serve().sync("egress", elements) == "ok 0 0"
    kept = {" ".join(item.split()[:4]) for item in other.items()}
    assert kept == {" ".join(element.split()[:4]) for element in elements}
    # It hears of other programs, and compares again.
    nft("delete element inet egress egress.v4.32.drop.2 { 10.0.0.7 . tcp . 22 }")
    nft("add table ip other")
    assert serve.hears()
    assert len(serve.items()) == 99_999
    assert serve.sync("egress", elements) == "ok 1 0"


# --- a process per event -----------------------------------------------------------------------

def test_blocklistd_contract(world):
    done = event("add", "blocklistd", "tcp", "192.0.2.1", "32", "22", "", EGRESS_SECONDS="600")
    assert done.returncode == 0 and done.stdout == "OK\n", done
    assert event("add", "blocklistd", "", "2001:db8::", "64", "", "").returncode == 0
    assert event("add", "blocklistd", "17", "192.0.2.0", "24", "53", "", EGRESS_SECONDS="*",
                 EGRESS_ACTION="reject").returncode == 0
    serve = Serve()
    assert serve.items("blocklistd") == ["* 2001:db8:: 64 * * drop 0",
                                         "tcp 192.0.2.1 32 22 600 drop 0",
                                         "udp 192.0.2.0 24 53 * reject 0"]
    done = event("rem", "blocklistd", "tcp", "192.0.2.1", "32", "22", "any")
    assert done.returncode == 0 and done.stdout == "OK\n", done
    assert event("rem", "blocklistd", "", "2001:db8::", "64", "", "").returncode == 0
    assert serve.targets("blocklistd") == ["udp 192.0.2.0 24 53 reject"]
    assert event("flush", "blocklistd").stdout == "OK\n"
    assert serve.items("blocklistd") == []


def test_clear_leaves_nothing(world):
    """What removes the package runs it: with a table, without one, and without the right to."""
    nft("add", "table", "inet", "other")
    assert event("add", "egress", "tcp", "192.0.2.1", "32", "22", "").stdout == "OK\n"
    assert event("add", "ftp-x", "tcp", "192.0.2.0", "24", "", "", EGRESS_ACTION="reject").returncode == 0
    unheard = unprivileged(helper(), "clear")
    assert unheard.returncode == 1 and "CAP_NET_ADMIN" in unheard.stderr, unheard
    assert "192.0.2.1" in table()
    for _ in range(2):
        assert event("clear").stdout == "OK\n"
        assert nft("list", "tables") == "table inet other\n"
    assert event("clear", "egress").returncode == 2


def test_event_mistakes(world):
    for arguments in ([], ["bogus"], ["add"], ["flush"], ["flush", "a", "b"], ["serve", "x"],
                      ["rem", "egress", "tcp", "192.0.2.1", "32", "22"]):
        done = event(*arguments)
        assert done.returncode == 2 and done.stdout == "" and "usage:" in done.stderr, done
    for arguments, word in ((["add", "egress", "tcp", "192.0.2.1", "24", "22", ""], "host bits"),
                            (["add", "egress", "tcp", "nowhere", "32", "22", ""], "address"),
                            (["add", "a b", "tcp", "192.0.2.1", "32", "22", ""], "name"),
                            (["flush", "../x"], "name")):
        done = event(*arguments)
        assert done.returncode == 1 and done.stdout == "" and word in done.stderr, done
    for variable in ({"EGRESS_SECONDS": "0"}, {"EGRESS_SECONDS": ""}, {"EGRESS_ACTION": "x"}):
        done = event("add", "egress", "tcp", "192.0.2.1", "32", "22", "", **variable)
        assert done.returncode == 1 and done.stdout == "", done
    assert event("--help").returncode == 0 and event("--version").stdout.startswith("egress-helper")
    assert nft("list", "tables") == ""


def test_many_processes_at_once(world):
    children = [subprocess.Popen([helper(), "add", "egress", "tcp", f"192.0.2.{i}", "32", "22", ""],
                                 stdout=subprocess.DEVNULL) for i in range(1, 41)]
    assert [child.wait(60) for child in children] == [0] * 40
    assert len(Serve().items()) == 40
    assert table().count('comment "egress.v4.32.drop"') == 1  # all saw the same state before


if __name__ == "__main__":
    harness.main(globals())
