#!/usr/bin/env python3
"""Beside ufw and firewalld, the real ones: whatever they do to the firewall, who is blocked stays out, who is not
gets in as far as they let him, and new blocks go in."""

import os
import shutil
import subprocess

import harness
import stock
from firewall_lab import PORT, Service, lab, reaches
from harness import run, wait_for

RULES = f"[local]\n{PORT} stream tcp * * 6 1h\n[remote]\n10.77.1.10 * * * = * *\n"


class Lab:
    """A host that is blocked by its first address, and reaches the service from another."""

    def __init__(self, world):
        self.world = world
        stock.overlay(world, "/etc", "/var")
        self.host, self.service = lab(world), Service(world)
        self.daemon = world.daemon(RULES, "-t", "3600")
        self.blocked = [self.host.v4]
        self.service.fail(self.host)
        world.wait_element(self.host.v4)
        self.holds("before")

    def holds(self, when):
        for address in {self.blocked[0], self.blocked[-1]}:
            assert not reaches(self.host, 4, address), f"{address} gets in {when}"
        assert reaches(self.host, 4, "10.77.1.10"), f"an exempt address is shut out {when}"

    def block_another(self, number):
        address = f"10.77.1.{number}"
        self.host.run("ip", "addr", "add", f"{address}/24", "dev", "up0")
        self.service.fail(self.host, source=address)
        self.world.wait_element(address)
        self.blocked.append(address)

    def goes_through(self, *steps):
        for number, step in enumerate(steps):
            done = run(*step, check=False, env=harness.free_environment())
            assert done.returncode == 0, done
            self.holds(f"after {' '.join(step)}")
            self.block_another(20 + number)
            self.holds(f"after {' '.join(step)} and one more block")
        wait_for(lambda: self.daemon.status()["not_in_force"] == 0, what="every block in force")


def program(name):
    path = shutil.which(name)
    if not path:
        raise harness.Skip(f"{name} is not installed")
    return path


def test_ufw(world):
    ufw = program("ufw")
    scene = Lab(world)
    scene.goes_through((ufw, "allow", f"{PORT}/tcp"), (ufw, "--force", "enable"), (ufw, "reload"),
                       (ufw, "deny", "23/tcp"), (ufw, "disable"), (ufw, "--force", "reset"))


def test_firewalld(world):
    firewalld, control = program("firewalld"), program("firewall-cmd")
    scene = Lab(world)
    os.makedirs("/run/dbus", exist_ok=True)
    environment = harness.free_environment()
    log = open(world.path("firewalld.log"), "wb")
    commands = (("dbus-daemon", "--system", "--nofork", "--nopidfile"), (firewalld, "--nofork", "--nopid"))
    parts = [subprocess.Popen(command, stdout=log, stderr=log, env=environment) for command in commands]
    try:
        wait_for(lambda: run(control, "--state", check=False, env=environment).returncode == 0, 60, "firewalld to run")
        scene.goes_through((control, f"--add-port={PORT}/tcp"), (control, f"--add-port={PORT}/tcp", "--permanent"),
                           (control, "--reload"), (control, "--complete-reload"))
    finally:
        for part in reversed(parts):
            part.terminate()
            part.wait(20)
        log.close()
    scene.holds("after firewalld has ended")


harness.main(globals())
