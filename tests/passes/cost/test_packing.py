"""The room that buffers take, each in one piece."""

from __future__ import annotations

from random import Random

import pytest

from autopar.passes.cost.packing import Span, packed


def _most(spans: list[Span]) -> int:
    times = {span.first for span in spans}
    return max(sum(s.size for s in spans if s.first <= time <= s.last) for time in times)


def test_what_is_in_use_at_other_times_takes_the_same_room() -> None:
    assert packed([Span(8, 0, 1), Span(8, 2, 3), Span(4, 2, 5), Span(4, 4, 5)], 12) == 12
    assert packed([], 0) == 0


def test_a_large_one_needs_room_in_one_piece() -> None:
    """The spans of a perceptron's step, as XLA put them: two of 16 MiB are in use before the one of
    32, below which the last of them may not lie."""
    spans = [Span(16, *times) for times in ((0, 39), (6, 35), (8, 9), (34, 37), (37, 42))]
    spans.append(Span(32, 42, 58))
    assert _most(spans) == 48
    assert packed(spans, 48) == 64


def test_small_ones_lie_in_gaps() -> None:
    assert packed([Span(1024, 0, 9), *(Span(1, t, t) for t in range(10))], 1025) == 1025


@pytest.mark.parametrize("seed", range(20))
def test_never_less_than_is_in_use_at_once(seed: int) -> None:
    random = Random(seed)
    spans = [
        Span(random.randint(1, 9), first, first + random.randint(0, 6))
        for first in (random.randint(0, 30) for _ in range(60))
    ]
    least = _most(spans)
    assert least <= packed(spans, least) < 2 * least
