"""Log-ins on an sshd as fast as it serves them: libssh, in threads.

    logins.py ADDRESS PORT USER NUMBER THREADS PASSWORD...

NUMBER connections, each of which tries these passwords one after the other. Prints how many tries got
in and how many were refused.
"""

import ctypes
import sys
import threading

LIBRARY = "libssh.so.4"
SUCCESS = 0
HOST, PORT, USER, TIMEOUT, NODELAY, PROCESS_CONFIG = 0, 1, 4, 9, 36, 38  # ssh_options_e of libssh


def load():
    library = ctypes.CDLL(LIBRARY)
    for name, result, arguments in (
            ("ssh_new", ctypes.c_void_p, []),
            ("ssh_options_set", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]),
            ("ssh_connect", ctypes.c_int, [ctypes.c_void_p]),
            ("ssh_userauth_password", ctypes.c_int,
             [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]),
            ("ssh_get_error", ctypes.c_char_p, [ctypes.c_void_p]),
            ("ssh_disconnect", None, [ctypes.c_void_p]), ("ssh_free", None, [ctypes.c_void_p])):
        getattr(library, name).restype = result
        getattr(library, name).argtypes = arguments
    return library


class Session:
    """One connection, after its key exchange."""

    def __init__(self, library, address, port, user):
        self.library = library
        self.session = library.ssh_new()
        for option, value in ((PROCESS_CONFIG, ctypes.byref(ctypes.c_bool(False))),
                              (NODELAY, ctypes.byref(ctypes.c_int(1))),
                              (HOST, address.encode()), (PORT, ctypes.byref(ctypes.c_uint(port))),
                              (USER, user.encode()), (TIMEOUT, ctypes.byref(ctypes.c_long(120)))):
            library.ssh_options_set(self.session, option, value)
        if library.ssh_connect(self.session) != SUCCESS:
            raise OSError(library.ssh_get_error(self.session).decode(errors="replace"))

    def try_password(self, password):
        return self.library.ssh_userauth_password(self.session, None, password.encode()) == SUCCESS

    def close(self):
        self.library.ssh_disconnect(self.session)
        self.library.ssh_free(self.session)


def main(address, port, user, number, threads, *passwords):
    library = load()
    left = iter(range(int(number)))
    lock = threading.Lock()
    tally = {True: 0, False: 0}

    def work():
        while True:
            with lock:
                if next(left, None) is None:
                    return
            session = Session(library, address, int(port), user)
            for password in passwords:
                good = session.try_password(password)
                with lock:
                    tally[good] += 1
            session.close()
    workers = [threading.Thread(target=work) for _ in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(tally[True], "in", tally[False], "refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
