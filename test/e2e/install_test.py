"""What `cmake --install` puts where, and that it runs from there."""

import glob
import os
import shutil
import stat

import harness
import stock
from harness import run, wait_for

EXPECTED = """
/etc/egress.conf
/etc/init.d/egressd
{prefix}/include/egress.h
{prefix}/include/egress-blocklist.h
{prefix}/{lib}/libegress.a
{prefix}/{lib}/libegress.so
{prefix}/{lib}/libegress.so.1
{prefix}/{lib}/pkgconfig/libegress.pc
{prefix}/{lib}/security/pam_egress.so
{prefix}/lib/systemd/system/egressd-control.socket
{prefix}/lib/systemd/system/egressd.service
{prefix}/lib/systemd/system/egressd.socket
{prefix}/lib/sysusers.d/egress.conf
{prefix}/lib/tmpfiles.d/egress.conf
{prefix}/libexec/egress/egress-helper
{prefix}/sbin/egressctl
{prefix}/sbin/egressd
{prefix}/share/egress/egress.conf
{prefix}/share/egress/helper-example.sh
{prefix}/share/egress/egress-openapi.yaml
{prefix}/share/man/man3/egress.3
{prefix}/share/man/man5/egress.conf.5
{prefix}/share/man/man7/egress-helper.7
{prefix}/share/man/man8/egressctl.8
{prefix}/share/man/man8/egressd.8
{prefix}/share/man/man8/pam_egress.8
/usr/share/pam-configs/egress
"""
# Built only where BIND's headers are.
BIND_PLUGIN = """
{prefix}/{lib}/bind/named_egress.so
{prefix}/share/man/man8/named_egress.8
"""
MAY = ("/libegress.so.1.", "/bash-completion/", "/zsh/", "/doc/", "/egress-compat/")


def test_installed_files(world):
    root = world.path("root")
    run("cmake", "--install", harness.BUILD, env={**os.environ, "DESTDIR": root, "LD_PRELOAD": ""})
    found = {path[len(root):] for path in glob.glob(root + "/**", recursive=True)
             if not os.path.isdir(path) or os.path.islink(path)}
    prefix = stock.cached("CMAKE_INSTALL_PREFIX")
    lib = stock.cached("CMAKE_INSTALL_LIBDIR") or "lib"
    files = EXPECTED
    if os.path.exists(os.path.join(harness.BUILD, "lib/named/named_egress.so")):
        files += BIND_PLUGIN
    expected = set(files.format(prefix=prefix, lib=lib).split())
    assert expected <= found, f"missing: {sorted(expected - found)}"
    surplus = {path for path in found - expected if not any(part in path for part in MAY)}
    assert not surplus, f"unexpected: {sorted(surplus)}"
    assert os.path.isdir(root + "/etc/egress.conf.d")
    assert os.path.isdir(root + "/etc/egress.d")
    for path in found:
        mode = os.stat(root + path).st_mode
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), (path, mode)


def test_rules_of_the_administrator_stay(world):
    """Installing again writes over the programs, never over /etc/egress.conf."""
    root = world.path("root")
    environment = {**os.environ, "DESTDIR": root, "LD_PRELOAD": ""}
    run("cmake", "--install", harness.BUILD, env=environment)
    with open(root + "/etc/egress.conf") as file, open(f"{harness.SOURCE}/etc/egress.conf") as shipped:
        assert file.read() == shipped.read()
    with open(root + "/etc/egress.conf", "w") as file:
        file.write("# mine\n")
    done = run("cmake", "--install", harness.BUILD, env=environment)
    assert "Kept: " + root + "/etc/egress.conf" in done.stdout + done.stderr, done
    with open(root + "/etc/egress.conf") as file:
        assert file.read() == "# mine\n"


