"""Destinations by name with the clients that people use: a name that a line has, another one, and an address;
each over IPv4 and IPv6. Nothing in a client knows of egressd.

Each client runs in a group of its own, by which its events are found. Heavy ones (node, Go, Java) are no part
of test/deps; where one is missing, its row says so.
"""

import os
import shutil
import subprocess
import sys

from guarded import guarded, harness
from harness import Skip, wait_for
from names_test import RESOLVER, Resolver

PORT, SSH, PROXY, TLS = 8080, 2022, 8081, 8443
LITERAL = {4: "203.0.113.3", 6: "2001:db8:5::3"}
ADDRESSES = {"v4.good.example": "203.0.113.1", "v6.good.example": "2001:db8:5::1",
             "v4.other.example": "203.0.113.2", "v6.other.example": "2001:db8:5::2"}
CELLS = [(family, kind) for family in (4, 6) for kind in ("good", "other", "literal")]
PYTHON = "/usr/bin/python3"  # Debian's, which has Debian's modules

# Each takes URLs, and prints "ok" or the error for each.
REQUESTS = """
import requests, sys
for url in sys.argv[1:]:
    try:
        print("ok" if requests.get(url, timeout=10).ok else "bad")
    except OSError as error:
        print(repr(error))
"""
ASYNCIO = """
import asyncio, sys, urllib.parse
async def reach(url):
    to = urllib.parse.urlsplit(url)
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(to.hostname, to.port), 10)
        writer.write(b"GET /page HTTP/1.0\\r\\n\\r\\n")
        print("ok" if b"200" in await reader.readline() else "bad")
        writer.close()
    except OSError as error:
        print(repr(error))
async def main():
    for url in sys.argv[1:]:
        await reach(url)
asyncio.run(main())
"""
NODE = """
const http = require("http");
const reach = ([url, ...more]) => {
    if (!url) return;
    const say = text => { console.log(text); reach(more); };
    http.get(url, {agent: false}, answer => { answer.resume(); answer.on("end", () => say("ok")); })
        .on("error", error => say(error.code || "error"));
};
reach(process.argv.slice(1));
"""
GO = """
package main

import (
    "fmt"
    "net/http"
    "os"
    "strings"
)

func main() {
    for _, url := range os.Args[1:] {
        answer, err := http.Get(url)
        if err != nil {
            fmt.Println(strings.ReplaceAll(err.Error(), "\\n", " "))
        } else {
            answer.Body.Close()
            fmt.Println("ok")
        }
    }
}
"""
JAVA = """
import java.net.*;

public class Client {
    public static void main(String[] urls) {
        for (String url : urls) {
            try {
                new URL(url).openStream().close();
                System.out.println("ok");
            } catch (Exception e) {
                System.out.println(e);
            }
        }
    }
}
"""
MUSL = r"""
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char** urls) {
    for (int i = 1; i < count; ++i) {
        char host[256] = "", port[8] = "";
        if (sscanf(urls[i], "http://[%255[^]]]:%7[0-9]", host, port) != 2) {
            sscanf(urls[i], "http://%255[^:]:%7[0-9]", host, port);
        }
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
        const int error = getaddrinfo(host, port, &hints, &found);
        if (error) {
            puts(gai_strerror(error));
            continue;
        }
        const int one = socket(found->ai_family, SOCK_STREAM, 0);
        puts(connect(one, found->ai_addr, found->ai_addrlen) == 0 ? "ok" : strerror(errno));
        close(one);
        freeaddrinfo(found);
    }
}
"""
NGINX = """
daemon off; master_process off; pid {0}/nginx.pid; error_log {0}/nginx.log;
events {{ }}
http {{
    access_log off; resolver {1} valid=1s; resolver_timeout 2s;
    client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
    uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
    server {{ listen 127.0.0.1:{2}; location / {{ proxy_pass http://$arg_to:{3}/page; }} }}
}}
"""
WEB = """
import functools, http.server, socket, ssl, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
port, directory, *keys = sys.argv[1:]
server = Server(("::", int(port)), functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory))
if keys:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys)
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def host(family, kind):
    return LITERAL[family] if kind == "literal" else f"v{family}.{kind}.example"


def written(family, kind):
    """As in a URL."""
    name = host(family, kind)
    return f"[{name}]" if ":" in name else name


def url(family, kind, path="page", scheme="http", port=PORT):
    return f"{scheme}://{written(family, kind)}:{port}/{path}"


class Clients:
    """The servers, the resolver, and a row of outcomes for each client."""

    def __init__(self, world, guard):
        self.world, self.guard = world, guard
        self.log = open(world.path("servers.log"), "ab")
        self.rows = {}    # client: (its group, {cell: "ok" or the error})
        self.missing = {}
        for name, text in (("nsswitch.conf", "hosts: files dns\n"),
                           ("resolv.conf", f"nameserver {RESOLVER}\noptions timeout:2 attempts:1\n")):
            harness.libc.mount(world.write(name, text).encode(), b"/etc/" + name.encode(), None, 4096, None)
        world.write("page", "hello\n")
        self.repository()
        self.serve(sys.executable, "-c", WEB, str(PORT), world.path(""))
        self.serve(sys.executable, "-c", WEB, str(TLS), world.path(""), *self.certificate())
        self.sshd()
        for port in (PORT, SSH, TLS):
            wait_for(lambda port=port: harness.run("curl", "-sS", "-m", "2", "--http0.9", f"telnet://127.0.0.1:{port}",
                                                   stdin=subprocess.DEVNULL, check=False).returncode != 7, 20,
                     f"port {port}")
        self.resolver = Resolver(RESOLVER)
        for name, address in ADDRESSES.items():
            self.resolver.says(name, address)

    def serve(self, *command, **keywords):
        self.guard.started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                                   **keywords))

    def repository(self):
        git = ("git", "-C", self.world.path("repo.git"))
        harness.run("git", "init", "-q", "--bare", self.world.path("repo.git"))
        tree = harness.run(*git, "hash-object", "-t", "tree", "-w", "/dev/null").stdout.strip()
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        commit = harness.run(*git, *who, "commit-tree", "-m", "x", tree).stdout.strip()
        harness.run(*git, "update-ref", "refs/heads/master", commit)
        harness.run(*git, "update-server-info")

    def certificate(self):
        """For all names and addresses."""
        names = [f"{'IP' if kind == 'literal' else 'DNS'}:{host(family, kind)}" for family, kind in CELLS]
        files = (self.world.path("tls.pem"), self.world.path("tls.key"))
        harness.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=good.example", "-addext", "subjectAltName=" + ",".join(names),
                    "-out", files[0], "-keyout", files[1])
        return files

    def sshd(self):
        os.makedirs("/run/sshd", exist_ok=True)
        for name in ("host", "client"):
            harness.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.world.path(name))
        options = {"Port": SSH, "HostKey": self.world.path("host"), "AuthorizedKeysFile": self.world.path("client.pub"),
                   "PidFile": "none", "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "prohibit-password"}
        self.serve(shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null",
                   *(word for name, value in options.items() for word in ("-o", f"{name}={value}")))

    def group(self, client):
        return self.rows.setdefault(client, (3000 + len(self.rows), {}))[0]

    def run(self, client, *command, **environment):
        """One run of it; what it printed, and what became of it."""
        group = self.group(client)
        if environment:
            command = ("env", *(f"{name}={value}" for name, value in environment.items()), *command)
        return self.guard.run(*command, group=group)

    def each(self, client, command, needs=None, **environment):
        """A run for each cell; command(family, kind) makes it."""
        if not self.present(client, needs or client):
            return
        for cell in CELLS:
            done = self.run(client, *command(*cell), **environment)
            self.rows[client][1][cell] = "ok" if done.returncode == 0 else f"{done.returncode} {done.stderr[-300:]}"

    def all(self, client, *command, needs=None, **environment):
        """One run for all cells, of a program that prints a line for each."""
        if not self.present(client, needs or command[0]):
            return
        done = self.run(client, *command, *(url(*cell) for cell in CELLS), **environment)
        lines = done.stdout.splitlines()
        assert len(lines) == len(CELLS), (client, done)
        self.rows[client][1].update(zip(CELLS, lines))

    def present(self, client, program):
        if shutil.which(program):
            return True
        self.missing[client] = program
        return False

    def run_all(self):
        world = self.world
        self.each("curl", lambda *cell: ("curl", "-sS", "-m", "10", url(*cell)))
        self.each("wget", lambda *cell: ("wget", "-q", "-O", "-", "-t", "1", "-T", "10", url(*cell)))
        fetch = ("/usr/lib/apt/apt-helper", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0",
                 "download-file")
        self.each("apt", lambda *cell: (*fetch, url(*cell), world.path(f"apt-{cell}")), needs=fetch[0])
        self.each("git http", lambda *cell: ("git", "ls-remote", "--exit-code", url(*cell, "repo.git")), needs="git")
        self.each("git https", lambda *cell: ("git", "ls-remote", "--exit-code", url(*cell, "repo.git", "https", TLS)),
                  needs="git", GIT_SSL_CAINFO=world.path("tls.pem"))
        ssh = (f"ssh -F /dev/null -p {SSH} -i {world.path('client')} -o BatchMode=yes -o StrictHostKeyChecking=no "
               "-o UserKnownHostsFile=/dev/null -o ConnectTimeout=10")
        self.each("git ssh", lambda *cell: ("git", "ls-remote", "--exit-code",
                                            f"ssh://root@{written(*cell)}{world.path('repo.git')}"),
                  needs="git", GIT_SSH_COMMAND=ssh)
        self.each("ping", lambda *cell: ("ping", "-n", "-c", "1", "-W", "2", host(*cell)))
        self.all("requests", PYTHON, "-c", REQUESTS)
        self.all("asyncio", PYTHON, "-c", ASYNCIO)
        self.all("node", "node", "-e", NODE)
        self.built("go", GO, "client.go", "go", "build", "-o", world.path("go-client"), GODEBUG="netdns=go")
        if self.built("java", JAVA, "Client.java", "javac", "-d", world.path("")):
            self.all("java", "java", "-Xshare:auto", "-cp", world.path(""), "Client")
        self.built("musl", MUSL, "musl-client.c", "musl-gcc", "-static", "-o", world.path("musl-client"))
        self.nginx()

    def built(self, client, text, name, compiler, *words, **environment):
        """Compiled outside of the cgroup; what has no class files is run at once."""
        if not self.present(client, compiler):
            return False
        source = self.world.write(name, text)
        harness.run(compiler, *words, source,
                    env={**os.environ, "GO111MODULE": "off", "GOCACHE": self.world.path("go")})
        program = self.world.path(f"{client}-client")
        if os.path.exists(program):
            self.all(client, program, **environment)
        return True

    def nginx(self):
        """The proxy is the client; who asks it is outside."""
        if not self.present("nginx", "nginx"):
            return
        conf = self.world.write("nginx.conf", NGINX.format(self.world.path(""), RESOLVER, PROXY, PORT))
        self.serve("nginx", "-c", conf, preexec_fn=self.guard.entry(group=self.group("nginx")))
        ask = ("curl", "-sS", "-m", "10", "-o", "/dev/null", "-g", "-w", "%{http_code}")
        base = f"http://127.0.0.1:{PROXY}/?to="
        wait_for(lambda: harness.run(*ask, base + "127.0.0.1", check=False).returncode == 0, 20, "nginx")
        for cell in CELLS:
            code = harness.run(*ask, base + written(*cell)).stdout
            self.rows["nginx"][1][cell] = "ok" if code == "200" else code

    def judge(self, listed):
        """Asserts every cell: by what the client says, and by egressd's event of what it refused."""
        wrong = []
        for client, (group, row) in self.rows.items():
            for cell, found in row.items():
                if (found == "ok") != (cell[1] == "good"):
                    wrong.append((client, *cell, found))
                elif found != "ok" and not self.event(cell, group, listed):
                    wrong.append((client, *cell, found, "no event"))
        assert not wrong, "\n".join(map(str, [*wrong, self.guard.daemon.log()[-6000:]]))
        assert all(len(row) == len(CELLS) for _, row in self.rows.values()), self.rows
        for client, program in self.missing.items():
            print(f"SKIP the row of {client}: no {program}")
        if set(self.missing) - {"node", "go", "java"}:
            raise Skip(f"no {', '.join(self.missing.values())}; test/deps installs it")

    def event(self, cell, group, listed):
        """With "queries listed" nobody gets to the address of a name that no line has. What one process asks of one
        resolver in vain is one event, with the first name. apt asks for _http._tcp.NAME first, and no more once
        that is refused."""
        name = host(*cell)

        def fits(event):
            if listed and cell[1] == "other":
                return event.get("domain", "").removeprefix("_http._tcp.") in ("v4.other.example", "v6.other.example")
            return event["addr"] == ADDRESSES.get(name, name)
        return wait_for(lambda: [each for each in self.guard.events(action="BLOCKED", gid=group) if fits(each)], 10,
                        lambda: f"an event of group {group} for {name}: {self.guard.daemon.log()[-3000:]}")


