"""A run that holds a lock, in a process of its own, for tests that stop or kill it, or race several.

locker.py HOST LEASE_S: reads lines from standard input and answers each with one line. HOST: "here", or the
name of another host that this process takes itself for. "lock PLACE" answers "won EPOCH", or "refused" with
the reason; "check", "guard" and "lost" answer for the lock held; "free" releases it.
"""

import sys

from skysom.cluster import marks
from skysom.cluster.errors import FencedError, LockedError
from skysom.cluster.lock import OutputLock
from skysom.storage.place import place


def main(host: str, lease_s: float) -> None:
    if host != "here":
        marks.identity = lambda: {"host": host, "boot": f"boot of {host}", "pid_namespace": "pid:[1]"}
    lock = guard = None
    for line in sys.stdin:
        word, _, path = line.strip().partition(" ")
        try:
            if word == "lock":
                lock = OutputLock(place(path), lease_s=lease_s).__enter__()
                guard = lock.guard()
                answer = f"won {lock.epoch} {lock.taken_over}"
            elif word == "free":
                lock.__exit__(None, None, None)
                answer = "freed"
            elif word == "lost":
                answer = str(lock.lost)
            else:
                {"check": lock.check, "guard": guard}[word]()
                answer = "fine"
        except (LockedError, FencedError) as error:
            answer = f"refused {error}".replace("\n", " ")
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
