"""Exact dynamic programming over a graph of low treewidth, memory left aside.

Bucket elimination (Dechter 1999): nodes go one after the other, least table first; each leaves a
table of its best cost over its remaining neighbours. A tree decomposition in another coat.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from .budget import LEVEL, Budget
from .graph import Floats, Graph
from .problem import Ints


@dataclass(frozen=True)
class _Factor:
    """Costs over the strategies of some nodes, one axis each."""

    nodes: tuple[int, ...]
    table: Floats


def elimination_order(graph: Graph, most_entries: int) -> list[int] | None:
    """All nodes, each when its table is the least; None if one would be larger than that."""
    neighbours = {v: set(graph.adjacent[v]) for v in graph.nodes}
    entries = {v: _entries(graph, v, neighbours[v]) for v in neighbours}
    order: list[int] = []
    while entries:
        node = min(entries, key=lambda v: (entries[v], v))
        if entries.pop(node) > most_entries:
            return None
        order.append(node)
        around = neighbours.pop(node)
        for other in around:
            neighbours[other] |= around
            neighbours[other] -= {node, other}
        for other in around:
            entries[other] = _entries(graph, other, neighbours[other])
    return order


def _entries(graph: Graph, node: int, around: set[int]) -> int:
    return graph.size(node) * prod(graph.size(other) for other in around)


def eliminate_all(graph: Graph, order: list[int], budget: Budget) -> tuple[dict[int, int], float]:
    """(the choice of each node, its cost) that is cheapest when memory is no matter."""
    factors: dict[int, list[_Factor]] = {v: [_Factor((v,), graph.unary[v])] for v in order}
    for u in order:
        for v, table in graph.adjacent[u].items():
            if u < v:
                factor = _Factor((u, v), table)
                factors[u].append(factor)
                factors[v].append(factor)
    best: list[tuple[int, tuple[int, ...], Ints]] = []
    cost = 0.0
    for node in order:
        mine = factors.pop(node)
        others = tuple(sorted({v for factor in mine for v in factor.nodes} - {node}))
        total = _sum(graph, mine, (*others, node))
        budget.spend(total.size * len(mine) + LEVEL)
        best.append((node, others, np.asarray(total.argmin(axis=-1), np.int64)))
        least = _Factor(others, total.min(axis=-1))
        for other in others:
            gone = {id(factor) for factor in mine}
            factors[other] = [f for f in factors[other] if id(f) not in gone]
            factors[other].append(least)
        if not others:
            cost += float(least.table)
    choice: dict[int, int] = {}
    for node, others, table in reversed(best):
        choice[node] = int(table[tuple(choice[v] for v in others)])
    return choice, cost


def _sum(graph: Graph, factors: list[_Factor], nodes: tuple[int, ...]) -> Floats:
    """The sum of factors over all of the nodes, in their order."""
    total = np.zeros([graph.size(v) for v in nodes])
    for factor in factors:
        axes = [nodes.index(v) for v in factor.nodes]
        table = factor.table.transpose(np.argsort(axes))
        shape = [graph.size(v) if v in factor.nodes else 1 for v in nodes]
        total += table.reshape(shape)
    return total
