"""A reduced problem in flat arrays, for searches that work on thousands of nodes at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .graph import Floats, Graph
from .problem import Ints


@dataclass(frozen=True, eq=False)
class Arrays:
    """n nodes, numbered anew; a *state* is a strategy of a node, S in all.

    Each edge is there twice, as two directed edges d and d ^ 1 with their tables turned around:
    entry `entry_offsets[d] + j * size(source) + i` is the cost of j at the target and i at the
    source.
    """

    nodes: Ints
    """(n,): the nodes' ids in the graph."""
    offsets: Ints
    """(n + 1,): where each node's states begin."""
    unary: Floats
    """(S,)"""
    source: Ints
    """(D,)"""
    target: Ints
    """(D,)"""
    entry_offsets: Ints
    """(D,)"""
    entries: Floats
    """Finite: what is forbidden costs more than all the rest can together."""
    row_node: Ints
    """(R,): the node that each row of memory belongs to."""
    row_spans: Ints
    """(R, 2): the live sets it counts in, half open."""
    row_offsets: Ints
    """(R,): where the row's bytes, one for each state of its node, begin in `row_bytes`."""
    row_bytes: Ints
    limit: Ints
    """(T,)"""

    @property
    def num_nodes(self) -> int:
        return len(self.nodes)

    @cached_property
    def sizes(self) -> Ints:
        """(n,): states of each node."""
        return np.diff(self.offsets)

    @cached_property
    def owner(self) -> Ints:
        """(S,): the node of each state."""
        return np.repeat(np.arange(self.num_nodes), self.sizes)

    @cached_property
    def out_edges(self) -> list[list[int]]:
        """Directed edges by source."""
        return _by_node(self.source, self.num_nodes)

    @cached_property
    def _row_states(self) -> Ints:
        """State of each entry of `row_bytes`."""
        sizes = self.sizes[self.row_node]
        return ranges(self.offsets[self.row_node], sizes)

    @cached_property
    def _float_bytes(self) -> Floats:
        return self.row_bytes.astype(np.float64)

    def cost(self, choice: Ints) -> float:
        """Cost of one strategy per node (n,)."""
        forward = np.arange(0, len(self.source), 2)
        return float(
            self.unary[self.offsets[:-1] + choice].sum() + self.entry(forward, choice).sum()
        )

    def entry(self, edges: Ints, choice: Ints) -> Floats:
        """Cost of directed edges at the choices of their ends."""
        source, target = self.source[edges], self.target[edges]
        index = self.entry_offsets[edges] + choice[target] * self.sizes[source] + choice[source]
        return self.entries[index]

    def row_usage(self, choice: Ints) -> Ints:
        """(R,): bytes of each row at the choices."""
        return self.row_bytes[self.row_offsets + choice[self.row_node]]

    def load(self, choice: Ints) -> Ints:
        """(T,): bytes in use at each live set."""
        return self.spread(self.row_usage(choice), slice(None))

    def spread(self, usage: Ints, rows: Ints | slice) -> Ints:
        """(T,): the sum at each live set of bytes `usage` of rows."""
        steps = np.zeros(len(self.limit) + 1, np.int64)
        spans = self.row_spans[rows]
        np.add.at(steps, spans[:, 0], usage)
        np.subtract.at(steps, spans[:, 1], usage)
        return np.cumsum(steps[:-1])

    def priced(self, prices: Floats) -> Floats:
        """(S,): what the states' memory costs at prices (T,) a byte."""
        total = np.concatenate([[0.0], np.cumsum(prices)])
        row_price = total[self.row_spans[:, 1]] - total[self.row_spans[:, 0]]
        worth = np.repeat(row_price, self.sizes[self.row_node])
        return sums(self._row_states, worth * self._float_bytes, len(self.unary))


def ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenated starts[i], starts[i] + 1, …, counts[i] of each."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def sums(places: Ints, values: Floats, count: int) -> Floats:
    """(count,): the sum of the values at each place."""
    return np.bincount(places, values, count).astype(np.float64, copy=False)


def _by_node(nodes: Ints, count: int) -> list[list[int]]:
    """Positions in `nodes`, by node."""
    order = np.argsort(nodes, kind="stable")
    cuts = np.searchsorted(nodes[order], np.arange(1, count))
    return [part.tolist() for part in np.split(order, cuts)] if count else []


def segment_starts(counts: Ints) -> Ints:
    """Where each of consecutive segments begins."""
    return np.cumsum(counts) - counts


def segment_argmin(values: Floats, counts: Ints) -> tuple[Floats, Ints]:
    """(least, first position of it) within consecutive segments, none of them empty."""
    starts = segment_starts(counts)
    least = np.minimum.reduceat(values, starts)
    hits = np.flatnonzero(values == np.repeat(least, counts))
    first = hits[np.searchsorted(hits, starts)]
    return least, first - starts


def flatten(graph: Graph) -> Arrays:
    """The arrays of the nodes of a graph that are alive."""
    nodes = graph.nodes
    number = {node: index for index, node in enumerate(nodes)}
    sizes = np.array([graph.size(v) for v in nodes], np.int64)
    pairs = [(u, v) for u in nodes for v in sorted(graph.adjacent[u]) if u < v]
    # the edge u -> v, by the strategies of its target v, then the way back
    tables = [t for u, v in pairs for t in (graph.adjacent[v][u], graph.adjacent[u][v])]
    lengths = np.array([table.size for table in tables], np.int64)
    source = [end for u, v in pairs for end in (number[u], number[v])]
    target = [end for u, v in pairs for end in (number[v], number[u])]
    counts = np.array([len(graph.spans[v]) for v in nodes], np.int64)
    row_node = np.repeat(np.arange(len(nodes)), counts)
    unary = _floats([graph.unary[v] for v in nodes])
    entries = _floats([table.reshape(-1) for table in tables])
    finite = np.where(np.isfinite(entries), entries, 0.0)
    forbidden = 1.0 + 2.0 * float(np.abs(unary).sum() + _largest(finite, lengths).sum())
    return Arrays(
        nodes=np.array(nodes, np.int64),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        unary=unary,
        source=np.array(source, np.int64),
        target=np.array(target, np.int64),
        entry_offsets=segment_starts(lengths),
        entries=np.where(np.isfinite(entries), entries, forbidden),
        row_node=row_node,
        row_spans=_ints([graph.spans[v].reshape(-1) for v in nodes]).reshape(-1, 2),
        row_offsets=segment_starts(sizes[row_node]),
        row_bytes=_ints([graph.usages[v].reshape(-1) for v in nodes]),
        limit=graph.limit,
    )


def _floats(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _ints(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _largest(entries: Floats, lengths: Ints) -> Floats:
    """The largest magnitude in each table."""
    if not len(lengths):
        return np.zeros(0)
    return np.maximum.reduceat(np.abs(entries), segment_starts(lengths))
