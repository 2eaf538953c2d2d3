"""Memory as prices: Lagrange multipliers on the live sets, a lower bound, and priced choices.

With a price per byte at each live set the problem has no memory limit, and `messages` bounds it
from below; that bound less prices x limit is one on the real problem. Prices grow and shrink by
factors that follow the overload of priced choices (exponentiated gradient, Kivinen and Warmuth
1997): with thousands of live sets of which a few dozen bind, this is far ahead of additive
subgradient steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Arrays, segment_argmin
from .budget import Budget
from .forests import Forest, best_choice, boundary_costs, forest_work, random_forest
from .graph import Floats
from .local_search import Incumbent, bent
from .messages import Messages
from .problem import Ints

_RATE = 3.0
"""Of the exponent, per limit of overload, at first."""
_PATIENCE = 6
"""Steps without a better bound after which the rate falls."""
_PRICE_FIRST = 1.0
"""What the whole limit costs at first, summed over time, as a share of an unpriced choice."""
_SWEEPS_FIRST = 30
_CHOOSE_EVERY = 4
"""Steps between choices for the incumbent; the others take the best beliefs' load."""
_FORESTS = 8
_STEPS_EACH = 24
_RATE_EACH = 0.6
_SCALE = 0.5
_BEND = 0.3
"""How far from the best prices a new start begins, as exponents: all together, along time."""


@dataclass
class Dual:
    """The best bound so far and the prices that gave it."""

    bound: float
    """No choice that fits costs less (up to rounding)."""
    prices: Floats
    """(T,), per byte."""


class Ascent:
    """Raises the bound step by step; what it finds on the way goes to the incumbent."""

    def __init__(self, arrays: Arrays, incumbent: Incumbent, random: np.random.Generator) -> None:
        self.arrays = arrays
        self.messages = Messages(arrays)
        self.incumbent = incumbent
        self.best = Dual(-np.inf, np.zeros(len(arrays.limit)))
        self._random = random
        self._forests: list[Forest] = []
        self._prices = self.best.prices
        self._steps = 0

    def run(self, budget: Budget) -> Dual:
        """Steps until the budget is spent, or the bound meets the best choice."""
        for _ in range(_SWEEPS_FIRST):
            if budget.exhausted:
                break
            self.messages.sweep(self.arrays.unary)
            budget.spend(self.messages.sweep_work)
        self._first_prices(budget)
        rate, since = _RATE, 0
        while not budget.exhausted and not self.incumbent.meets(self.best.bound):
            since += 1
            if self._step(budget, self.incumbent, rate):
                since = 0
            elif since > _PATIENCE:  # back to the best prices, and on more slowly
                rate, since = 0.7 * rate, 0
                self._prices = self.best.prices
        return self.best

    def candidate(self, budget: Budget, incumbent: Incumbent) -> None:
        """Offers choices on a way back to good prices: a new start for a local search."""
        scale = np.exp(_SCALE * self._random.normal())
        self._prices = bent(scale * self.best.prices, self._random, _BEND)
        for _ in range(_STEPS_EACH):
            if budget.exhausted:
                break
            self._step(budget, incumbent, _RATE_EACH)

    def _first_prices(self, budget: Budget) -> None:
        """The same price at all live sets."""
        limit = self.arrays.limit
        self._priced_choice(self.arrays.unary, budget, self.incumbent)
        whole = float(limit.max(initial=1)) * max(1, len(limit))
        price = _PRICE_FIRST * abs(self.incumbent.seen) / max(1.0, whole)
        self._prices = np.full(len(limit), max(price, 1e-12))

    def _step(self, budget: Budget, incumbent: Incumbent, rate: float) -> bool:
        """Sweeps, then moves the prices; whether the bound was better than ever."""
        arrays, prices = self.arrays, self._prices
        unary = arrays.unary + arrays.priced(prices)
        beliefs = self.messages.sweep(unary)
        bound = self.messages.bound(unary) - float(prices @ arrays.limit)
        budget.spend(1.5 * self.messages.sweep_work)
        better = bound > self.best.bound
        if better:
            self.best = Dual(bound, prices)
        if self._steps % _CHOOSE_EVERY == 0:
            load = self._priced_choice(unary, budget, incumbent)
        else:
            load = arrays.load(segment_argmin(beliefs, arrays.sizes)[1])
        self._steps += 1
        overload = (load - arrays.limit) / max(1.0, float(arrays.limit.max(initial=1)))
        self._prices = prices * np.exp(np.clip(rate * overload, -0.5, 0.5))
        return better

    def _priced_choice(self, unary: Floats, budget: Budget, incumbent: Incumbent) -> Ints:
        """A good choice at these node costs, offered to the incumbent; its load (T,)."""
        arrays = self.arrays
        choice = self.messages.choose(unary)
        for _ in range(2):
            if len(self._forests) < _FORESTS:
                self._forests.append(random_forest(arrays, self._random, 1.0))
            forest = self._forests[int(self._random.integers(len(self._forests)))]
            costs = unary + boundary_costs(arrays, forest, choice)
            choice = best_choice(arrays, forest, costs, choice)
            budget.spend(forest_work(forest))
        budget.spend(0.5 * self.messages.sweep_work)
        load = arrays.load(choice)
        incumbent.offer(choice, load)
        return load
