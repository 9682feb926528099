"""redis-cli through a VIP: `redis_cli.py NAME HOST PORT`. Types into interactive redis-cli processes, as a person does.

redis-cli has no pool: `pool` is a redis-cli that is typed into all the time. A pipeline is `redis-cli --pipe`.
"""

import subprocess
import sys
import threading
import time

from report import AGAIN, IDLE, Use, report, start

NAME, HOST, PORT = sys.argv[1:4]
COMMAND = ["redis-cli", "-h", HOST, "-p", PORT]
# How redis-cli begins a line that is no answer.
TROUBLE = ("Error: ", "Could not connect to Redis")


class Terminal:
    """An interactive redis-cli; started again when it ended, as a person would."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(COMMAND, **pipes, text=True, bufsize=1)

    def line(self):
        """The next line that is not empty."""
        for line in map(str.strip, self.process.stdout):
            if line:
                return line
        raise EOFError

    def ask(self, use, line, answers=1):
        """Types a line until it is answered with so many lines, and returns the last."""
        while True:
            try:
                self.process.stdin.write(line + "\n")
                lines = []
                while len(lines) < answers:
                    lines.append(self.line())
                    if lines[-1].startswith(TROUBLE):
                        use.error("", lines[-1])
                        break
                else:
                    return lines[-1]
            except (EOFError, BrokenPipeError):
                use.error("", f"exit status {self.process.wait()}")
                self.__init__()
            time.sleep(AGAIN)


def pool(moved):
    use, terminal = Use("pool"), Terminal()
    while True:
        by = terminal.ask(use, "GET whoami")
        if use.served(by) and by != "m1":
            moved.set()
        time.sleep(0.005)


def idle(moved):
    use, terminal = Use("idle"), Terminal()
    use.served(terminal.ask(use, "GET whoami"))
    moved.wait()
    time.sleep(IDLE)
    use.served(terminal.ask(use, "GET whoami"))


def blocked():
    use, terminal = Use("blocked"), Terminal()
    use.served(terminal.ask(use, "GET whoami"))
    use.served(terminal.ask(use, f"BLPOP blocked:{NAME} 0", 2))


def subscribed():
    """redis-cli ends when a subscription is lost, so this one stands in a loop, as in a shell."""
    use = Use("subscribed")
    while True:
        process = subprocess.Popen(
            [*COMMAND, "SUBSCRIBE", "news"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in map(str.strip, process.stdout):
            if line.startswith(TROUBLE):
                use.error("", line)
            # Three lines say what is subscribed to, and three are a message.
            elif line not in ("subscribe", "message", "news", "1", ""):
                use.served(line)
        use.error("", f"exit status {process.wait()}")
        time.sleep(AGAIN)


def pipeline():
    """A file of commands for `redis-cli --pipe`, of which the second waits."""
    use = Use("pipeline")
    commands = f"INCR tried:{NAME}\r\nBLPOP pipeline:{NAME} 0\r\n"
    use.served(Terminal().ask(use, "GET whoami"))
    while True:
        done = subprocess.run([*COMMAND, "--pipe"], input=commands, text=True, capture_output=True, check=False)
        if done.returncode == 0:
            break
        for line in filter(None, map(str.strip, done.stderr.splitlines())):
            use.error("", line)
        use.error("", f"exit status {done.returncode}")
        time.sleep(AGAIN)
    use.served(Terminal().ask(use, "GET whoami"))


moved = threading.Event()
for work in (lambda: pool(moved), lambda: idle(moved), blocked, subscribed, pipeline):
    start(work)
report("all", "started")
threading.Event().wait()
