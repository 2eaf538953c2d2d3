"""The working form of a problem: pairwise costs in matrices, memory by sets of live values.

Costs are float64, infinite where forbidden. They are integers: sums are exact up to 2^53, and
`Graph.exact` says whether they stay below; `without_bits` makes them. Memory is counted at the
maximal live sets alone: where the values alive at one time are also alive at another, the other
says it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import frexp

import numpy as np
from numpy.typing import NDArray

from .problem import FORBIDDEN, Ints, Problem, without_multiples

Floats = NDArray[np.float64]

_EXACT = 2.0**53
"""Whole numbers of which the sums stay below are added exactly."""


@dataclass(frozen=True)
class Restricted:
    """Strategy s of `node` is strategy `kept[s]` of what it was before."""

    node: int
    kept: Ints


@dataclass(frozen=True)
class Folded:
    """`node` takes the strategy `table[...]` by those of the nodes `into`; none: `table` is 0-d."""

    node: int
    into: tuple[int, ...]
    table: Ints


class Contradiction(Exception):
    """No choice avoids every forbidden entry and fits into memory."""


@dataclass
class Graph:
    """A pairwise problem that reductions change in place; node ids stay, dead nodes are left out.

    A node's memory is a matrix: row r, `usages[v][r, s]` bytes of strategy s at the live sets
    `spans[v][r, 0] <= t < spans[v][r, 1]`. Nodes get more rows as others are folded into them.
    """

    unary: list[Floats]
    """Per node (k,): cost of each strategy."""
    adjacent: list[dict[int, Floats]]
    """adjacent[u][v] (k_u, k_v): cost of each pair; adjacent[v][u] is its transpose."""
    spans: list[Ints]
    """Per node (r, 2), half open, in indices of live sets."""
    usages: list[Ints]
    """Per node (r, k)."""
    limit: Ints
    """(T,): memory left at each live set for the nodes that are alive."""
    alive: list[bool]
    constant: float = 0.0
    """What the nodes and edges that are gone cost."""
    exact: bool = True
    """Whether all sums of finite costs are exact in float64."""
    trace: list[Restricted | Folded] = field(default_factory=list["Restricted | Folded"])
    """How to get back, last step first (`expand`)."""
    touched: set[int] = field(default_factory=set[int])
    """Nodes whose costs, edges or strategies changed: where reductions look next."""
    compared: set[int] = field(default_factory=set[int])
    """Nodes whose strategies were compared with each other since anything of theirs changed."""

    @property
    def nodes(self) -> list[int]:
        """The nodes that are alive, ascending."""
        return [v for v, alive in enumerate(self.alive) if alive]

    def size(self, node: int) -> int:
        """Strategies of a node."""
        return len(self.unary[node])

    def touch(self, *nodes: int) -> None:
        """Notes that something of these nodes changed."""
        self.touched.update(nodes)
        self.compared.difference_update(nodes)

    def restrict(self, node: int, kept: Ints) -> None:
        """Drops all strategies of a node but `kept` (ascending)."""
        if not len(kept):
            raise Contradiction
        self.unary[node] = self.unary[node][kept]
        self.usages[node] = self.usages[node][:, kept]
        for other, matrix in self.adjacent[node].items():
            self._join(node, other, matrix[kept])
        self.touch(node, *self.adjacent[node])
        self.trace.append(Restricted(node, kept))

    def add_edge(self, u: int, v: int, matrix: Floats) -> None:
        """Adds costs (k_u, k_v) to the edge of two different nodes, which may be new."""
        old = self.adjacent[u].get(v)
        self._join(u, v, matrix if old is None else old + matrix)
        self.touch(u, v)

    def drop_edge(self, u: int, v: int) -> None:
        """Removes the edge of two nodes."""
        del self.adjacent[u][v], self.adjacent[v][u]
        self.touch(u, v)

    def add_cost(self, node: int, costs: Floats) -> None:
        """Adds costs (k,) to a node's strategies; those that become forbidden go."""
        self.unary[node] = self.unary[node] + costs
        self.touch(node)
        finite = np.isfinite(self.unary[node])
        if not finite.all():
            self.restrict(node, np.flatnonzero(finite))

    def fold(self, node: int, into: int, choice: Ints) -> None:
        """`node` takes choice[s] where `into` takes s: its costs, edges and memory move over."""
        edge = self.adjacent[node][into]
        moved = edge[choice, np.arange(len(choice))] + self.unary[node][choice]
        self.drop_edge(node, into)
        for other, matrix in list(self.adjacent[node].items()):
            self.drop_edge(node, other)
            self.add_edge(into, other, matrix[choice])
        if len(self.spans[node]):
            moving = self.usages[node][:, choice]
            self.spans[into] = np.concatenate([self.spans[into], self.spans[node]])
            self.usages[into] = np.concatenate([self.usages[into], moving])
        self._bury(node, (into,), choice)
        self.add_cost(into, moved)

    def fix(self, node: int) -> None:
        """Takes out a node with a single strategy."""
        for other, matrix in list(self.adjacent[node].items()):
            self.drop_edge(node, other)
            self.add_cost(other, matrix[0])
        for (start, stop), usage in zip(self.spans[node], self.usages[node][:, 0], strict=True):
            self.limit[start:stop] -= usage
        self.constant += float(self.unary[node][0])
        self._bury(node, (), np.zeros((), np.int64))

    def eliminate(self, node: int) -> None:
        """Takes out a node without memory and with at most two neighbours by minimising over it."""
        others = tuple(sorted(self.adjacent[node]))
        if len(others) == 2:
            u, v = others
            total = self.adjacent[u][node][:, None, :] + self.adjacent[v][node][None, :, :]
        else:
            total = self.adjacent[others[0]][node] if others else np.zeros(self.size(node))
        total = total + self.unary[node]
        best = total.argmin(axis=-1)
        least = total.min(axis=-1)
        for other in others:
            self.drop_edge(node, other)
        self._bury(node, others, np.asarray(best, np.int64))
        if len(others) == 2:
            self.add_edge(others[0], others[1], least)
        elif others:
            self.add_cost(others[0], least)
        else:
            self.constant += float(least)

    def expand(self, chosen: dict[int, int], steps: int | None = None) -> Ints:
        """The choice of every node there ever was, from those of the nodes that are alive; or of
        those that were alive when the trace had that many steps."""
        choices = np.zeros(len(self.unary), np.int64)
        for node, strategy in chosen.items():
            choices[node] = strategy
        for step in reversed(self.trace[:steps]):
            if isinstance(step, Restricted):
                choices[step.node] = step.kept[choices[step.node]]
            else:
                choices[step.node] = step.table[tuple(choices[u] for u in step.into)]
        return choices

    def project(self, strategies: Ints) -> dict[int, int]:
        """Strategies of the nodes that are alive, from those (n,) of the problem's own nodes: the
        way to where `expand` comes from. What was dropped becomes the cheapest beside the rest."""
        found = np.full(len(self.unary), -1, np.int64)
        found[: len(strategies)] = strategies
        for step in self.trace:
            if isinstance(step, Restricted):
                (at,) = np.nonzero(step.kept == found[step.node])
                found[step.node] = at[0] if len(at) else -1
        chosen = {node: int(found[node]) for node in self.nodes if found[node] >= 0}
        for node in self.nodes:
            if node not in chosen:
                costs = self.unary[node].copy()
                for other, matrix in self.adjacent[node].items():
                    if other in chosen:
                        costs += matrix[:, chosen[other]]
                chosen[node] = int(costs.argmin())
        return chosen

    def _join(self, u: int, v: int, matrix: Floats) -> None:
        self.adjacent[u][v] = matrix
        self.adjacent[v][u] = matrix.T

    def _bury(self, node: int, into: tuple[int, ...], table: Ints) -> None:
        self.alive[node] = False
        self.touched.discard(node)
        self.trace.append(Folded(node, into, table))


