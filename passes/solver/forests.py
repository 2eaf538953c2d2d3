"""Exact dynamic programming over a forest of nodes while all others keep their choice.

Levels of the forest are done at once: a round over thousands of nodes is a few hundred NumPy calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Arrays, ranges, segment_argmin, segment_starts, sums
from .budget import LEVEL
from .graph import Floats
from .problem import Ints

_CENTRES = 3


@dataclass(frozen=True, eq=False)
class Level:
    """Edges from the nodes at one depth to their parents, and where their tables lie."""

    edges: Ints
    """Directed, child to parent."""
    index: Ints
    """Every entry of the edges' tables."""
    state: Ints
    """The child's state in each of these."""
    cuts: Ints
    """Where the entries of one state of a parent begin."""
    parent_states: Ints
    """The parent's state of each cut."""


@dataclass(frozen=True, eq=False)
class Forest:
    """An induced forest of the graph, rooted."""

    roots: Ints
    levels: list[Level]
    """From the roots' children downwards."""
    boundary: Ints
    """Directed edges from nodes outside to nodes inside."""
    nodes: Ints
    """All nodes inside."""
    tree: Ints
    """(n,): the number of each node's tree, -1 outside."""
    inner: Ints
    """All edges inside, child to parent."""


def random_forest(arrays: Arrays, random: np.random.Generator, share: float) -> Forest:
    """A forest that nodes join in random order unless that closes a cycle.

    `share` of the nodes are asked; the fewer, the smaller the trees. In half of the forests some
    nodes of many edges come first, with their neighbours: such a node can change only together
    with most of these, and has little chance to be in a forest otherwise.
    """
    rank = random.random(arrays.num_nodes)
    if len(arrays.source) and random.random() < 0.5:
        for centre in arrays.source[random.integers(0, len(arrays.source), _CENTRES)].tolist():
            rank[arrays.target[arrays.out_edges[centre]]] -= 1.0
            rank[centre] -= 2.0
    order = np.argsort(rank, kind="stable")
    asked: list[int] = order[: max(1, int(share * len(order)))].tolist()
    component = [-1] * arrays.num_nodes
    target: list[int] = arrays.target.tolist()
    for node in asked:
        found = [node]
        for edge in arrays.out_edges[node]:
            other = target[edge]
            if component[other] >= 0:
                root = _find(component, other)
                if root in found:
                    break
                found.append(root)
        else:
            for root in found:
                component[root] = node
    return _rooted(arrays, component, asked)


def _find(component: list[int], node: int) -> int:
    while component[node] != node:
        component[node] = component[component[node]]
        node = component[node]
    return node


def _rooted(arrays: Arrays, component: list[int], order: list[int]) -> Forest:
    target: list[int] = arrays.target.tolist()
    tree = [-1] * arrays.num_nodes
    roots: list[int] = []
    for node in order:
        if component[node] == node:
            tree[node] = len(roots)
            roots.append(node)
    levels: list[Level] = []
    front = roots
    while front:
        edges: list[int] = []
        following: list[int] = []
        for node in front:
            for edge in arrays.out_edges[node]:
                other = target[edge]
                if component[other] >= 0 and tree[other] < 0:
                    tree[other] = tree[node]
                    following.append(other)
                    edges.append(edge ^ 1)
        if edges:
            levels.append(_level(arrays, np.array(edges, np.int64)))
        front = following
    number = np.array(tree, np.int64)
    inside = number >= 0
    empty = np.zeros(0, np.int64)
    return Forest(
        roots=np.array(roots, np.int64),
        levels=levels,
        boundary=np.flatnonzero(inside[arrays.target] & ~inside[arrays.source]),
        nodes=np.flatnonzero(inside),
        tree=number,
        inner=np.concatenate([level.edges for level in levels]) if levels else empty,
    )


def _level(arrays: Arrays, edges: Ints) -> Level:
    child, parent = arrays.source[edges], arrays.target[edges]
    width, height = arrays.sizes[child], arrays.sizes[parent]
    row_width = np.repeat(width, height)
    return Level(
        edges=edges,
        index=ranges(arrays.entry_offsets[edges], width * height),
        state=ranges(np.repeat(arrays.offsets[child], height), row_width),
        cuts=segment_starts(row_width),
        parent_states=ranges(arrays.offsets[parent], height),
    )


def boundary_costs(arrays: Arrays, forest: Forest, choice: Ints) -> Floats:
    """(S,): what the states inside cost with the fixed neighbours outside; zero elsewhere."""
    edges = forest.boundary
    inside, outside = arrays.target[edges], arrays.source[edges]
    counts = arrays.sizes[inside]
    # the reverse edge lies by the strategies of the fixed node: one row of it
    rows = arrays.entry_offsets[edges ^ 1] + choice[outside] * counts
    states = ranges(arrays.offsets[inside], counts)
    return sums(states, arrays.entries[ranges(rows, counts)], len(arrays.unary))


def best_choice(arrays: Arrays, forest: Forest, costs: Floats, choice: Ints) -> Ints:
    """`choice` with the nodes inside at the least of state costs (S,) and edges inside."""
    belief = costs.copy()
    for level in reversed(forest.levels):
        least = np.minimum.reduceat(arrays.entries[level.index] + belief[level.state], level.cuts)
        np.add.at(belief, level.parent_states, least)
    result = choice.copy()
    counts = arrays.sizes[forest.roots]
    states = ranges(arrays.offsets[forest.roots], counts)
    result[forest.roots] = segment_argmin(belief[states], counts)[1]
    for level in forest.levels:
        child, parent = arrays.source[level.edges], arrays.target[level.edges]
        counts = arrays.sizes[child]
        rows = arrays.entry_offsets[level.edges] + result[parent] * counts
        states = ranges(arrays.offsets[child], counts)
        costs = arrays.entries[ranges(rows, counts)] + belief[states]
        result[child] = segment_argmin(costs, counts)[1]
    return result


def tree_costs(arrays: Arrays, forest: Forest, costs: Floats, choice: Ints) -> Floats:
    """(number of trees,): what each tree costs by state costs (S,) and edges inside."""
    count = len(forest.roots)
    states = costs[arrays.offsets[forest.nodes] + choice[forest.nodes]]
    result = sums(forest.tree[forest.nodes], states, count)
    edges = arrays.entry(forest.inner, choice)
    return result + sums(forest.tree[arrays.source[forest.inner]], edges, count)


def forest_work(forest: Forest) -> float:
    """Units of work (`budget`) of a round over a forest."""
    entries = sum(len(level.index) for level in forest.levels)
    return 2.0 * entries + LEVEL * (2 * len(forest.levels) + 20)
