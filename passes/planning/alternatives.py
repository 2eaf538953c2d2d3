"""What a step would cost if one choice of a plan were another.

A choice is fixed, and the rest is chosen anew: first the choices near to it, all others kept as
they are, which gives an upper bound at once; then, for the best of these, those of the whole
program, by the search that made the plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from autopar.dialects.autopar import FREE_EARLY
from autopar.passes.solver.problem import FORBIDDEN, ProblemError
from autopar.passes.solver.solve import SolveOptions, solve

from .footprint import Footprint, freed_early
from .plan_graph import PlanGraph
from .problems import UNIT_S, ProblemBuilder, whole_costs
from .reshard_prices import Floats
from .search import Search

_NEAR = 48
"""Nodes that are chosen anew around a fixed one."""
_HUB = 24
"""Nodes with more neighbours than this are kept."""
_NEAR_WORK = 5e6
_REPLAN_WORK = 5e7
_REPLANNED_NODES = 6000
"""Of the problems that are solved again for one value, together: one more than fits is solved."""
_SECONDS = 60.0


@dataclass(frozen=True)
class Alternative:
    """The best plan known with another choice of one node."""

    choice: int
    chosen: tuple[int, ...]
    """Of every node."""
    seconds: float
    """Of a step, by the costs of the graph."""
    bytes: int
    """In use at most, by the footprint."""
    fits: bool
    replanned: bool
    """Whether all of the program was planned again; else what is near the choice."""
    bound: float
    """Seconds that no plan with the choice is below, -inf where that is not known."""


class Alternatives:
    """Other choices for the nodes of a plan, priced."""

    def __init__(
        self, graph: PlanGraph, chosen: Sequence[int], limit: int | None, seed: int = 0
    ) -> None:
        self._graph, self.chosen = graph, tuple(chosen)
        self._seed = seed
        self._footprint = Footprint(graph)
        if FREE_EARLY in graph.func.attributes:
            self._footprint = freed_early(graph, self._footprint)
        self.bytes = self._footprint.peak(chosen)
        self._limit = None if limit is None else max(limit, self.bytes)
        """The footprint is an estimate: a plan that is known to fit may be above the limit."""
        self._around = graph.neighbours()
        self.seconds = self.cost_of(chosen)

    @property
    def num_replans(self) -> int:
        """How many choices of one value are worth a plan of the whole program."""
        return max(1, _REPLANNED_NODES // max(1, len(self._graph.nodes)))

    def cost_of(self, chosen: Sequence[int]) -> float:
        """Seconds of a step under a choice of each node."""
        nodes = sum(
            float(node.seconds[c]) for node, c in zip(self._graph.nodes, chosen, strict=True)
        )
        edges = self._graph.edges.items()
        return nodes + sum(float(table[chosen[u], chosen[v]]) for (u, v), table in edges)

    def of(self, node: int, replans: int | None = None) -> list[Alternative]:
        """Every other choice of a node that the graph allows, the cheapest that fit first."""
        others = [c for c in range(self._graph.nodes[node].size) if c != self.chosen[node]]
        near = [self._nearby(node, choice) for choice in others]
        found = sorted((a for a in near if a is not None), key=_order)
        most = self.num_replans if replans is None else replans
        return sorted(
            [*(self._replanned(node, a) for a in found[:most]), *found[most:]], key=_order
        )

    def changes(self, other: Sequence[int]) -> Iterator[tuple[tuple[int, int] | tuple[int], float]]:
        """(node or ends of an edge, seconds) that differ under other choices."""
        for node, (have, new) in enumerate(zip(self.chosen, other, strict=True)):
            if have != new:
                seconds = self._graph.nodes[node].seconds
                yield (node,), float(seconds[new] - seconds[have])
        moved = {v for v, (a, b) in enumerate(zip(self.chosen, other, strict=True)) if a != b}
        for (u, v), table in self._graph.edges.items():
            if u in moved or v in moved:
                change = table[other[u], other[v]] - table[self.chosen[u], self.chosen[v]]
                yield (u, v), float(change)

    # ---- near the choice

    def _nearby(self, node: int, choice: int) -> Alternative | None:
        """None for what the options or the program forbid."""
        ball = self._ball(node)
        costs = [self._costs_within(v, ball) for v in ball]
        costs[0] = np.where(np.arange(len(costs[0])) == choice, costs[0], inf)
        builder = ProblemBuilder()
        number = {v: builder.add(whole_costs(own)) for v, own in zip(ball, costs, strict=True)}
        for u in ball:
            for v, table in self._around[u]:
                if v in number and number[u] < number[v]:
                    builder.join(number[u], number[v], whole_costs(table))
        solution = solve(builder.problem(), SolveOptions(_SECONDS, self._seed, _NEAR_WORK))
        chosen = list(self.chosen)
        for v, own in zip(ball, builder.choices(solution.strategies), strict=True):
            chosen[v] = own
        if solution.cost >= FORBIDDEN or chosen[node] != choice:
            return None
        return self._alternative(node, chosen, replanned=False, bound=-inf)

    def _ball(self, node: int) -> list[int]:
        """The nodes near to one, itself first."""
        found, waiting = {node: None}, deque([node])
        while waiting:
            for other, _ in self._around[waiting.popleft()]:
                if len(found) >= _NEAR:
                    return list(found)
                if other not in found and len(self._around[other]) <= _HUB:
                    found[other] = None
                    waiting.append(other)
        return list(found)

    def _costs_within(self, node: int, ball: Sequence[int]) -> Floats:
        """(choices,): what a node costs with all that is kept."""
        inside = set(ball)
        costs = self._graph.nodes[node].seconds.copy()
        for other, table in self._around[node]:
            if other not in inside:
                costs = costs + table[:, self.chosen[other]]
        return costs

    def _alternative(
        self, node: int, chosen: Sequence[int], *, replanned: bool, bound: float
    ) -> Alternative:
        needed = self._footprint.peak(chosen)
        fits = self._limit is None or needed <= self._limit
        seconds = self.cost_of(chosen)
        return Alternative(
            chosen[node], tuple(chosen), seconds, needed, fits, replanned, min(bound, seconds)
        )

    # ---- the whole program

    def _replanned(self, node: int, near: Alternative) -> Alternative:
        """The program planned with a choice fixed; what is known already where that is better."""
        own = self._graph.nodes[node]
        fixed = np.where(np.arange(own.size) == near.choice, own.seconds, inf)
        graph = copy(self._graph)
        graph.nodes = [*self._graph.nodes]
        graph.nodes[node] = replace(own, seconds=fixed)
        options = SolveOptions(_SECONDS, self._seed, _REPLAN_WORK)
        try:
            found = Search(graph, options, footprint=self._footprint).run(self._limit)
        except ProblemError:  # nothing fits
            return replace(near, replanned=True)
        if found.solution.cost >= FORBIDDEN:
            return replace(near, replanned=True)
        bound = found.solution.lower_bound * UNIT_S
        again = self._alternative(node, found.of_node, replanned=True, bound=bound)
        is_better = again.fits if again.fits != near.fits else again.seconds <= near.seconds
        return again if is_better else replace(near, replanned=True, bound=min(bound, near.seconds))


def _order(alternative: Alternative) -> tuple[bool, float, int]:
    return not alternative.fits, alternative.seconds, alternative.choice
