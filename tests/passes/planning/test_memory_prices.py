"""Prices on memory: what they find fits, and the bound that they give holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

import numpy as np
import pytest

from autopar.passes.planning.footprint import Bytes, Footprint
from autopar.passes.planning.memory_prices import MemoryPrices, Priced, best_prices
from autopar.passes.planning.repeats import Ints, Repeats

NODES, CHOICES, TIMES = 6, 3, 4


class _Problem:
    """A random problem, solved by trying everything; in the place of a footprint too."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.costs: list[Ints] = [random.integers(0, 100, CHOICES) for _ in range(NODES)]
        self.edges = {
            (u, u + 1): random.integers(0, 40, (CHOICES, CHOICES)) for u in range(NODES - 1)
        }
        self.usages = random.integers(0, 100, (TIMES, NODES, CHOICES)).astype(np.float64)
        self.all = list(product(range(CHOICES), repeat=NODES))

    def over_time(self, chosen: Sequence[int]) -> Bytes:
        return self.usages[:, np.arange(NODES), list(chosen)].sum(axis=1)

    def over_time_instead(
        self, used: Bytes, chosen: Ints, other: Ints, nodes: Sequence[int]
    ) -> Bytes:
        assert all(
            a == b for v, (a, b) in enumerate(zip(chosen, other, strict=True)) if v not in nodes
        )
        assert (used == self.over_time(chosen.tolist())).all()
        return self.over_time(other.tolist())

    def peak(self, chosen: Sequence[int]) -> int:
        return int(self.over_time(chosen).max())

    def at(self, time: int) -> dict[int, Bytes]:
        return dict(enumerate(self.usages[time]))

    def least(self) -> list[int]:
        return list(min(self.all, key=self.peak))

    def cost(self, chosen: Sequence[int], prices: Mapping[int, float]) -> float:
        own = sum(int(self.costs[v][c]) for v, c in enumerate(chosen))
        pairs = sum(int(table[chosen[u], chosen[v]]) for (u, v), table in self.edges.items())
        used = self.over_time(chosen)
        return own + pairs + sum(price * float(used[time]) for time, price in prices.items())

    def solve(self, prices: Mapping[int, float]) -> Priced:
        best = min(self.all, key=lambda chosen: self.cost(chosen, prices))
        alone = [[node] for node in range(NODES)]
        return Priced(list(best), self.cost(best, prices), Repeats(alone, alone), True)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_between_the_bound_and_the_best(seed: int, share: float) -> None:
    problem = _Problem(seed)
    peaks = [problem.peak(chosen) for chosen in problem.all]
    free = problem.peak(problem.solve({}).choices)
    limit = int(min(peaks) + share * (free - min(peaks)))
    best = min(
        problem.cost(c, {}) for c, peak in zip(problem.all, peaks, strict=True) if peak <= limit
    )
    footprint = cast("Footprint", problem)
    prices = MemoryPrices(problem.solve, footprint, problem.costs, problem.edges, limit)
    found = prices.run(gap=0.0)
    assert problem.peak(found.choices) <= limit
    assert found.cost == problem.cost(found.choices, {}) >= best
    assert found.lower_bound <= best
    assert found.cost <= 2 * best


def test_no_price_where_the_limit_does_not_bind() -> None:
    problem = _Problem(0)
    free = problem.solve({})
    prices = MemoryPrices(
        problem.solve, cast("Footprint", problem), problem.costs, problem.edges, 10**6
    )
    found = prices.run(gap=0.0)
    assert (found.choices, found.cost) == (free.choices, found.lower_bound)


def test_each_time_a_price_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices that need less at the worst time than others, but more at two times together."""
    problem = _Problem(0)
    problem.all = [(choice,) * NODES for choice in range(CHOICES)]
    problem.usages[:] = 0
    problem.usages[:2, 0] = [[100, 0, 50], [0, 90, 42]]
    monkeypatch.setattr(problem, "least", lambda: [0] * NODES)
    footprint = cast("Footprint", problem)
    found = MemoryPrices(problem.solve, footprint, problem.costs, problem.edges, 60).run(gap=0.0)
    assert problem.peak(found.choices) <= 60


def test_the_best_prices_are_where_the_cheapest_plan_is_dearest() -> None:
    """One plan 30 above the limit, one 10 below and dearer by 80: 2 a byte; and a time at which
    both have room has no price."""
    prices, cost = best_prices(
        [100, 180], [np.array([30.0, -5.0]), np.array([-10.0, -5.0])], [3, 7]
    )
    assert prices == {3: pytest.approx(2.0), 7: 0.0}
    assert cost == pytest.approx(160.0)
