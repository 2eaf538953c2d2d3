"""Plans within a limit, by prices on memory: Lagrangian relaxation (Everett 1963).

With a price on each byte that is in use at the times when plans need most, the problem has no limit
any more, and layers that repeat are one again. The prices that give the best lower bound are found
by cutting planes (Kelley 1960): each plan that is met bounds the cost at all prices, a small linear
program finds those where these bounds are highest, and the plan that is cheapest there is the next.
Where that is not a plan that fits, all prices are raised together until it is. From plans that do
not fit, parts are then taken one by one, as long as there is room.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from .footprint import Bytes, Footprint
from .repeats import Edges, Ints, Repeats

_TURNS = 12
"""Plans that are met at most on the way to the best prices."""
_NEAR = 1e-2
"""Of the cost: prices are good whose bound is as near as this to the best that is possible, or to
the cost of a plan that fits."""
_RAISES = 1.02, 1.1, 1.3, 2.0, 4.0, 16.0
"""By how much prices are raised at last until a plan fits."""
_HIGH = 1e6
"""A price that counts for more than time: what the whole limit costs then, in plans."""
_SPREADS = 8
"""How often such prices are spread anew over the times."""
_ROUNDED = 1.0
"""Bytes by which what is in use may be off where it is added up part by part."""


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
    times: list[int]
    """At which memory had to have a price."""


Solver = Callable[[Mapping[int, float]], Priced]
"""Solves with prices: units of cost a byte at times."""


@dataclass(frozen=True)
class _Plan:
    """A plan that was met."""

    priced: Priced
    cost: int
    """Without prices."""
    used: Bytes = field(repr=False)
    """(times,)"""


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
        self._times: list[int] = []
        """At which memory has a price."""
        self._plans: list[_Plan] = []
        self._bound = -np.inf
        self._reproducible = True
        self._fitting: list[int] | None = None
        self._cost = 0
        self._lowest = footprint.least()
        """What needs least of all that was met."""

    def run(self, gap: float) -> Found:
        """Choices that fit, no dearer than this share above the bound, if prices lead there; where
        none are found, those that need least."""
        if self._fits(self._solve({}).used):
            return self._result()
        if not self._fits(self._footprint.over_time(self._lowest)) and not self._spread():
            return self._result_of(self._lowest)
        thrifty = list(self._lowest)
        self._offer(thrifty)
        self._plans.append(self._met(Priced(thrifty, -np.inf, self._plans[0].priced.repeats, True)))
        prices = self._best_prices()
        if self._cost - self._bound > max(1, gap * self._cost):
            self._raise(prices)
            self._mix(prices)
        if self._fitting == thrifty:
            self._improve()
        return self._result()

    def _best_prices(self) -> Mapping[int, float]:
        """The prices that give the best bound, or those of the last turn."""
        prices: Mapping[int, float] = {}
        for _ in range(_TURNS):
            prices, most = best_prices(
                [plan.cost for plan in self._plans],
                [plan.used[self._times] - self._limit for plan in self._plans],
                self._times,
            )
            num_times = len(self._times)
            self._solve(prices)
            is_best = most - self._bound <= max(1, _NEAR * most) and len(self._times) == num_times
            if is_best or self._cost - self._bound <= max(1, _NEAR * self._cost):
                break
        return prices

    def _raise(self, prices: Mapping[int, float]) -> None:
        """Raises all prices until a plan fits."""
        for factor in _RAISES:
            plan = self._solve({time: factor * price for time, price in prices.items()})
            if self._fits(plan.used):
                break

    def _solve(self, prices: Mapping[int, float]) -> _Plan:
        """The cheapest plan at prices; the time when it is most above the limit gets one too."""
        priced = self._solver({time: price for time, price in prices.items() if price})
        self._reproducible &= priced.reproducible
        self._bound = max(self._bound, priced.lower_bound - sum(prices.values()) * self._limit)
        plan = self._met(priced)
        self._plans.append(plan)
        worst = int(plan.used.argmax())
        if plan.used[worst] < self._footprint.peak(self._lowest):
            self._lowest = priced.choices
        if plan.used[worst] <= self._limit:
            self._offer(priced.choices)
        elif worst not in self._times:
            self._times.append(worst)
        return plan

    def _met(self, priced: Priced) -> _Plan:
        used = self._footprint.over_time(priced.choices)
        return _Plan(priced, self._cost_of(priced.choices), used)

    def _cost_of(self, choices: Sequence[int]) -> int:
        return cost_of(choices, self._costs, self._edges)

    def _result(self) -> Found:
        assert self._fitting is not None
        return self._result_of(self._fitting)

    def _result_of(self, choices: list[int]) -> Found:
        cost = self._cost_of(choices)
        bound = min(cost, ceil(self._bound))
        return Found(choices, cost, bound, self._reproducible, list(self._times))

    def _spread(self) -> bool:
        """Looks for a plan that fits where memory is dear: the higher the price of a time, the more
        plans need then (multiplicative weights); whether one does. One price for all would make
        the sum over these times small, not the most."""
        whole = _HIGH * max(1, self._plans[0].cost) / self._limit
        weights: dict[int, float] = {}
        for turn in range(1, _SPREADS + 1):
            weights.update((time, 1.0) for time in self._times if time not in weights)
            total = sum(weights.values())
            plan = self._solve({time: whole * own / total for time, own in weights.items()})
            if self._fits(plan.used):
                return True
            for time in weights:
                weights[time] *= float(np.exp((plan.used[time] / plan.used.max() - 1) / turn))
        return False

    def _fits(self, used: Bytes) -> bool:
        return ceil(used.max()) <= self._limit

    def _offer(self, choices: list[int]) -> None:
        cost = self._cost_of(choices)
        if self._fitting is None or cost < self._cost:
            self._fitting, self._cost = choices, cost

    def _improve(self) -> None:
        """Takes for each node what is cheaper by itself and still fits."""
        assert self._fitting is not None
        choices = list(self._fitting)
        for node, costs in enumerate(self._costs):
            totals = costs.copy()
            for one, two in self._around[node]:
                table = self._edges[one, two]
                totals += table[:, choices[two]] if one == node else table[choices[one]]
            for choice in totals.argsort(kind="stable").tolist():
                if totals[choice] >= totals[choices[node]]:
                    break
                trial = [*choices[:node], choice, *choices[node + 1 :]]
                if self._fits(self._footprint.over_time(trial)):
                    choices = trial
                    break
        self._offer(choices)

    def _mix(self, prices: Mapping[int, float]) -> None:
        """Takes parts from the best plan at prices that does not fit, those first that gain most
        for their bytes."""
        assert self._fitting is not None
        choices = list(self._fitting)
        others = [plan for plan in self._plans if not self._fits(plan.used)]
        over = min(
            others,
            key=lambda plan: (
                plan.cost + sum(price * plan.used[time] for time, price in prices.items())
            ),
        ).priced
        room = [self._footprint.at(time) for time in self._times]

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
        used = self._footprint.over_time(choices)
        chosen, other = np.array(choices), np.array(over.choices)
        for part in sorted(parts, key=worth, reverse=True):
            if self._gain(part, choices, over.choices) <= 0:
                continue
            trial = chosen.copy()
            trial[part] = other[part]
            then = self._footprint.over_time_instead(used, chosen, trial, part)
            if self._fits(then + _ROUNDED):
                chosen, used = trial, then
                choices = chosen.tolist()
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


def cost_of(choices: Sequence[int], costs: Sequence[Ints], edges: Edges) -> int:
    """What a choice for each node costs, by what nodes and edges cost."""
    nodes = sum(int(own[c]) for own, c in zip(costs, choices, strict=True))
    return nodes + sum(int(t[choices[u], choices[v]]) for (u, v), t in edges.items())


def best_prices(
    costs: Sequence[int], above: Sequence[Bytes], times: Sequence[int]
) -> tuple[dict[int, float], float]:
    """The prices a byte at `times` for which the cheapest of some plans is dearest, and what it
    costs then: plans of these costs, which are so many bytes (times,) above the limit; one of them
    is below it at all times."""
    # Imported here, as it takes long to load; OR-Tools states few types.
    from ortools.math_opt.python import mathopt  # pyright: ignore[reportMissingTypeStubs]

    cost, size = max(1, *map(abs, costs)), max(1.0, *(float(abs(own).max()) for own in above))
    model = mathopt.Model()
    bound = model.add_variable(lb=-np.inf)
    prices = [model.add_variable(lb=0.0) for _ in times]
    for own, excess in zip(costs, above, strict=True):
        paid = mathopt.fast_sum(
            price * float(over) / size for price, over in zip(prices, excess, strict=True)
        )
        model.add_linear_constraint(  # pyright: ignore[reportUnknownMemberType]
            bound <= own / cost + paid
        )
    model.maximize(bound)
    result = mathopt.solve(model, mathopt.SolverType.GLOP)
    found = result.variable_values(prices)
    return (
        {time: price * cost / size for time, price in zip(times, found, strict=True)},
        result.objective_value() * cost,
    )
