"""How long a search may go on: counted in work, with the clock as a safety net.

Work is the number of table entries that a step touches, plus a fee for each level of NumPy calls:
the same on every machine, so that equal input gives equal output.
"""

from __future__ import annotations

import time

UNITS_PER_SECOND = 5.0e7
"""What a core of 2020 does while others use its memory bus; slower ones meet the clock first."""
LEVEL = 1_500
"""Units for the NumPy calls of one level, however few entries it has."""
_GENEROUS = 1.3
"""A phase may take this much more of the time left than of the work left."""


class Budget:
    """Work left; parts of it can be handed to the phases of a search (`part`)."""

    def __init__(self, units: float, deadline: float, parent: Budget | None = None) -> None:
        self._units = units
        self._parent = parent
        self.deadline = deadline
        """On the clock of time.perf_counter."""
        self.clock_bound = False
        """Whether the deadline, not the work, ended a search: the result is not reproducible."""

    def spend(self, units: float) -> None:
        """Books work that was done."""
        self._units -= units
        if self._parent is not None:
            self._parent.spend(units)

    @property
    def left(self) -> float:
        """Units not spent yet."""
        return max(0.0, self._units)

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return max(0.0, self.deadline - time.perf_counter())

    @property
    def exhausted(self) -> bool:
        """Whether to stop: the work is done, or the time is up."""
        if self._units <= 0:
            return True
        if time.perf_counter() >= self.deadline:
            self.hit_clock()
            return True
        return False

    def hit_clock(self) -> None:
        """Notes that the clock ended something."""
        self.clock_bound = True
        if self._parent is not None:
            self._parent.hit_clock()

    def part(self, fraction: float, *, at_most: float = float("inf")) -> Budget:
        """A budget of its own for a phase, paid from this one.

        Its clock is as generous: on a slow machine, too, something is left for the next phase.
        """
        seconds = min(1.0, _GENEROUS * fraction) * self.seconds_left
        deadline = min(self.deadline, time.perf_counter() + seconds)
        return Budget(min(fraction * self.left, at_most), deadline, self)
