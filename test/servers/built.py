"""Servers built with their patches. Fetching and building need the network and keep what they make,
so they happen before a test enters its namespaces, and the paths come along in the environment."""

import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

import harness  # noqa: E402 (found by the line above)

KEY = "EGRESS_TEST_SERVERS"


def prepare(*names):
    """Builds these servers, once; without the right to test, nothing."""
    if KEY in os.environ or os.geteuid() != 0:
        return
    found = {}
    for name in names:
        if unloadable():
            found[name] = {"skip": unloadable()}
            continue
        done = subprocess.run([os.path.join(HERE, "build"), name], stdout=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              env={**os.environ, "EGRESS_TEST_BUILD": harness.BUILD})
        kind = {0: "path", 3: "skip"}.get(done.returncode, "failure")
        found[name] = {kind: done.stdout.strip() if kind == "path" else done.stderr[-2000:].strip()}
    os.environ[KEY] = json.dumps(found)


def unloadable():
    if harness.sanitized(harness.PLAIN_BUILD):
        return ("a sanitized libegress cannot be loaded into a server; EGRESS_TEST_PLAIN_BUILD names "
                "a plain build")
    return None


def path(name):
    """Where that server was built."""
    entry = json.loads(os.environ[KEY])[name]
    if "skip" in entry:
        raise harness.Skip(entry["skip"])
    if "failure" in entry:
        raise harness.Failure(entry["failure"])
    return entry["path"]


def environment():
    """For a server linked with libegress: the one that is tested."""
    return {**harness.free_environment(),
            "LD_LIBRARY_PATH": os.path.join(harness.PLAIN_BUILD, "lib")}
