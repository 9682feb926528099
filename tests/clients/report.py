"""What the Python clients share: JSON lines on standard output, and an application that goes on after an error.

A line says when (CLOCK_MONOTONIC, as the test reads it), which use of the client, and what happened: `served` by a
member, `error` that the application was given by a call, `event` that the library said besides.
"""

import json
import sys
import threading
import time

# What an application waits before it calls again after an error, in seconds.
AGAIN = 0.01
# How long an idle connection stays unused after the failover, in seconds.
IDLE = 0.3

_lock = threading.Lock()


def report(use, event, **more):
    """One line, whole, whoever else reports."""
    with _lock:
        json.dump({"at": time.monotonic(), "use": use, "event": event, **more}, sys.stdout)
        print(flush=True)


class Use:
    """One use of a client: reports who serves it, when that changes or an error came between."""

    def __init__(self, name):
        self.name = name
        self.by = None

    def served(self, by):
        """Answers whether this is news."""
        news = by != self.by
        if news:
            self.by = by
            report(self.name, "served", by=by)
        return news

    def error(self, kind, text):
        self.by = None
        report(self.name, "error", type=kind, text=text)


def start(work, *arguments):
    """Runs on a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread
