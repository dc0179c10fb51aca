"""How a demonstration speaks: what is about to happen, what happened and when, commands and their output."""

import os
import sys
import time

COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
started = time.monotonic()


def seconds():
    """Since the demonstration began."""
    return time.monotonic() - started


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def say(text):
    print(f"\n{paint('1;34', '==')} {paint('1', text)}", flush=True)


def note(text):
    print(f"   {paint('2', f'{seconds():5.1f} s')}  {text}", flush=True)


def good(text):
    note(paint("32", text))


def bad(text):
    note(paint("31", text))


def show(command, output):
    print(f"   {paint('33', '# ' + command)}")
    for line in output.rstrip().splitlines():
        print(f"   {line}")
    sys.stdout.flush()
