"""Tools that guess passwords against vsftpd and ftpd of inetutils with our patches."""

import built
import ftpd as servers
import harness
import stock
import tools

RULE = "[local]\n21 stream tcp * * 4 20s\n"


def attack(world, server_of, kind):
    """Real tools end in the firewall, over IPv4 and IPv6, others are served, and blocks end."""
    daemon = world.daemon(RULE, "-v")
    server = server_of(world, kind)
    friends = [servers.Client(world, f"friend{int(six)}", six) for six in (False, True)]
    words = [*tools.wrong(), stock.PASSWORD]
    attacks = []
    for six in (False, True):
        for name, tool in tools.ALL.items():
            if not six or name in tools.SIX["ftp"]:
                attacker = servers.Client(world, f"{name}{int(six)}", six)
                attacks.append(tool(world, attacker.host, attacker.target, "ftp", servers.PORT,
                                    "alice", words))

    def release(attack):
        attacker = servers.Client.__new__(servers.Client)
        attacker.host = attack.host
        attacker.use(":" in attack.address)
        assert attacker.log_in()

    def serve():
        for friend in friends:
            assert friend.log_in()
    tools.check_end(world, daemon, attacks, serve, release, stock.PASSWORD)
    assert not any(daemon.status()["refused"].values()), daemon.status()
    server.stop()


def define():
    for name, server_of in (("vsftpd", servers.Vsftpd), ("inetutils", servers.Inetutils)):
        for kind in server_of.kinds:
            globals()[f"test_attack_{name}_{kind}"] = (
                lambda world, s=server_of, k=kind: attack(world, s, k))


define()
built.prepare("vsftpd-3.0.5", "inetutils-2.4")
harness.main(globals())
