"""Tables of programs for the differential oracle.

A case is a JAX function, its arguments, and where arguments and results lie. Shardings are spelled
briefly: a word a dimension, a letter an axis, `-` for none: `"xy -"` is [["x", "y"], []].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from autopar.dialects.sharding import Grid
from tests.oracle import Dims, check

GRID = Grid("mesh", (("x", 2), ("y", 4)))
CUBE = Grid("mesh", (("x", 2), ("y", 2), ("z", 2)))


def spec(text: str | None) -> Dims | None:
    """The dimensions that a brief spelling means; None: not annotated."""
    if text is None:
        return None
    return [[] if word == "-" else list(word) for word in text.split()]


@dataclass
class Case:
    name: str
    fn: Callable[..., Any]
    args: Sequence[Any]
    shardings: Sequence[str | None]
    results: Sequence[str | None] | None
    grid: Grid
    tolerance: float

    def run(self) -> Any:
        """Checks the case; gives the per-device module."""
        return check(
            self.fn,
            self.args,
            self.grid,
            [spec(s) for s in self.shardings],
            None if self.results is None else [spec(s) for s in self.results],
            rtol=self.tolerance,
            atol=self.tolerance,
        )


class Cases:
    """A table that is filled by `add` and run by `@table.parametrize`."""

    def __init__(self) -> None:
        self._cases: list[Case] = []
        self._random = np.random.default_rng(0)

    def add(
        self,
        name: str,
        fn: Callable[..., Any],
        args: Sequence[Any],
        shardings: Sequence[str | None],
        results: Sequence[str | None] | None = None,
        *,
        grid: Grid = GRID,
        tolerance: float = 2e-5,
    ) -> None:
        assert all(case.name != name for case in self._cases), name
        self._cases.append(Case(name, fn, args, shardings, results, grid, tolerance))

    @property
    def names(self) -> list[str]:
        return [case.name for case in self._cases]

    def __getitem__(self, name: str) -> Case:
        (case,) = [case for case in self._cases if case.name == name]
        return case

    def normal(self, *shape: int) -> np.ndarray[Any, Any]:
        return self._random.normal(size=shape).astype(np.float32)

    def integers(self, high: int, *shape: int, low: int = 0) -> np.ndarray[Any, Any]:
        return self._random.integers(low, high, size=shape).astype(np.int32)

    def parametrize(self, function: Callable[[Case], None]) -> Callable[[Case], None]:
        return pytest.mark.parametrize("case", self._cases, ids=lambda case: case.name)(function)
