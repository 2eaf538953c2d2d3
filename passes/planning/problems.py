"""Problems of the solver, put together node by node."""

from __future__ import annotations

from math import floor

import numpy as np

from autopar.passes.solver.problem import FORBIDDEN, Ints, Problem, make_problem

from .reshard_prices import Floats

UNIT_S = 1e-12
"""Seconds of one unit of the solver's whole costs."""
_NEVER = 0, 0


class ProblemBuilder:
    """Collects the nodes and edges of a problem."""

    def __init__(self) -> None:
        self._costs: list[Ints] = []
        self._spans: list[tuple[int, int]] = []
        self._usages: list[Ints] = []
        self._edges: dict[tuple[int, int], Ints] = {}

    def add(self, costs: Ints, span: tuple[int, int] = _NEVER, usage: Ints | None = None) -> int:
        self._costs.append(costs)
        self._spans.append(span)
        self._usages.append(np.zeros(len(costs), np.int64) if usage is None else usage)
        return len(self._costs) - 1

    def join(self, one: int, two: int, costs: Ints) -> None:
        """Adds what two nodes cost together, (choices of one, choices of the other)."""
        if one == two:
            self._costs[one] = _sum(self._costs[one], np.diagonal(costs))
            return
        if one > two:
            one, two, costs = two, one, costs.T
        have = self._edges.get((one, two))
        self._edges[one, two] = costs if have is None else _sum(have, costs)

    def occupy(self, node: int, span: tuple[int, int], usage: Ints) -> None:
        """Memory of a node (choices,) at the times start <= t < stop; behind its first span by
        nodes that choose as it does."""
        if self._spans[node] == _NEVER:
            self._spans[node], self._usages[node] = span, usage
            return
        size = len(usage)
        tied = np.full((size, size), FORBIDDEN)
        np.fill_diagonal(tied, 0)
        self.join(node, self.add(np.zeros(size, np.int64), span, usage), tied)

    def take(self, node: int, usage: Ints) -> None:
        """Memory (times, choices) of a node."""
        start = 0
        while start < len(usage):
            stop = start + 1
            while stop < len(usage) and np.array_equal(usage[stop], usage[start]):
                stop += 1
            if usage[start].any():
                self.occupy(node, (start, stop), usage[start])
            start = stop

    def problem(self, limit: int | None) -> Problem:
        return make_problem(
            self._spans,
            [costs.tolist() for costs in self._costs],
            [usage.tolist() for usage in self._usages],
            list(self._edges),
            [costs.reshape(-1).tolist() for costs in self._edges.values()],
            None if limit is None else floor(limit),
        )


def whole_costs(seconds: Floats) -> Ints:
    """Seconds in the solver's unit; what is infinite is forbidden."""
    return np.rint(np.minimum(seconds / UNIT_S, float(FORBIDDEN))).astype(np.int64)


def multiplied(count: int, costs: Ints) -> Ints:
    """Costs of many alike: what is forbidden stays so."""
    return np.where(costs < FORBIDDEN, count * np.minimum(costs, FORBIDDEN // count), FORBIDDEN)


def _sum(one: Ints, two: Ints) -> Ints:
    """Costs together: what either forbids stays forbidden."""
    return np.minimum(one + two, FORBIDDEN)
