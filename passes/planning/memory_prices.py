"""Plans within a limit, by a price on memory: Lagrangian relaxation (Everett 1963).

With a price on each byte that is in use at the worst times the problem has no limit any more, and
layers that repeat are one again. The least price whose plan fits is found by bisection; every price
gives a lower bound on all plans that fit. Between the plans on both sides of that price, parts are
then changed one by one, as long as there is room. Where no price leads to a plan that fits, each
time gets one of its own; the parts are changed from the thriftiest plan on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from .footprint import Footprint
from .repeats import Edges, Ints, Repeats

_FIRST = 0.01
"""Of what the whole limit costs at first, as a share of the plan without a limit."""
_GROWTH = 8.0
_MOST = 1e15
"""Costs that sums stay exact with."""
_BISECTIONS = 12
_SPREADS = 8
"""How often prices that lead to no plan that fits are spread anew over the times."""
_NEAR = 1.02
"""Prices that are as near as this to each other are not told apart."""


@dataclass(frozen=True)
class Priced:
    """The solution of a problem with prices on memory."""

    choices: list[int]
    lower_bound: float
    """Of the priced problem."""
    repeats: Repeats
    reproducible: bool


@dataclass(frozen=True)
class Found:
    """The best choices within a limit."""

    choices: list[int]
    cost: int
    lower_bound: int
    reproducible: bool
    is_priced: bool
    """Whether memory had to have a price."""


Solver = Callable[[Mapping[int, float]], Priced]
"""Solves with prices: units of cost a byte at times."""


class MemoryPrices:
    """The search for one limit."""

    def __init__(
        self, solver: Solver, footprint: Footprint, costs: Sequence[Ints], edges: Edges, limit: int
    ) -> None:
        self._solver, self._footprint, self._limit = solver, footprint, limit
        self._costs, self._edges = costs, edges
        self._around: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for ends in edges:
            for end in ends:
                self._around[end].append(ends)
        self._weights: dict[int, float] = {}
        """The times at which memory has a price, and their shares of it."""
        self._bound = -np.inf
        self._reproducible = True
        self._fitting: list[int] | None = None
        self._cost = 0
        self._lowest = footprint.least()
        """What needs least of all that was met."""

    def run(self, gap: float) -> Found:
        """Choices that fit, no dearer than this share above the bound, if prices lead there; where
        none are found, those that need least."""
        over = self._solve(0.0)
        if self._fitting is not None:
            return self._result()
        first = _FIRST * self.cost_of(over.choices) / self._limit
        low, high = 0.0, first
        while True:
            tried = self._solve(high)
            if self._fits(tried.choices):
                break
            low, over = high, tried
            high *= _GROWTH
            if high * self._limit > _MOST:
                if self._spread(low):
                    low, high = first, low
                    break
                if not self._thriftiest():
                    return self._result_of(self._lowest)
                high = low
                break
        for _ in range(_BISECTIONS):
            if high <= _NEAR * low or self._cost - self._bound < max(1, gap * self._cost):
                break
            middle = sqrt(low * high) if low else high / _GROWTH
            tried = self._solve(middle)
            if self._fits(tried.choices):
                high = middle
            else:
                low, over = middle, tried
        self._mix(over)
        return self._result()

    def cost_of(self, choices: Sequence[int]) -> int:
        """What choices cost without prices."""
        nodes = sum(int(costs[c]) for costs, c in zip(self._costs, choices, strict=True))
        return nodes + sum(int(t[choices[u], choices[v]]) for (u, v), t in self._edges.items())

    def _result(self) -> Found:
        assert self._fitting is not None
        return self._result_of(self._fitting)

    def _result_of(self, choices: list[int]) -> Found:
        cost = self.cost_of(choices)
        bound = min(cost, ceil(self._bound))
        return Found(choices, cost, bound, self._reproducible, bool(self._weights))

    def _solve(self, price: float) -> Priced:
        """Solves at a price; times at which the plan is above the limit get it too."""
        while True:
            prices = {time: price * weight for time, weight in self._weights.items()}
            tried = self._solver(prices)
            self._reproducible &= tried.reproducible
            bound = tried.lower_bound - sum(prices.values()) * self._limit
            self._bound = max(self._bound, bound)
            used = self._footprint.over_time(tried.choices)
            worst = int(used.argmax())
            if used[worst] < self._footprint.peak(self._lowest):
                self._lowest = tried.choices
            if used[worst] <= self._limit:
                self._offer(tried.choices)
                return tried
            if worst in self._weights:
                return tried
            self._weights[worst] = max(self._weights.values(), default=1.0)
            if not price:
                return tried

    def _spread(self, price: float) -> bool:
        """Gives each time a price of its own, the higher the more plans need then, until the plan
        fits (multiplicative weights); whether one does. One price for all makes the sum over these
        times small, not the most."""
        for turn in range(1, _SPREADS + 1):
            tried = self._solve(price)
            if self._fits(tried.choices):
                return True
            used = self._footprint.over_time(tried.choices)
            for time in self._weights:
                self._weights[time] *= float(np.exp((used[time] / used.max() - 1) / turn))
        return False

    def _fits(self, choices: Sequence[int]) -> bool:
        return self._footprint.peak(choices) <= self._limit

    def _offer(self, choices: list[int]) -> None:
        cost = self.cost_of(choices)
        if self._fitting is None or cost < self._cost:
            self._fitting, self._cost = choices, cost

    def _thriftiest(self) -> bool:
        """Offers the choices that need least, and for each what is cheaper by itself; whether these
        fit."""
        choices = self._lowest
        if not self._fits(choices):
            return False
        for node, costs in enumerate(self._costs):
            totals = costs.copy()
            for one, two in self._around[node]:
                table = self._edges[one, two]
                totals += table[:, choices[two]] if one == node else table[choices[one]]
            for choice in totals.argsort(kind="stable").tolist():
                if totals[choice] >= totals[choices[node]]:
                    break
                trial = [*choices[:node], choice, *choices[node + 1 :]]
                if self._fits(trial):
                    choices = trial
                    break
        self._offer(choices)
        return True

    def _mix(self, over: Priced) -> None:
        """Takes parts from a plan that does not fit, those first that gain most for their bytes."""
        assert self._fitting is not None
        choices = list(self._fitting)
        room = [self._footprint.at(time) for time in self._weights]

        def worth(part: Sequence[int]) -> float:
            taken = sum(
                max(0.0, float(row[v][over.choices[v]] - row[v][choices[v]]))
                for row in room
                for v in part
                if v in row
            )
            return self._gain(part, choices, over.choices) / max(taken, 1.0)

        changed = {v for v, (a, b) in enumerate(zip(choices, over.choices, strict=True)) if a != b}
        parts = [part for part in over.repeats.parts if not changed.isdisjoint(part)]
        for part in sorted(parts, key=worth, reverse=True):
            if self._gain(part, choices, over.choices) <= 0:
                continue
            trial = list(choices)
            for node in part:
                trial[node] = over.choices[node]
            if self._fits(trial):
                choices = trial
        self._offer(choices)

    def _gain(self, part: Sequence[int], have: Sequence[int], other: Sequence[int]) -> float:
        """What it saves to choose as another plan does for the nodes of one part."""
        inside = set(part)
        edges = {ends for node in part for ends in self._around[node]}
        gain = sum(int(self._costs[v][have[v]]) - int(self._costs[v][other[v]]) for v in part)
        for u, v in edges:
            one = other[u] if u in inside else have[u]
            two = other[v] if v in inside else have[v]
            table = self._edges[u, v]
            gain += int(table[have[u], have[v]]) - int(table[one, two])
        return gain
