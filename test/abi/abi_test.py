"""What packagers and servers rely on: symbols, needed libraries, headers, the drop-in interface."""

import argparse
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

SYMBOLS = {f"egress_{name}@@EGRESS_1" for name in
           ("close", "open", "report", "report_r", "report_sa", "report_sa_r")}
PAM_SYMBOLS = {f"pam_sm_{name}" for name in
               ("acct_mgmt", "authenticate", "close_session", "open_session", "setcred")}
HEADERS = ("egress.h", "egress-blocklist.h", "blocklist.h", "blacklist.h")
STANDARDS = (("cc", "c89"), ("cc", "c99"), ("cc", "c11"), ("cxx", "c++98"), ("cxx", "c++17"))
STRICT = ("-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-Wcast-qual")
HEAD = struct.Struct("=IHHIHH16sIHH")  # lib/wire.h
options = None


def run(*command, **keywords):
    return subprocess.run(command, check=True, text=True, capture_output=True, **keywords).stdout


def exported(path):
    lines = run("nm", "-D", "--defined-only", "--with-symbol-versions", path).splitlines()
    return {line.split()[-1] for line in lines if line.split()[-2] != "A"}


def needed(path):
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path)))


def include_flags():
    return [f"-I{options.include}", f"-I{options.include}/egress-compat"]


def compiler(kind, standard):
    language = "c" if kind == "cc" else "c++"
    return [options.cc if kind == "cc" else options.cxx, f"-std={standard}", "-x", language,
            *STRICT, *include_flags()]


class Symbols(unittest.TestCase):
    def test_library_exports_what_the_header_declares(self):
        self.assertEqual(exported(options.library), SYMBOLS)

    def test_header_declares_what_the_library_exports(self):
        with open(f"{options.include}/egress.h", encoding="utf-8") as header:
            text = re.sub(r"/\*.*?\*/", "", header.read(), flags=re.S)
        declared = {f"{name}@@EGRESS_1" for name in re.findall(r"\b(egress_\w+)\(", text)}
        self.assertEqual(declared, SYMBOLS)

    def test_archive_has_the_same_names_only(self):
        lines = run("nm", "--extern-only", "--defined-only", options.archive).splitlines()
        names = {line.split()[-1] for line in lines if len(line.split()) == 3}
        self.assertEqual({f"{name}@@EGRESS_1" for name in names}, SYMBOLS)

    def test_module_exports_its_entries_only(self):
        self.assertEqual(exported(options.pam), PAM_SYMBOLS)

    def test_soname(self):
        self.assertIn("[libegress.so.1]", run("readelf", "-d", options.library))

    def test_needs_libc_only(self):
        if options.sanitize:
            self.skipTest("a sanitizer brings its own library")
        loader = {name for name in needed(options.library) if name.startswith("ld-linux")}
        self.assertEqual(needed(options.library) - loader, {"libc.so.6"})
        self.assertEqual(needed(options.pam) - loader, {"libc.so.6", "libpam.so.0"})


class Headers(unittest.TestCase):
    def test_each_alone_in_each_language(self):
        for header in HEADERS:
            for kind, standard in STANDARDS:
                with self.subTest(header=header, standard=standard):
                    text = f"#include <{header}>\n#include <{header}>\nint x;\n"
                    done = subprocess.run([*compiler(kind, standard), "-fsyntax-only", "-"],
                                          input=text, text=True, capture_output=True, check=False)
                    self.assertEqual(done.returncode, 0, done.stderr)

    def test_signatures_and_values_are_version_1(self):
        for kind, standard in STANDARDS:
            with self.subTest(standard=standard):
                run(*compiler(kind, standard), "-Wno-unused", "-fsyntax-only",
                    f"{options.samples}/signatures.c")

    def test_both_names_together(self):
        text = "#include <blacklist.h>\n#include <blocklist.h>\nint x = BLOCKLIST_BAD_USER;\n"
        run(*compiler("cc", "c89"), "-fsyntax-only", "-", input=text)


class DropIn(unittest.TestCase):
    def reports_of(self, sample, library=None):
        """Builds a sample as C89, runs it, and returns its reports as (action, message, fds)."""
        with tempfile.TemporaryDirectory() as folder:
            program = f"{folder}/sample"
            flags = options.sanitize.split()
            run(*compiler("cc", "c89"), f"{options.samples}/{sample}", "-o", program, *flags,
                "-x", "none", library or options.library,
                f"-Wl,-rpath,{os.path.dirname(options.library)}")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(f"{folder}/report.sock")
                listener.listen(32)
                run(program, env={**os.environ, "EGRESS_SOCKET": f"{folder}/report.sock"})
                return list(self.received(listener))

    def received(self, listener):
        listener.setblocking(False)
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            with connection:
                while True:
                    data, fds, _, _ = socket.recv_fds(connection, 4096, 8)
                    if not data:
                        break
                    for fd in fds:
                        os.close(fd)
                    yield HEAD.unpack_from(data)[3], data[HEAD.size:].decode(), len(fds)

    def test_blocklist(self):
        self.assertEqual(self.reports_of("blocklist_sample.c"), [
            (1, "by number", 1), (0, "by name", 1), (3, "address", 1), (2, "handle", 1),
            (1, "handle and address", 1), (1, "logger", 1)])

    def test_archive(self):
        self.assertEqual(len(self.reports_of("blocklist_sample.c", options.archive)), 6)

    def test_blacklist(self):
        self.assertEqual(sorted(self.reports_of("blacklist_sample.c")), [
            (0, "by number", 1), (1, "address", 1), (2, "handle", 1),
            (3, "handle and address", 1)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("library", "archive", "pam", "include", "samples", "cc", "cxx"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--sanitize", default="", help="what a program needs to be linked with the library")
    options, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