def table(world, queries):
    with guarded(world) as guard:
        clients = Clients(world, guard)
        # The name's line is a pattern: egressd itself does not look it up.
        guard.start_with(f"[egress]\n{RESOLVER}:domain * * * * allow\n*.good.example * * * * allow\n"
                         f"127.0.0.1:{PORT} * * * * allow\n* * * * * deny\n"
                         f"[dns]\nresolver {RESOLVER}\ngrace 5s\nqueries {queries}\n")
        clients.run_all()
        clients.judge(queries == "listed")
        dig(guard, queries)


def dig(guard, queries):
    """It asks and connects to nothing: which names, and which resolvers."""
    def asks(*words, patience=1):
        return guard.run("dig", "+short", "+tries=1", f"+time={patience}", *words).stdout.strip()
    for name, address in ADDRESSES.items():
        expected = address if queries == "any" or "good" in name else None
        for way in ("+notcp", "+tcp"):
            found = asks(way, name, "AAAA" if ":" in address else "A", patience=5 if expected else 1)
            assert found == expected if expected else address not in found, (name, way, found)
    for literal in LITERAL.values():
        assert "8.8.8.8" not in asks(f"@{literal}", "v4.good.example")
        assert guard.events(action="BLOCKED", addr=literal, port=53), literal


def test_the_clients(world):
    table(world, "any")


def test_the_clients_with_listed_questions(world):
    table(world, "listed")


if __name__ == "__main__":
    harness.main(globals())
