"""redis-py through a VIP: `redis_py.py NAME HOST PORT`. All options are the library's defaults.

An application that catches redis-py's errors and calls again. NAME makes its keys its own.
"""

import sys
import threading
import time

import redis

from report import AGAIN, IDLE, Use, report, start

NAME, HOST, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


def client():
    return redis.Redis(host=HOST, port=PORT, decode_responses=True)


def again(use, call):
    """Calls until there is an answer."""
    while True:
        try:
            return call()
        except redis.RedisError as error:
            use.error(type(error).__name__, str(error))
            time.sleep(AGAIN)


def pool(pooled, moved):
    """Threads that share a pool, busy all the time."""
    use = Use("pool")
    while True:
        by = again(use, lambda: pooled.get("whoami"))
        if use.served(by) and by != "m1":
            moved.set()
        time.sleep(0.005)


def idle(pooled, moved):
    """Connections that wait in the pool while the failover happens, and are taken out together afterwards."""
    use = Use("idle")
    for wait in (lambda: None, lambda: moved.wait() and time.sleep(IDLE)):
        wait()
        taken = [pooled.client() for _ in range(4)]
        for one in taken:
            use.served(again(use, lambda: one.get("whoami")))
        for one in taken:
            one.close()


def blocked():
    use, connection = Use("blocked"), client()
    use.served(again(use, lambda: connection.get("whoami")))
    use.served(again(use, lambda: connection.blpop([f"blocked:{NAME}"], timeout=0))[1])


def subscribed():
    use, subscription = Use("subscribed"), client().pubsub()
    again(use, lambda: subscription.subscribe("news"))
    while True:
        message = again(use, lambda: next(subscription.listen()))
        if message["type"] == "message":
            use.served(message["data"])


def pipeline():
    """The first command is done, the second waits, when the member fails: a pipeline in flight."""
    use, connection = Use("pipeline"), client()
    use.served(again(use, lambda: connection.get("whoami")))

    def call():
        pipe = connection.pipeline(transaction=False)
        pipe.incr(f"tried:{NAME}").blpop([f"pipeline:{NAME}"], timeout=0).get("whoami")
        return pipe.execute()[2]

    use.served(again(use, call))


shared, moved = client(), threading.Event()
start(idle, shared, moved).join(1)
for work in (lambda: pool(shared, moved), lambda: pool(shared, moved), blocked, subscribed, pipeline):
    start(work)
report("all", "started")
threading.Event().wait()
