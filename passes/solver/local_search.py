"""Local search: exact dynamic programming over random forests, accepted where memory fits.

A round takes a random induced forest, keeps all other nodes as they are, and solves every tree
exactly; in half of the rounds memory has a random price, so that a tree may pay for what another
one gains. Trees are accepted together where that fits, else one by one. While the limit is broken,
less overuse is better than less cost: the same search repairs.
"""

from __future__ import annotations

import numpy as np

from .arrays import Arrays
from .budget import Budget
from .forests import (
    Forest,
    best_choice,
    boundary_costs,
    forest_work,
    random_forest,
    tree_costs,
)
from .graph import Floats
from .problem import Ints

_FORESTS = 14
_RENEWED = 0.1
"""How often a round gets a new forest, which costs as much as a round."""
_SHARES = (1.0, 1.0, 0.8, 0.6, 0.4, 0.2)


class Incumbent:
    """The best choice so far: the least overuse of memory first, then the least cost."""

    def __init__(self, arrays: Arrays, gap: float = 0.0, constant: float = 0.0) -> None:
        self._arrays = arrays
        self.gap, self.constant = gap, constant
        """The share of the whole cost, `constant` included, that is close enough to a bound."""
        self.choice = np.zeros(arrays.num_nodes, np.int64)
        self.overuse = np.inf
        self.cost = np.inf
        self.seen = np.inf
        """The least cost offered, whatever its overuse."""

    @property
    def feasible(self) -> bool:
        """Whether memory suffices."""
        return self.overuse == 0

    def offer(self, choice: Ints, load: Ints) -> bool:
        """Takes a choice (n,) with its load (T,) if it is better than what there is."""
        cost = self._arrays.cost(choice)
        self.seen = min(self.seen, cost)
        overuse = overuse_of(self._arrays, load)
        if (overuse, cost) >= (self.overuse, self.cost):
            return False
        self.choice, self.overuse, self.cost = choice.copy(), overuse, cost
        return True

    def take(self, other: Incumbent) -> None:
        """Takes another one's choice if it is better."""
        if (other.overuse, other.cost) < (self.overuse, self.cost):
            self.choice, self.overuse, self.cost = other.choice, other.overuse, other.cost

    def meets(self, bound: float) -> bool:
        """Whether nothing better can be (costs are whole numbers), or nothing much better."""
        if not self.feasible:
            return False
        close = max(1 - 1e-9 * max(1.0, abs(self.cost)), self.gap * abs(self.cost + self.constant))
        return bound > self.cost - close


def overuse_of(arrays: Arrays, load: Ints) -> float:
    """Bytes above the limit, summed over the live sets."""
    return float(np.maximum(load - arrays.limit, 0).sum(dtype=np.float64))


def bent(prices: Floats, random: np.random.Generator, strength: float) -> Floats:
    """Prices (T,) times a random curve over time: e^strength up or down, more or less."""
    count = len(prices)
    if not count:
        return prices
    places = np.sort(random.integers(0, count, 6))
    return prices * np.exp(np.interp(np.arange(count), places, strength * random.normal(size=6)))


class LocalSearch:
    """Rounds from the incumbent's choice on; improvements go to the incumbent."""

    def __init__(
        self,
        arrays: Arrays,
        incumbent: Incumbent,
        prices: Floats,
        random: np.random.Generator,
    ) -> None:
        self.arrays = arrays
        self.incumbent = incumbent
        self._prices = prices
        self._random = random
        self._forests: list[Forest] = []
        self.choice = incumbent.choice.copy()
        self.load = arrays.load(self.choice)
        self.overuse = overuse_of(arrays, self.load)
        self._pressure = 1.0

    def run(self, budget: Budget, bound: float = -np.inf) -> None:
        """Rounds until the budget is spent, or the incumbent meets a lower bound."""
        while not budget.exhausted and not self.incumbent.meets(bound):
            forest = self._forest()
            self._round(forest)
            budget.spend(forest_work(forest))
            self.incumbent.offer(self.choice, self.load)

    def _forest(self) -> Forest:
        random = self._random
        place = int(random.integers(_FORESTS))
        if place >= len(self._forests) or random.random() < _RENEWED:
            share = _SHARES[int(random.integers(len(_SHARES)))]
            forest = random_forest(self.arrays, random, share)
            if place >= len(self._forests):
                self._forests.append(forest)
            else:
                self._forests[place] = forest
            return forest
        return self._forests[place]

    def _round(self, forest: Forest) -> None:
        arrays = self.arrays
        base = arrays.unary + boundary_costs(arrays, forest, self.choice)
        costs = base
        if len(arrays.limit) and (self.overuse or self._random.random() < 0.5):
            costs = base + arrays.priced(self._random_prices())
        found = best_choice(arrays, forest, costs, self.choice)
        changed = np.flatnonzero(found != self.choice)
        if not len(changed):
            return
        more = tree_costs(arrays, forest, base, found)
        more -= tree_costs(arrays, forest, base, self.choice)
        move = _Move(self, forest, found, changed)
        trees = np.unique(forest.tree[changed])
        if self.overuse:
            self._repair(move, trees, more)
        elif not (more[trees].sum() <= 0 and move.accept(trees)):
            better = trees[more[trees] <= 0]
            if not move.accept(better):
                for tree in better[np.argsort(more[better], kind="stable")]:
                    move.accept(np.array([tree]))

    def _repair(self, move: _Move, trees: Ints, more: Floats) -> None:
        """Trees that lower the overuse; the pressure on tight live sets grows while none does."""
        before = self.overuse
        if not move.accept(trees):
            for tree in trees[np.argsort(more[trees], kind="stable")]:
                move.accept(np.array([tree]))
        self._pressure *= 0.9 if self.overuse < before else 1.1

    def _random_prices(self) -> Floats:
        """(T,): the dual's prices, bent at random along time, or a price where little is left."""
        random, arrays = self._random, self.arrays
        count = len(arrays.limit)
        left = arrays.limit - self.load
        most = float(arrays.limit.max())
        unit = max(abs(self.incumbent.cost), 1.0) / max(most, 1.0) / count
        if self.overuse:
            tight = left < random.random() * 0.02 * most
            return self._prices + tight * (unit * self._pressure * np.exp(random.normal()))
        if random.random() < 0.5 and self._prices.any():
            return bent(self._prices * np.exp(random.normal() - 0.5), random, 1.0)
        tight = left < random.random() * 0.05 * most
        return tight * (2.0 * unit * np.exp(1.5 * random.normal()))


class _Move:
    """What a round found, to be accepted tree by tree or all together."""

    def __init__(self, search: LocalSearch, forest: Forest, found: Ints, changed: Ints) -> None:
        self._search = search
        self._found = found
        self._changed = changed
        self._tree = forest.tree[changed]
        arrays = search.arrays
        difference = arrays.row_usage(found) - arrays.row_usage(search.choice)
        self._rows = np.flatnonzero(difference)
        self._more = difference[self._rows]
        self._row_tree = forest.tree[arrays.row_node[self._rows]]

    def accept(self, trees: Ints) -> bool:
        """Takes over trees if memory fits then, or is broken less than before."""
        if not len(trees):
            return False
        search = self._search
        chosen = np.isin(self._row_tree, trees)
        load = search.load + search.arrays.spread(self._more[chosen], self._rows[chosen])
        over = overuse_of(search.arrays, load)
        if over > 0 and over >= search.overuse:
            return False
        nodes = self._changed[np.isin(self._tree, trees)]
        search.choice[nodes] = self._found[nodes]
        search.load, search.overuse = load, over
        return True
