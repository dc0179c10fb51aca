"""The first process of a guest that systemd runs: prepares this machine's files and becomes systemd.

    first.py KERNEL-DIRECTORY RELEASE PROGRAM [ARGUMENT...]    the program runs as a service; its end is the guest's

Memory lies over the files: what is changed here is gone with the guest.
"""

import os
import shlex
import sys

# Of what this machine would start: nothing that looks for its disks, clears its /tmp or takes long.
MASKED = """systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer
    systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-hwdb-update.service ldconfig.service
    systemd-journal-catalog-update.service systemd-journal-flush.service systemd-random-seed.service
    systemd-update-done.service systemd-update-utmp.service systemd-machine-id-commit.service
    systemd-firstboot.service systemd-sysusers.service systemd-sysctl.service systemd-modules-load.service
    systemd-remount-fs.service systemd-pstore.service systemd-boot-system-token.service dev-hugepages.mount
    dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount
    sys-kernel-config.mount modprobe@.service apparmor.service timers.target paths.target swap.target
    cryptsetup.target local-fs.target""".split()

UNIT = """[Unit]
Description=the job of the guest
After=basic.target
Requires=basic.target

[Service]
Type=exec
ExecStart={command}
WorkingDirectory=/run
StandardInput=null
StandardOutput=file:/dev/ttyS1
StandardError=inherit
Environment=LC_ALL=C.UTF-8 HOME=/root EGRESS_TEST_PATIENCE=5
"""


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def main(kernel, release, *command):
    if os.path.exists("/.dockerenv"):
        os.unlink("/.dockerenv")  # this machine may be a container; the guest is none
    write("/etc/fstab", "")
    write("/etc/hostname", "guest\n")
    write("/etc/machine-id", "5f2ab7a33cf8469c9ed5b1e5c2f0c0de\n")  # or systemd takes this for its first boot
    for name in MASKED:
        path = "/run/systemd/system/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink("/dev/null", path)
    write("/run/systemd/system/job.service", UNIT.format(command=shlex.join(command)))
    os.makedirs("/lib/modules", exist_ok=True)
    if not os.path.exists(f"/lib/modules/{release}"):
        os.symlink(f"{kernel}/lib/modules/{release}", f"/lib/modules/{release}")
    program = "/lib/systemd/systemd"
    os.execv(program, [program, "--unit=job.service", "--show-status=no"])


main(*sys.argv[1:])
