"""How much room buffers take that lie next to each other, each in one piece.

Those in use at once may need more than the sum of their bytes, as none is moved while it is in use.
XLA puts the largest first, each into the smallest gap that it fits into, else on top, once by size
and once by how long they are in use, and takes what is less (`GlobalDecreasingSizeBestFitHeap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SMALL = 1 / 512
"""Buffers below this share of the most bytes in use lie in gaps."""

_Ints = NDArray[np.int64]


class Span(NamedTuple):
    """A buffer: its bytes, and the first and last time at which it is in use."""

    size: int
    first: int
    last: int


def packed(spans: Sequence[Span], least: int) -> int:
    """The bytes that buffers take, of which `least` are in use at once at most."""
    large = [span for span in spans if span.size > _SMALL * least]
    if not large:
        return least
    size, first, last = np.array(large, np.int64).T
    found = _height(size, first, last, np.lexsort((first, first - last, -size)))
    if found > least:
        by_time = np.lexsort((first, -size, first - last))
        found = min(found, _height(size, first, last, by_time))
    return max(found, least)


def _height(size: _Ints, first: _Ints, last: _Ints, order: NDArray[np.intp]) -> int:
    """The end of the highest buffer where they are put in this order."""
    size, first, last = size[order], first[order], last[order]
    offset = np.zeros_like(size)
    for place in range(1, len(size)):
        met = (first[:place] <= last[place]) & (first[place] <= last[:place])
        below = np.flatnonzero(met)
        if not len(below):
            continue
        starts = offset[below]
        upwards = np.argsort(starts, kind="stable")
        starts = starts[upwards]
        ends = np.maximum.accumulate(starts + size[below[upwards]])
        floors = np.concatenate(([0], ends))
        gaps = starts - floors[:-1]
        fits = np.flatnonzero(gaps >= size[place])
        offset[place] = floors[fits[gaps[fits].argmin()]] if len(fits) else floors[-1]
    return int((offset + size).max())
