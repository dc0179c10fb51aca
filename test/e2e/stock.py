"""A Debian host with egress really installed, for tests and for the demonstration.

/etc, /usr and /var get a layer of memory over them (in the test's own mount namespace), so that
`cmake --install`, pam-auth-update and useradd do what they do on a real machine, and all of it is
gone with the namespace.
"""

import os
import re
import shutil
import subprocess

import harness
from harness import Skip, run, wait_for

PASSWORD = "correct horse battery staple"
SSHD = "/usr/sbin/sshd"


# What `cmake --install` puts below a prefix outside of the system, and where the system reads it.
SYSTEM_FILES = {"/etc/init.d/egressd": "/etc/init.d/egressd", "/share/pam-configs/egress": "/usr/share/pam-configs/egress",
                "/share/egress/egress.conf": "/etc/egress.conf"}


def of_system(prefix):
    return bool(re.fullmatch(r"/*|/+(usr|opt)(/.*)?", prefix))


def overlay(world, *directories):
    """Writes below these directories stay in memory."""
    for directory in directories:
        upper = world.path("layer" + directory.replace("/", "-"))
        for part in ("upper", "work"):
            os.makedirs(f"{upper}/{part}")
        done = run("mount", "-t", "overlay", "-o",
                   f"lowerdir={directory},upperdir={upper}/upper,workdir={upper}/work",
                   "egress-test", directory, check=False)
        if done.returncode != 0:
            raise Skip(f"no overlay over {directory}: {done.stderr.strip()}")


def install(world, build=None, pam_build=None):
    """Installs egress as an administrator would."""
    overlay(world, "/etc", "/usr", "/var")
    build = build or harness.BUILD
    prefix = cached("CMAKE_INSTALL_PREFIX", build)
    if not prefix.startswith(("/etc/", "/usr", "/var/")):
        above = prefix
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        overlay(world, above)
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DESTDIR")}
    for source in dict.fromkeys((build, pam_build or build)):
        run("cmake", "--install", source, env=environment)
    run("ldconfig", env=environment)
    if not of_system(prefix):  # what root does then, as the installation says
        for source, target in SYSTEM_FILES.items():
            shutil.copy(prefix + source, target)


def cached(name, build=None):
    """A value of the build's configuration."""
    with open(os.path.join(build or harness.BUILD, "CMakeCache.txt")) as cache:
        found = re.search(rf"^{name}:\w+=(.*)$", cache.read(), re.M)
    return found[1] if found else ""


def programs():
    """Where `cmake --install` puts (egressd, egressctl, egress-helper)."""
    prefix = cached("CMAKE_INSTALL_PREFIX")
    sbin = os.path.join(prefix, cached("CMAKE_INSTALL_SBINDIR") or "sbin")
    libexec = os.path.join(prefix, cached("CMAKE_INSTALL_LIBEXECDIR") or "libexec")
    return (os.path.join(sbin, "egressd"), os.path.join(sbin, "egressctl"),
            os.path.join(libexec, "egress/egress-helper"))


def enable_pam():
    """Debian's own way to put a module into every service's stack."""
    environment = {**harness.free_environment(), "DEBIAN_FRONTEND": "noninteractive"}
    run("pam-auth-update", "--package", "--force", env=environment)
    run("pam-auth-update", "--enable", "egress", "--force", env=environment)
    with open("/etc/pam.d/common-auth") as file:
        text = file.read()
    if "pam_egress.so" not in text:
        raise harness.Failure(f"pam-auth-update did not take the profile:\n{text}")


def add_user(name, password=PASSWORD):
    run("useradd", "--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", name)
    run("chpasswd", "-c", "SHA512", input=f"{name}:{password}\n")


class Sshd:
    """Debian's sshd, with the configuration file that its package ships."""

    def __init__(self, world):
        for program in (SSHD, "/usr/bin/ssh-keygen", "/usr/share/openssh/sshd_config"):
            if not os.path.exists(program):
                raise Skip(f"{program} is missing (test/deps installs openssh-server)")
        os.makedirs("/run/sshd", exist_ok=True)
        shutil.copy("/usr/share/openssh/sshd_config", "/etc/ssh/sshd_config")
        shutil.rmtree("/etc/ssh/sshd_config.d", ignore_errors=True)
        run("ssh-keygen", "-A")
        self.log_path = world.path("sshd.log")
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen([SSHD, "-D", "-e"], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log,
                                        env=harness.free_environment())
        wait_for(self.listens, what="sshd to listen")

    def listens(self):
        if self.process.poll() is not None:
            raise harness.Failure(f"sshd ended: {self.text()}")
        return ":22 " in run("ss", "-Hltn").stdout

    def text(self):
        with open(self.log_path, "rb") as file:
            return file.read().decode(errors="backslashreplace")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def hydra(world, host, target, user="root", words=400, tasks=4):
    """An attack with a list of wrong passwords from that host; the running process."""
    if not shutil.which("hydra"):
        raise Skip("hydra is not installed (test/deps installs it)")
    passwords = world.write("passwords", "".join(f"wrong-{n:04}\n" for n in range(words)))
    target = f"[{target}]" if ":" in target else target
    family = ["-6"] if ":" in target else []
    return subprocess.Popen(
        host.command("hydra", *family, "-I", "-l", user, "-P", passwords, "-t", str(tasks), "-W", "1",
                     f"ssh://{target}"),
        stdin=subprocess.DEVNULL, stdout=open(world.path(f"hydra-{host.name}.log"), "wb"),
        stderr=subprocess.STDOUT, cwd=world.scratch, env=harness.free_environment())


def log_in(host, target, user, password=PASSWORD, command="echo in", timeout=15):
    """One password log-in over ssh; what the client's ssh did."""
    if not shutil.which("sshpass"):
        raise Skip("sshpass is not installed (test/deps installs it)")
    return subprocess.run(
        host.command("sshpass", "-p", password, "ssh", "-F", "/dev/null", "-o",
                     "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                     f"ConnectTimeout={timeout}", "-o", "PreferredAuthentications=password", "-o",
                     "NumberOfPasswordPrompts=1", "-o", "LogLevel=ERROR", f"{user}@{target}",
                     command),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout + 45,
        env=harness.free_environment())
