"""Who is still there: each rank says so every second, and leaves a word when it ends.

A closed connection tells that a peer is gone, not which one. So this goes over the store at which
the ranks met, past the exchanges that may be stuck. Rank 0 holds the store: without it, it is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

BEAT_S = 1.0  #: between two signs of life
SILENCE_S = 8.0  #: without one a rank is taken for gone


class Presence:
    """This rank's signs of life, and what it knows of the others'."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self._rank = store, rank
        self._peers = [peer for peer in range(size) if peer != rank]
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="presence", daemon=True).start()

    def leave(self, words: str) -> None:
        """Tell the others why this rank ends, before its connections close; only once."""
        if not self._over.is_set():
            self._over.set()
            self._say("left", words)

    def absent(self, *, closed: bool) -> dict[int, str]:
        """The ranks that are gone, each with the words it left; none: all are there, one is stuck.

        Args:
            closed: a connection was closed, so at least one is: the last that is not heard of.
        """
        enough = len(self._peers) - closed
        try:
            before = {peer: self._read("beat", peer) for peer in self._peers}
            self._say("searching", "")  # who leaves for this reason was there
            deadline = time.monotonic() + SILENCE_S
            while True:
                gone = self._not_heard(before)
                if len(self._peers) - len(gone) >= enough or time.monotonic() > deadline:
                    return gone
                time.sleep(BEAT_S / 10)
        except RuntimeError:
            return {0: ""}

    def _not_heard(self, before: dict[int, str | None]) -> dict[int, str]:
        gone = {}
        for peer in self._peers:
            words = self._read("left", peer)
            heard = words is None and self._read("beat", peer) != before[peer]
            if not heard and self._read("searching", peer) is None:
                gone[peer] = words or ""
        return gone

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT_S):
            count += 1
            if not self._say("beat", str(count)):
                return

    def _say(self, kind: str, words: str) -> bool:
        with contextlib.suppress(RuntimeError):  # no store any more
            self._store.set(f"{kind}/{self._rank}", words)
            return True
        return False

    def _read(self, kind: str, peer: int) -> str | None:
        key = f"{kind}/{peer}"
        return str(self._store.get(key).decode()) if self._store.check([key]) else None