def merged_rows(spans: Ints, usages: Ints) -> tuple[Ints, Ints]:
    """Rows of memory with those of the same span added up, ascending; rows of zeros go."""
    if not len(spans):
        return spans, usages
    order = np.lexsort((spans[:, 1], spans[:, 0]))
    spans = spans[order]
    starts = np.flatnonzero(np.concatenate([[True], (spans[1:] != spans[:-1]).any(axis=1)]))
    total = np.add.reduceat(usages[order], starts, axis=0)
    used = total.any(axis=1)
    return spans[starts][used], total[used]


def build_graph(problem: Problem, *, forbid: bool = True) -> Graph:
    """The pairwise form of a problem.

    With `forbid`, entries of 10^18 and more are infinite; without, they are finite, and as dear as
    it takes to avoid one of them at any price in small entries (see `_working_costs`). An edge with
    more than two ends becomes a node whose strategies are the combinations. Nodes of the problem
    keep their ids. `Contradiction` where something forbidden is the only choice.
    """
    node_costs, edge_costs, exact = _working_costs(problem, forbid)
    offsets = problem.node_offsets[1:-1]
    live_sets = maximal_live_sets(problem)
    graph = Graph(
        unary=np.split(node_costs, offsets) if problem.num_nodes else [],
        adjacent=[{} for _ in range(problem.num_nodes)],
        spans=[],
        usages=[],
        limit=np.full(len(live_sets), problem.usage_limit or 0, np.int64),
        alive=[True] * problem.num_nodes,
        exact=exact,
    )
    ranges = np.searchsorted(live_sets, problem.intervals)
    for node, row in enumerate(ranges):
        usages = problem.usages_of(node)
        takes = row[0] < row[1] and bool(usages.any())
        graph.spans.append(row[None, :] if takes else np.zeros((0, 2), np.int64))
        graph.usages.append(usages[None, :] if takes else np.zeros((0, len(usages)), np.int64))
    _add_edges(graph, problem, edge_costs)
    if not np.isfinite(graph.constant):
        raise Contradiction
    for node in graph.nodes:
        graph.add_cost(node, np.zeros(graph.size(node)))
    graph.touched.update(graph.nodes)
    return graph


