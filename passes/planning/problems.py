"""Problems of the solver, put together node by node."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

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

    def hold(self, one: int, two: int, spans: Sequence[tuple[int, int]], usage: Ints) -> None:
        """Memory (spans, choices of one, choices of two) of copies at the times start <= t < stop.

        Only nodes have memory: so it is that of a node that chooses among what the copies may take
        with each choice of `two`, no less than they take with that of `one`.
        """
        if one == two:
            alone: Ints = np.diagonal(usage, axis1=1, axis2=2)
            for span, own in zip(spans, alone, strict=True):
                self.occupy(one, span, own)
            return
        columns = usage.transpose(2, 1, 0)  # (choices of two, choices of one, spans)
        kinds, kind_of = np.unique(columns, axis=0, return_inverse=True)
        taken: list[Ints] = []
        may_one: list[NDArray[np.bool_]] = []
        may_two: list[NDArray[np.bool_]] = []
        for kind, column in enumerate(kinds):
            for level in np.unique(column, axis=0):
                taken.append(level)
                may_one.append((column <= level).all(axis=1))
                may_two.append(kind_of.reshape(-1) == kind)
        node = self.add(np.zeros(len(taken), np.int64))
        rows: Ints = np.array(taken).T
        for span, own in zip(spans, rows, strict=True):
            self.occupy(node, span, own)
        for end, may in ((one, may_one), (two, may_two)):
            self.join(end, node, np.where(np.array(may).T, 0, FORBIDDEN))

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
