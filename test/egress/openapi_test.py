"""Every answer of the running daemon, errors included, is one that etc/egress-openapi.yaml describes.

A key that the file does not name is a fault as much as a missing one: users generate clients from it.
"""

import copy
import os
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
        path = urllib.parse.urlsplit(target).path
        code, answer = self.guard.daemon.request(method, target, body)
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
        # Nothing in force any more.
        agent.process.kill()
        ask(200, "DELETE", "/v1/egress")
        ask(200, "GET", "/v1/status")
        ask(409, "POST", "/v1/explain", question)
        untried = {(method, path, code) for path, verbs in contract.document["paths"].items()
                   for method, told in ((name.upper(), verb) for name, verb in verbs.items())
                   for code in map(int, told["responses"])} - contract.seen
        print("     not tried: " + ", ".join(f"{m} {p} {c}" for m, p, c in sorted(untried) if c != 403))
        if contract.wrong:
            raise harness.Failure("\n".join(contract.wrong))


def test_refused_users(world):
    with guarded(world) as guard:
        guard.start(RULES)
        contract = Contract(guard)
        os.chmod(guard.daemon.control, 0o777)
        os.chmod(os.path.dirname(guard.daemon.control), 0o755)
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                for method, path in (("GET", "/v1/status"), ("POST", "/v1/blocks"), ("PUT", "/v1/trial"),
                                     ("GET", "/v1/events"), ("GET", "/metrics")):
                    contract.ask(403, method, path)
                os._exit(1 if contract.wrong else 0)
            except BaseException as error:  # nothing of the test may go on in the child
                print(repr(error), flush=True)
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    harness.main(globals())
