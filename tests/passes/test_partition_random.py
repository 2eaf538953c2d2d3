"""Random programs, grids and shardings through the differential oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.random_jax import Generator


class HypothesisChooser:
    """Choices that hypothesis makes, and shrinks."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def one_of(self, options: Sequence[Any]) -> Any:
        return self._data.draw(st.sampled_from(options))

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def chance(self, percent: int) -> bool:
        return self._data.draw(st.integers(0, 99)) < percent


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_random_programs(data: st.DataObject) -> None:
    chooser = HypothesisChooser(data)
    program = Generator(chooser, steps=chooser.integer(1, 5)).program()
    program.check()
