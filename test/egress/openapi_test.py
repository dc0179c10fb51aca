"""Every answer of the running daemon, errors included, is one that etc/egress-openapi.yaml describes.

A key that the file does not name is a fault as much as a missing one: users generate clients from it.
"""

import copy
import http.client
import json
import os
import socket
import urllib.parse

from guarded import guarded, harness
from harness import Skip
from packet_test import Agent
from verdict_test import PYTHON, probe, servers

try:
    import jsonschema
    import yaml
except ImportError:
    jsonschema = None

RULES = "10.66.0.1:80 * * * * deny\n"
LOCAL = "[local]\n2222 stream tcp * * 3 1h\n[egress]\n"


def strict(schema):
    """The schema without room for keys that it does not name."""
    if isinstance(schema, dict):
        made = {key: strict(value) for key, value in schema.items()}
        if isinstance(made.get("properties"), dict) and "allOf" not in made:
            made.setdefault("additionalProperties", False)
        if made.pop("nullable", False) is True and isinstance(made.get("type"), str):
            made["type"] = [made["type"], "null"]
        return made
    return [strict(each) for each in schema] if isinstance(schema, list) else schema


class Contract:
    def __init__(self, guard):
        if jsonschema is None:
            raise Skip("no python3-jsonschema or python3-yaml; test/deps installs them")
        with open(os.path.join(harness.SOURCE, "etc/egress-openapi.yaml")) as file:
            self.document = yaml.safe_load(file)
        self.components = strict(copy.deepcopy(self.document["components"]))
        self.guard, self.seen, self.wrong = guard, set(), []

    def compare(self, what, schema, value):
        whole = {**schema, "components": self.components}
        for fault in jsonschema.Draft4Validator(whole).iter_errors(value):
            self.wrong.append(f"{what} {list(fault.absolute_path)}: {fault.message[:300]}")

    def check(self, name, value):
        self.compare(name, {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}, value)

    def response(self, method, path, code):
        told = self.document["paths"][path][method.lower()]["responses"].get(str(code))
        if told and "$ref" in told:
            told = self.document["components"]["responses"][told["$ref"].rsplit("/", 1)[1]]
        return told

    def ask(self, expected, method, target, body=None):
        """The body of the answer, after comparing it."""
        return self.take(expected, method, target, body, *self.guard.daemon.request(method, target, body))

    def take(self, expected, method, target, body, code, answer):
        path = urllib.parse.urlsplit(target).path
        what = f"{method} {target} {body}: {code}"
        if code != expected:
            self.wrong.append(f"{what}, not {expected}: {answer}")
        self.seen.add((method, path, code))
        told = self.response(method, path, code)
        if told is None:
            self.wrong.append(f"{what} is not in the file")
            return answer
        content = told.get("content", {})
        if not content and answer:
            self.wrong.append(f"{what} has a body and should have none: {answer}")
        for kind, media in content.items():
            if kind == "application/json":
                self.compare(what, strict(media["schema"]), answer)
            elif not isinstance(answer, str):
                self.wrong.append(f"{what} is no text")
        return answer


    def answers(self):
        """(method, path, code) of each that the file describes."""
        return {(method.upper(), path, int(code)) for path, verbs in self.document["paths"].items()
                for method, operation in verbs.items() for code in operation["responses"]}

    def in_child(self, function):
        """Calls it in a process of its own, and takes over what that has seen."""
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            self.seen, self.wrong = set(), []
            try:
                function()
            except BaseException as error:  # nothing of the test may go on in the child
                self.wrong.append(repr(error))
            with open(theirs, "w") as pipe:
                json.dump([list(self.seen), self.wrong], pipe)
            os._exit(0)
        os.close(theirs)
        with open(ours) as pipe:
            seen, wrong = json.load(pipe)
        os.waitpid(child, 0)
        self.seen |= {tuple(each) for each in seen}
        self.wrong += wrong


# A disk, a kernel or a helper that fails, and full shares: tests of their own look at what happens then. A body that
# is too large: bulk_test.py.
ELSEWHERE = {413, 500, 503, 504, 507}
UNTRIED = {
    "POST /v1/trial 422": "the rules on trial were read before",
    "DELETE /v1/trial 422": "the rules before the trial were read before",
    "POST /v1/selftest 409": "guarded tests have one canary at a time",
}


# What a process of [egress] asks, which the hooks know.
CODE = """
import http.client

def ask(control, method, path, body):
    with open("/proc/self/stat") as file:
        started = int(file.read().rsplit(")", 1)[1].split()[19])
    connection = http.client.HTTPConnection("egressd", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(control)
    connection.request(method, path, json.dumps({**body, "started": started}) if body is not None else None)
    answer = connection.getresponse()
    return [answer.status, json.loads(answer.read())]
"""


