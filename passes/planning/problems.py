"""Problems of the solver, put together node by node."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

from autopar.passes.solver.problem import FORBIDDEN, Ints, Problem, problem_of_arrays

from .reshard_prices import Floats

UNIT_S = 1e-12
"""Seconds of one unit of the solver's whole costs."""
_NEVER = 0, 0


class ProblemBuilder:
    """Collects the nodes and edges of a problem. Choices are counted as they were added; nodes are
    without those that are forbidden whatever others choose."""

    def __init__(self) -> None:
        self._kept: list[Ints | None] = []
        """The choices that the problem has of a node; None: all."""
        self._costs: list[Ints] = []
        self._spans: list[tuple[int, int]] = []
        self._usages: list[Ints] = []
        self._edges: dict[tuple[int, int], Ints] = {}

    def add(self, costs: Ints) -> int:
        """Adds a node with what its choices cost; gives its number."""
        huge = costs >= FORBIDDEN
        kept = np.flatnonzero(~huge) if huge.any() and not huge.all() else None
        return self._add(costs, kept)

    def _add(self, costs: Ints, kept: Ints | None = None) -> int:
        self._kept.append(kept)
        self._costs.append(costs if kept is None else costs[kept])
        self._spans.append(_NEVER)
        self._usages.append(np.zeros(len(self._costs[-1]), np.int64))
        return len(self._costs) - 1

    def join(self, one: int, two: int, costs: Ints, times: int = 1) -> None:
        """Adds what two nodes cost together, (choices of one, choices of the other), so many
        times."""
        costs = self._of(two, self._of(one, costs), 1)
        self._join(one, two, multiplied(times, costs) if times > 1 else costs)

    def _join(self, one: int, two: int, costs: Ints) -> None:
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
        self._occupy(node, span, self._of(node, usage))

    def _occupy(self, node: int, span: tuple[int, int], usage: Ints) -> None:
        if self._spans[node] == _NEVER:
            self._spans[node], self._usages[node] = span, usage
            return
        size = len(usage)
        tied = np.full((size, size), FORBIDDEN)
        np.fill_diagonal(tied, 0)
        other = self._add(np.zeros(size, np.int64))
        self._occupy(other, span, usage)
        self._join(node, other, tied)

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
        usage = self._of(two, self._of(one, usage, 1), 2)
        if one == two:
            alone: Ints = np.diagonal(usage, axis1=1, axis2=2)
            for span, own in zip(spans, alone, strict=True):
                self._occupy(one, span, own)
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
        node = self._add(np.zeros(len(taken), np.int64))
        rows: Ints = np.array(taken).T
        for span, own in zip(spans, rows, strict=True):
            self._occupy(node, span, own)
        for end, may in ((one, may_one), (two, may_two)):
            self._join(end, node, np.where(np.array(may).T, 0, FORBIDDEN))

    def _of(self, node: int, array: Ints, axis: int = 0) -> Ints:
        """Of the choices of a node along an axis those that the problem has."""
        kept = self._kept[node]
        return array if kept is None else array.take(kept, axis)

    def problem(self, limit: int | None = None) -> Problem:
        return problem_of_arrays(
            self._spans,
            self._costs,
            self._usages,
            self._edges,
            None if limit is None else floor(limit),
        )

    def choices(self, strategies: Sequence[int]) -> list[int]:
        """The choices of all nodes, as they were counted when added, by those in the problem."""
        return [
            own if kept is None else int(kept[own])
            for kept, own in zip(self._kept, strategies, strict=True)
        ]

    def strategies(self, choices: Sequence[int]) -> list[int] | None:
        """The reverse for the first nodes, and 0 for those behind; None where the problem lacks
        one."""
        found = [0] * len(self._kept)
        for node, choice in enumerate(choices):
            kept = self._kept[node]
            place = choice if kept is None else int(np.searchsorted(kept, choice))
            if kept is not None and (place == len(kept) or kept[place] != choice):
                return None
            found[node] = place
        return found


def whole_costs(seconds: Floats) -> Ints:
    """Seconds in the solver's unit; what is infinite is forbidden."""
    return np.rint(np.minimum(seconds / UNIT_S, float(FORBIDDEN))).astype(np.int64)


def multiplied(count: int, costs: Ints) -> Ints:
    """Costs of many alike: what is forbidden stays so."""
    return np.where(costs < FORBIDDEN, count * np.minimum(costs, FORBIDDEN // count), FORBIDDEN)


def _sum(one: Ints, two: Ints) -> Ints:
    """Costs together: what either forbids stays forbidden."""
    return np.minimum(one + two, FORBIDDEN)
