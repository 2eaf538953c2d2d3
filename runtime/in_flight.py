"""How many runs with collectives are under way at once on virtual devices, in this process.

A run holds a thread for each device until all have come to a collective; the threads are those of
one pool, whatever program and Python thread the run is of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Condition, local
from typing import Any

from .devices import runs_in_flight


class Slot:
    """The place of one run; its `token` tells when the run has ended."""

    token: Any = None


class InFlight:
    """The runs under way, at most `limit()` of them."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._changed = Condition()
        self._taken = 0
        self._tokens: deque[Any] = deque()
        """Of the runs that are under way; others take a slot and are about to start."""
        self._thread = local()

    @contextmanager
    def inside_a_run(self) -> Generator[None]:
        """For host callbacks: runs that start inside take no slot, since the run that waits for the
        callback keeps its own."""
        before = getattr(self._thread, "inside", False)
        self._thread.inside = True
        try:
            yield
        finally:
            self._thread.inside = before

    @contextmanager
    def slot(self) -> Generator[Slot]:
        """Waits until a run may start, which it does inside, and keeps its token."""
        slot = Slot()
        if getattr(self._thread, "inside", False):
            yield slot
            return
        earlier = self._take()
        try:
            if earlier is not None:
                earlier.block_until_ready()
            yield slot
        finally:
            with self._changed:
                if slot.token is None:
                    self._taken -= 1
                else:
                    self._tokens.append(slot.token)
                self._changed.notify()

    def _take(self) -> Any:
        """Takes a free slot, or that of the earliest run: its token is to be waited for."""
        with self._changed:
            while self._taken >= self._limit() and not self._tokens:
                self._changed.wait()
            if self._taken < self._limit():
                self._taken += 1
                return None
            return self._tokens.popleft()


in_flight = InFlight(runs_in_flight)
"""Those of this process."""