def runs_and_tests(contract):
    """A process goes behind rules of its own, another tests the hooks."""
    def process():
        agent = Agent(contract.guard)
        agent("import json")
        agent(CODE)

        def ask(expected, method, path, body=None):
            found = agent(f"ask({contract.guard.daemon.control!r}, {method!r}, {path!r}, {body!r})")
            return contract.take(expected, method, path, body, *found)
        return ask

    run = process()
    number = run(200, "POST", "/v1/runs", {"rules": "10.66.0.1 * * * * allow\n"}).get("run")
    run(403, "GET", "/v1/status")  # a process of a run has no say
    contract.ask(200, "GET", f"/v1/runs?run={number}")
    tester = process()
    tester(200, "POST", "/v1/selftest", {"prepare": True})
    tester(200, "POST", "/v1/selftest", {})
    tester(200, "DELETE", "/v1/selftest")
    ask = contract.ask
    for wrong in ("", "?run=x"):
        ask(400, "GET", "/v1/runs" + wrong)
    ask(404, "GET", "/v1/runs?run=77")
    for wrong in ({}, {"started": "now"}, {"started": 1, "rules": 7}):
        ask(400, "POST", "/v1/runs", wrong)
    ask(404, "POST", "/v1/runs", {"started": 1})
    ask(404, "POST", "/v1/selftest", {"started": 1})


def feeds(contract):
    """The first line of each kind, which only who watches gets."""
    for kind, schema, act in (("egress", "Event", lambda: probe(contract.guard, "tcp,10.66.0.1,80")),
                              ("blocks", "BlockEvent", lambda: contract.ask(201, "POST", "/v1/blocks",
                                                                            {"addr": "192.0.2.9", "seconds": 600}))):
        connection = http.client.HTTPConnection("egressd", timeout=30 * harness.PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30 * harness.PATIENCE)
        connection.sock.connect(contract.guard.daemon.control)
        connection.request("GET", f"/v1/events?kind={kind}")
        answer = connection.getresponse()
        if (answer.status, answer.getheader("Content-Type")) != (200, "application/x-ndjson"):
            contract.wrong.append(f"kind={kind}: {answer.status} {answer.getheader('Content-Type')}")
        contract.seen.add(("GET", "/v1/events", answer.status))
        act()
        line = json.loads(answer.readline())
        if kind == "blocks":  # a row, and what happened to it
            own = contract.document["components"]["schemas"][schema]["allOf"][0]
            contract.compare(schema, strict(own), {key: line.pop(key) for key in own["properties"] if key in line})
            schema = "Row"
        contract.check(schema, line)
        connection.close()


def refused_users(contract):
    """Every path, as a user who is not in the group."""
    os.chmod(contract.guard.daemon.control, 0o777)
    os.chmod(os.path.dirname(contract.guard.daemon.control), 0o755)

    def nobody():
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        for method, path, code in contract.answers():
            if code == 403:
                contract.ask(403, method, path)
    contract.in_child(nobody)


