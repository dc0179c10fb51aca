"""What `cmake --install` puts where, and that it runs from there."""

import glob
import os
import shutil
import stat

import harness
import stock
from harness import run, wait_for

COMPILER = stock.cached("CMAKE_C_COMPILER")
# What a program needs to be linked with a sanitized library.
SANITIZED = stock.cached("EGRESS_SANITIZE_FLAGS") if harness.sanitized() else ""

EXPECTED = """
/etc/egress.conf
/etc/init.d/egressd
{prefix}/include/egress.h
{prefix}/include/egress-blocklist.h
{prefix}/{lib}/cmake/egress/egressConfig.cmake
{prefix}/{lib}/cmake/egress/egressConfigVersion.cmake
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
{prefix}/share/egress/prometheus/egress.rules.yml
{prefix}/share/man/man3/egress.3
{prefix}/share/man/man5/egress.conf.5
{prefix}/share/man/man7/egress-helper.7
{prefix}/share/man/man7/egress-upgrade.7
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
MAY = ("/libegress.so.1.", "/bash-completion/", "/zsh/", "/doc/", "/egress-compat/", "/cmake/egress/egressConfig-")


def expected_files(text):
    prefix = stock.cached("CMAKE_INSTALL_PREFIX")
    files = text.format(prefix=prefix, lib=stock.cached("CMAKE_INSTALL_LIBDIR") or "lib").split()
    if not stock.of_system(prefix):
        moved = {target: prefix + source for source, target in stock.SYSTEM_FILES.items()}
        files = [moved.get(path, path) for path in files]
    return set(files)


def test_installed_files(world):
    root = world.path("root")
    run("cmake", "--install", harness.BUILD, env={**os.environ, "DESTDIR": root, "LD_PRELOAD": ""})
    found = {path[len(root):] for path in glob.glob(root + "/**", recursive=True)
             if not os.path.isdir(path) or os.path.islink(path)}
    files = EXPECTED
    if os.path.exists(os.path.join(harness.BUILD, "lib/named/named_egress.so")):
        files += BIND_PLUGIN
    expected = expected_files(files)
    assert expected <= found, f"missing: {sorted(expected - found)}"
    surplus = {path for path in found - expected if not any(part in path for part in MAY)}
    assert not surplus, f"unexpected: {sorted(surplus)}"
    system = stock.of_system(stock.cached("CMAKE_INSTALL_PREFIX"))
    assert os.path.isdir(root + "/etc/egress.conf.d") == system
    assert os.path.isdir(root + "/etc/egress.d") == system
    for path in found:
        mode = os.stat(root + path).st_mode
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), (path, mode)


def test_rules_of_the_administrator_stay(world):
    """Installing again writes over the programs, never over /etc/egress.conf."""
    if not stock.of_system(stock.cached("CMAKE_INSTALL_PREFIX")):
        raise harness.Skip("this build's prefix is outside of the system: /etc/egress.conf is not installed")
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


def as_user_with_the_build(world):
    """The start of a command of nobody's, to whom the build belongs: what is written to it stays in memory."""
    stock.overlay(world, harness.BUILD)
    for name in glob.glob(harness.BUILD + "/install_manifest*"):
        os.unlink(name)
    os.chown(harness.BUILD, harness.NOBODY, harness.NOBODY)
    as_user = ["setpriv", "--reuid", str(harness.NOBODY), "--regid", str(harness.NOBODY), "--clear-groups",
               "env", "-u", "LD_PRELOAD"]
    if run(*as_user, "test", "-r", harness.BUILD + "/CMakeCache.txt", check=False).returncode:
        raise harness.Skip(f"other users than root cannot read {harness.BUILD}")
    return as_user


def files_below(directory):
    return sorted(path for path in glob.glob(directory + "/**", recursive=True, include_hidden=True)
                  if not os.path.isdir(path) or os.path.islink(path))


def test_below_a_prefix_of_a_user(world):
    """Without root everything goes below the prefix, is usable from there, and goes away again."""
    as_user = as_user_with_the_build(world)
    home = world.path("home")
    os.mkdir(home)
    os.chown(home, harness.NOBODY, harness.NOBODY)
    prefix, lib = home + "/egress", stock.cached("CMAKE_INSTALL_LIBDIR") or "lib"
    done = run(*as_user, "cmake", "--install", harness.BUILD, "--prefix", prefix)
    assert "outside of the system" in done.stdout + done.stderr, done
    for name in ("sbin/egressd", "etc/init.d/egressd", "share/pam-configs/egress", "share/egress/egress.conf",
                 "lib/systemd/system/egressd.service", f"{lib}/libegress.so.1", f"{lib}/pkgconfig/libegress.pc"):
        assert os.path.exists(f"{prefix}/{name}"), name
    assert not os.path.exists(prefix + "/etc/egress.conf"), "a file that no daemon reads"
    environment = harness.free_environment()
    assert run(prefix + "/sbin/egressctl", "version", env=environment, check=False).stdout.startswith("egressctl ")
    build_against(world, prefix, lib)
    strange = home + "/egress/share/egress/mine"
    open(strange, "w").close()
    uninstall = [*as_user, "cmake", "-P", harness.BUILD + "/etc/uninstall.cmake"]
    done = run(*uninstall)
    assert files_below(home) == [strange], files_below(home)
    assert not os.path.exists(prefix + "/include/egress-compat"), "its own empty directories go, too"
    done = run(*uninstall, check=False)
    assert done.returncode == 0 and "gone already" in done.stdout + done.stderr, done
    os.unlink(harness.BUILD + "/install_manifest.txt")
    done = run(*uninstall, check=False)
    assert done.returncode != 0 and "install_manifest.txt" in done.stdout + done.stderr, done