def test_units_are_valid(world):
    if not shutil.which("systemd-analyze"):
        raise harness.Skip("systemd-analyze is not installed")
    stock.install(world)
    run("useradd", "--system", "egress", check=False)
    units = os.path.join(stock.cached("CMAKE_INSTALL_PREFIX"), "lib/systemd/system")
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
               *(f"{units}/{name}" for name in ("egressd.service", "egressd.socket",
                                                "egressd-control.socket")), check=False)
    noise = [line for line in done.stderr.splitlines() if "egress" in line.lower()]
    assert done.returncode == 0 and not noise, done
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=20",
               f"{units}/egressd.service", check=False)
    assert done.returncode == 0, done.stdout[-600:]


def test_snippets_make_user_and_directories(world):
    if not shutil.which("systemd-sysusers"):
        raise harness.Skip("systemd-sysusers is not installed")
    stock.install(world)
    prefix = stock.cached("CMAKE_INSTALL_PREFIX")
    run("systemd-sysusers", f"{prefix}/lib/sysusers.d/egress.conf")
    run("getent", "passwd", "egress")
    run("getent", "group", "egress")
    done = run("systemd-tmpfiles", "--create", f"{prefix}/lib/tmpfiles.d/egress.conf", check=False)
    assert done.returncode == 0, done
    assert oct(os.stat("/var/lib/egress").st_mode & 0o777) == "0o750"


def test_init_script_runs_the_installed_daemon(world):
    if not shutil.which("start-stop-daemon"):
        raise harness.Skip("start-stop-daemon is not installed")
    stock.install(world)
    with open("/etc/egress.conf", "w") as file:
        file.write("[local]\n2222 stream tcp * * 2 1h\n")
    with open("/etc/default/egressd", "w") as file:
        file.write('EGRESSD_OPTIONS="-v"\n')
    environment = harness.free_environment()

    def rc(verb, expected=0):
        done = run("/etc/init.d/egressd", verb, check=False, env=environment)
        assert done.returncode == expected, (verb, done)
        return done
    rc("status", 3)
    rc("start")
    rc("status")
    rc("start")
    _, tool, _ = stock.programs()
    done = run(tool, "status", env=environment)
    assert done.stdout
    world.fail(world.tcp("10.66.1.1"), 2)
    world.wait_element("10.66.1.1")
    with open("/etc/egress.conf", "a") as file:
        file.write("2223 stream tcp * * 1 1h\n")
    rc("reload")
    world.fail(world.tcp("10.66.1.2", port=2223))
    world.wait_element("10.66.1.2")
    rc("restart")
    rc("status")
    assert world.element("10.66.1.1") and world.element("10.66.1.2")
    with open("/etc/egress.conf", "a") as file:
        file.write("nonsense\n")
    rc("reload", 1)
    rc("stop")
    rc("status", 3)
    rc("stop")
    rc("start", 6)
    rc("nonsense", 2)
    wait_for(lambda: not os.path.exists("/run/egress/egressd.pid"), what="the pid file to go")


def test_library_can_be_built_against(world):
    """The header and the pkg-config file that were installed build a C program."""
    stock.install(world)
    source = world.write("server.c", """
#include <egress.h>
int main(void) { struct egress *e = egress_open(); egress_close(e);
                 return egress_report(EGRESS_AUTH_FAIL, -1, "x") == 0; }
""")
    prefix, lib = stock.cached("CMAKE_INSTALL_PREFIX"), stock.cached("CMAKE_INSTALL_LIBDIR") or "lib"
    environment = {**harness.free_environment(), "PKG_CONFIG_PATH": f"{prefix}/{lib}/pkgconfig"}
    flags = run("pkg-config", "--cflags", "--libs", "libegress", env=environment).stdout.split()
    if harness.sanitized():
        flags.append("-fsanitize=address,undefined")
    run("gcc", "-std=c89", "-Wall", "-Werror", "-pedantic", source, "-o", world.path("server"),
        *flags, env=environment)
    run(world.path("server"), env=environment)


harness.main(globals())