def test_every_answer(world):
    servers(world, 80)
    with guarded(world) as guard:
        guard.start(RULES)
        contract = Contract(guard)
        ask = contract.ask
        ask(200, "GET", "/v1/status")
        ask(200, "GET", "/metrics")
        ask(200, "GET", "/v1/rules")
        # Blocks.
        ask(200, "GET", "/v1/blocks")
        made = {"addr": "192.0.2.1", "port": 2222, "protocol": "tcp", "seconds": 600}
        ask(201, "POST", "/v1/blocks", made)
        ask(200, "GET", "/v1/blocks?state=blocked")
        ask(400, "GET", "/v1/blocks?state=nonsense")
        for wrong in ({}, {"addr": "nonsense"}, {"addr": "192.0.2.1", "for": "10m"}, [7], {"addr": 7},
                      {"addr": "192.0.2.1", "port": 70000}):
            ask(400, "POST", "/v1/blocks", wrong)
            ask(400, "DELETE", "/v1/blocks", wrong)
        ask(200, "DELETE", "/v1/blocks", {"addr": "192.0.2.1"})
        ask(200, "DELETE", "/v1/blocks", {"addr": "192.0.2.1"})
        ask(201, "POST", "/v1/blocks", [made, {"addr": "198.51.100.0/24"}])
        ask(409, "POST", "/v1/blocks", {"addr": "127.0.0.1"})
        ask(409, "POST", "/v1/blocks", [made, {"addr": "127.0.0.1"}])
        ask(200, "GET", "/v1/traffic")
        ask(200, "GET", "/v1/which?addr=192.0.2.1")
        ask(400, "GET", "/v1/which?addr=nonsense")
        ask(400, "GET", "/v1/which")
        question = {"addr": "192.0.2.1", "port": 2222}
        ask(200, "POST", "/v1/explain/report", question)
        ask(200, "POST", "/v1/explain/report", {**question, "port": 9})
        ask(400, "POST", "/v1/explain/report", {**question, "nonsense": 1})
        ask(200, "POST", "/v1/forget", {"addr": "192.0.2.1"})
        ask(400, "POST", "/v1/forget", {"addr": 7})
        ask(200, "DELETE", "/v1/blocks", [{"addr": "198.51.100.0/24"}])
        ask(200, "DELETE", "/v1/blocks", {"all": True})
        # Rules, and rules for a time.
        ask(200, "POST", "/v1/reload")
        ask(404, "GET", "/v1/trial")
        ask(409, "POST", "/v1/trial")
        ask(409, "DELETE", "/v1/trial")
        for wrong in ({}, {"text": 7}, {"text": LOCAL, "nonsense": 1}, []):
            ask(400, "PUT", "/v1/trial", wrong)
        trial = {"name": "t.conf", "text": LOCAL + RULES, "seconds": 60}
        ask(422, "PUT", "/v1/trial", {**trial, "text": "[egress]\nnonsense\n"})
        ask(409, "PUT", "/v1/trial", {**trial, "text": LOCAL + "* * * * * deny\n"})
        ask(200, "PUT", "/v1/trial", trial)
        ask(200, "GET", "/v1/trial")
        ask(200, "GET", "/v1/status")
        ask(409, "PUT", "/v1/trial", trial)
        ask(409, "POST", "/v1/reload")
        ask(200, "DELETE", "/v1/trial")
        ask(200, "PUT", "/v1/trial", trial)
        ask(409, "POST", "/v1/trial")  # the file does not have them yet
        world.write("egress.conf", trial["text"])
        ask(200, "POST", "/v1/trial")
        with open(guard.daemon.conf, "a") as conf:
            conf.write("nonsense\n")
        ask(422, "POST", "/v1/reload")
        ask(200, "GET", "/v1/status")
        # The out direction.
        agent = Agent(guard)
        assert probe(guard, "tcp,10.66.0.1,80") == ["EPERM"]
        contract.check("Event", guard.event(action="BLOCKED", port=80))  # /v1/events has the same lines
        question = {"exe": PYTHON, "addr": "10.66.0.1", "port": 80, "protocol": 6}
        ask(200, "POST", "/v1/explain", question)
        ask(200, "POST", "/v1/explain", {**question, "addr": "10.66.0.9"})
        named = {key: value for key, value in question.items() if key != "addr"}
        ask(200, "POST", "/v1/explain", {**named, "name": "files.example.org"})
        ask(400, "POST", "/v1/explain", {**question, "name": "files.example.org"})
        ask(400, "POST", "/v1/explain", {**named, "name": "*.example.org"})
        ask(404, "POST", "/v1/explain", {"pid": 999999, "addr": "10.66.0.1", "uid": 0, "gid": 0})
        for wrong in ({}, {**question, "nonsense": 1}, {"exe": "x", "addr": "y"}):
            ask(400, "POST", "/v1/explain", wrong)
        ask(400, "POST", "/v1/selftest", {})
        ask(409, "DELETE", "/v1/selftest")
        ask(400, "GET", "/v1/events?nonsense=1")
        runs_and_tests(contract)
        feeds(contract)
        # What no route takes.
        for path, verbs in contract.document["paths"].items():
            for method, operation in verbs.items():
                ask(400, method.upper(), path + "?nonsense=1")
                if "requestBody" not in operation:
                    ask(400, method.upper(), path, {})
        # Nothing in force any more.
        agent.process.kill()
        ask(200, "DELETE", "/v1/egress")
        ask(200, "GET", "/v1/status")
        ask(409, "POST", "/v1/explain", question)
        contract.in_child(lambda: ask(409, "POST", "/v1/runs", {"started": 1}))
        refused_users(contract)
        untried = {f"{method} {path} {code}" for method, path, code in contract.answers() - contract.seen
                   if code not in ELSEWHERE}
        contract.wrong += [f"{each} is not tried" for each in sorted(untried - UNTRIED.keys())]
        contract.wrong += [f"{each} is tried" for each in sorted(UNTRIED.keys() - untried)]
        if contract.wrong:
            raise harness.Failure("\n".join(contract.wrong))


if __name__ == "__main__":
    harness.main(globals())