def test_uninstall(world):
    """It takes away what was installed and what is in the kernel; rules that were changed and the database stay."""
    stock.overlay(world, harness.BUILD)
    stock.install(world)
    environment = harness.free_environment()
    daemon, _, helper = stock.programs()
    uninstall = ["cmake", "--build", harness.BUILD, "--target", "uninstall"]
    with open("/etc/egress.conf", "a") as file:
        file.write("[local]\n2222 stream tcp * * 2 1h\n")
    stock.enable_pam()
    run("/etc/init.d/egressd", "start", env=environment)
    world.fail(world.tcp("10.66.1.1"), 2)
    world.wait_element("10.66.1.1")
    done = run(*uninstall, env=environment, check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "egressd runs" in text and "pam-auth-update" in text, done
    assert os.path.exists(daemon) and os.path.exists(helper), "nothing is gone before all of it can go"
    run("/etc/init.d/egressd", "stop", env=environment)
    run("pam-auth-update", "--package", "--remove", "egress", env={**environment, "DEBIAN_FRONTEND": "noninteractive"})
    assert world.element("10.66.1.1"), "a block outlives the daemon"
    done = run(*uninstall, env=environment)
    text = done.stdout + done.stderr
    assert run("nft", "list", "tables").stdout == ""
    for path in expected_files(EXPECTED):
        assert os.path.lexists(path) == (path == "/etc/egress.conf"), path
    assert "Kept: /etc/egress.conf" in text and "Kept: /var/lib/egress" in text, text
    assert os.path.exists("/var/lib/egress/data.mdb")


def test_uninstall_from_a_package_root(world):
    """With DESTDIR only the files below it count; rules that are as they were shipped go, too."""
    stock.overlay(world, harness.BUILD)
    root = world.path("root")
    environment = {**harness.free_environment(), "DESTDIR": root}
    run("cmake", "--install", harness.BUILD, env=environment)
    assert files_below(root)
    run("cmake", "--build", harness.BUILD, "--target", "uninstall", env=environment)
    assert files_below(root) == []


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
    # The child that looks names up needs internet sockets: 2.1 instead of 1.7.
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=21",
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
    done = rc("start")  # with the rules of the last good start, and loudly
    assert "the rules have errors" in done.stdout + done.stderr, done
    said = run(tool, "status", env=environment)
    assert "rules of the last good start are in force: /etc/egress.conf:4" in said.stdout, said
    world.fail(world.tcp("10.66.1.3", port=2223))
    world.wait_element("10.66.1.3")
    rc("restart")
    rc("stop")
    shutil.rmtree("/var/lib/egress")  # no good start is known
    assert rc("start", 1).stderr
    rc("status", 3)
    rc("nonsense", 2)
    wait_for(lambda: not os.path.exists("/run/egress/egressd.pid"), what="the pid file to go")


def build_against(world, prefix, lib):
    """The header and the pkg-config file that were installed build a C program, which runs."""
    source = world.write("server.c", """
#include <egress.h>
int main(void) { struct egress *e = egress_open(); egress_close(e);
                 return egress_report(EGRESS_AUTH_FAIL, -1, "x") == 0; }
""")
    environment = {**harness.free_environment(), "PKG_CONFIG_PATH": f"{prefix}/{lib}/pkgconfig"}
    flags = run("pkg-config", "--cflags", "--libs", "libegress", env=environment).stdout.split()
    found = [os.path.realpath(flag[2:]) for flag in flags if flag.startswith(("-L", "-I"))]
    assert found == [f"{prefix}/include", f"{prefix}/{lib}"] or prefix == "/usr", flags
    flags += SANITIZED.split()
    run(COMPILER, "-std=c89", "-Wall", "-Werror", "-pedantic", source, "-o", world.path("server"),
        *flags, f"-Wl,-rpath,{prefix}/{lib}", env=environment)
    run(world.path("server"), env=environment)
    world.write("CMakeLists.txt", """
cmake_minimum_required(VERSION 3.25)
project(server C)
find_package(egress 0.1 REQUIRED)
add_executable(server server.c)
target_link_libraries(server PRIVATE egress::egress)
add_executable(server_static server.c)
target_link_libraries(server_static PRIVATE egress::egress_static)
""")
    build = world.path("by-cmake")
    run("cmake", "-G", "Ninja", "-S", world.scratch, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_C_COMPILER={COMPILER}", f"-DCMAKE_C_FLAGS={SANITIZED}", env=environment)
    run("cmake", "--build", build, env=environment)
    for name in ("server", "server_static"):
        run(f"{build}/{name}", env=environment)
    shutil.rmtree(build)


def test_library_can_be_built_against(world):
    stock.install(world)
    build_against(world, stock.cached("CMAKE_INSTALL_PREFIX"), stock.cached("CMAKE_INSTALL_LIBDIR") or "lib")


harness.main(globals())