def maximal_live_sets(problem: Problem) -> Ints:
    """(T,) ascending: one time for each set of values alive together that no other contains.

    Such a set is there just before a value dies, if one was born since the last death.
    """
    if problem.usage_limit is None:
        return np.zeros(0, np.int64)
    takes = np.zeros(problem.num_nodes, bool)
    owner = np.repeat(np.arange(problem.num_nodes), problem.num_strategies)
    takes[owner[problem.node_usages > 0]] = True
    spans = problem.intervals[takes & (problem.intervals[:, 0] < problem.intervals[:, 1])]
    times = np.unique(spans)
    index = np.arange(len(times))
    last_birth = np.maximum.accumulate(np.where(np.isin(times, spans[:, 0]), index, -1))
    dies = np.isin(times, spans[:, 1])
    last_death = np.maximum.accumulate(np.where(dies, index, -1))
    before = index[dies] - 1  # a death is never the first event
    return times[before[last_birth[before] >= last_death[before]]]


def lost_bits(problem: Problem) -> int:
    """Of costs, the last ones that have to go for sums to be exact."""
    return max(0, frexp(problem.spread / _EXACT)[1])


def without_bits(problem: Problem, bits: int) -> Problem:
    """Costs in whole multiples of 2^bits, rounded down; forbidden ones stay so."""

    def rounded(costs: Ints) -> Ints:
        rest = without_multiples(costs)
        return costs - rest + (rest >> bits)

    return replace(
        problem,
        node_costs=rounded(problem.node_costs),
        edge_costs=rounded(problem.edge_costs),
    )


def _working_costs(problem: Problem, forbid: bool) -> tuple[Floats, Floats, bool]:
    """(costs of nodes, costs of edges, whether their sums are exact).

    Finite forbidden costs are replaced where that makes sums exact: c = q 10^18 + r becomes q P + r
    with a P above all that the r's can differ by together. The order of solutions stays: fewer
    quanta of 10^18 first, then the rest.
    """
    ints = np.concatenate([problem.node_costs, problem.edge_costs])
    huge = ints >= FORBIDDEN
    spread = problem.spread
    costs = without_multiples(ints).astype(np.float64)
    if forbid:
        costs[huge] = np.inf
    elif huge.any():
        quanta = (ints // FORBIDDEN) * huge
        penalty = 2.0 * spread + 1.0
        whole = penalty * float(quanta.sum()) + spread
        if 2.0 * spread < float(FORBIDDEN) and whole < _EXACT:
            costs += quanta * penalty
        else:
            costs, whole = ints.astype(np.float64), np.inf
        spread = whole
    cut = len(problem.node_costs)
    return costs[:cut], costs[cut:], spread < _EXACT


def _add_edges(graph: Graph, problem: Problem, costs: Floats) -> None:
    for edge, (first, last) in enumerate(
        zip(problem.cost_offsets[:-1].tolist(), problem.cost_offsets[1:].tolist(), strict=True)
    ):
        ends = problem.ends_of(edge).tolist()
        table = costs[first:last].reshape([graph.size(end) for end in ends])
        ends, table = _without_repeats(ends, table)
        if len(ends) == 2:
            graph.add_edge(ends[0], ends[1], table)
        elif len(ends) == 1:
            graph.unary[ends[0]] = graph.unary[ends[0]] + table
        elif not ends:
            graph.constant += float(table)
        else:
            _add_combinations(graph, ends, table)


def _without_repeats(ends: list[int], table: Floats) -> tuple[list[int], Floats]:
    """An edge that names a node twice has only the entries where both choices are the same."""
    for position, end in enumerate(ends):
        if end in ends[:position]:
            first = ends.index(end)
            diagonal = np.diagonal(table, axis1=first, axis2=position)
            table = np.moveaxis(diagonal, -1, first)
            return _without_repeats([*ends[:position], *ends[position + 1 :]], table)
    return ends, table


def _add_combinations(graph: Graph, ends: list[int], table: Floats) -> None:
    """A node for the choices of three and more ends together; it binds each end to its part."""
    node = len(graph.unary)
    costs = table.reshape(-1)
    graph.unary.append(costs)
    graph.adjacent.append({})
    graph.alive.append(True)
    graph.spans.append(np.zeros((0, 2), np.int64))
    graph.usages.append(np.zeros((0, len(costs)), np.int64))
    for position, index in enumerate(np.unravel_index(np.arange(len(costs)), table.shape)):
        end = ends[position]
        agrees = np.arange(graph.size(end)) == index[:, None]
        graph.add_edge(node, end, np.where(agrees, 0.0, np.inf))
