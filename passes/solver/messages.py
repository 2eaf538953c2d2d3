"""Messages over the edges of a graph: a lower bound, and choices guided by it.

Sequential tree-reweighted message passing (TRW-S): Kolmogorov, "Convergent Tree-Reweighted Message
Passing for Energy Minimization", PAMI 2006. Nodes are ordered as in the program; all nodes of one
depth in that order are updated at once. Messages shift costs between nodes and edges, which changes
the cost of no solution; the sum of all least entries is a bound that each sweep raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from .arrays import Arrays, ranges, segment_argmin, segment_starts, sums
from .budget import LEVEL
from .graph import Floats
from .problem import Ints


@dataclass(frozen=True, eq=False)
class _Step:
    """The directed edges that leave the nodes of one depth, all up or all down."""

    edges: Ints
    entries: Floats
    """Their tables, one after the other."""
    source_states: Ints
    weight: Floats
    """Per source state: the share of the belief that the edge may use."""
    reverse: Ints
    """Per source state: where the message the other way is."""
    column: Ints
    """Per entry: its source state, counted within the step."""
    cuts: Ints
    """Where the entries of one target state begin."""
    message: Ints
    """Per target state: where the message is."""
    target_states: Ints
    target_counts: Ints
    target_starts: Ints


class Messages:
    """One message for each directed edge, over the states of its target."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        source, target = arrays.source, arrays.target
        self._counts = arrays.sizes[target]
        self._starts = segment_starts(self._counts)
        self._states = ranges(arrays.offsets[target], self._counts)
        self.values = np.zeros(int(self._counts.sum()))
        self._up = source < target
        size = arrays.num_nodes
        up = np.bincount(source[self._up], minlength=size)
        down = np.bincount(source[~self._up], minlength=size)
        self._share = 1.0 / np.maximum(1, np.maximum(up, down))
        self._degree = up + down
        depth = _depths(arrays)
        self._by_depth = _groups(np.arange(size), depth)
        self._up_steps = self._steps(self._up, depth)
        self._down_steps = self._steps(~self._up, depth)[::-1]
        self._from_below = np.repeat(~self._up, self._counts)
        self.sweep_work = 2 * (len(arrays.entries) // 2 + len(self._by_depth) * LEVEL)
        """Units of work of a sweep; bounds and choices take half of it."""

    def _steps(
        self, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]], depth: Ints
    ) -> list[_Step]:
        edges = np.flatnonzero(chosen)
        return [self._step(group) for group in _groups(edges, depth[self.arrays.source[edges]])]

    def _step(self, edges: Ints) -> _Step:
        arrays = self.arrays
        source, target = arrays.source[edges], arrays.target[edges]
        width, height = arrays.sizes[source], arrays.sizes[target]
        row_width = np.repeat(width, height)
        return _Step(
            edges=edges,
            entries=arrays.entries[ranges(arrays.entry_offsets[edges], width * height)],
            source_states=ranges(arrays.offsets[source], width),
            weight=np.repeat(self._share[source], width),
            reverse=ranges(self._starts[edges ^ 1], width),
            column=ranges(np.repeat(segment_starts(width), height), row_width),
            cuts=segment_starts(row_width),
            message=ranges(self._starts[edges], height),
            target_states=ranges(arrays.offsets[target], height),
            target_counts=height,
            target_starts=segment_starts(height),
        )

    def beliefs(self, unary: Floats) -> Floats:
        """(S,): the states' costs with what the messages brought."""
        return unary + sums(self._states, self.values, len(unary))

    def sweep(self, unary: Floats) -> Floats:
        """Updates all messages, up and down the order, for node costs (S,); the beliefs."""
        beliefs = self.beliefs(unary)
        for step in (*self._up_steps, *self._down_steps):
            carried = step.weight * beliefs[step.source_states] - self.values[step.reverse]
            new = np.minimum.reduceat(step.entries + carried[step.column], step.cuts)
            new -= np.repeat(np.minimum.reduceat(new, step.target_starts), step.target_counts)
            np.add.at(beliefs, step.target_states, new - self.values[step.message])
            self.values[step.message] = new
        return beliefs

    def bound(self, unary: Floats) -> float:
        """A lower bound on the cost of all choices at node costs (S,).

        Each node's belief is shared out evenly to its edges, then every edge takes its least entry.
        """
        arrays = self.arrays
        beliefs = self.beliefs(unary)
        total = 0.0
        alone = self._degree == 0
        if arrays.num_nodes:
            total += float(np.minimum.reduceat(beliefs, arrays.offsets[:-1])[alone].sum())
        share = np.repeat(1.0 / np.maximum(1, self._degree), arrays.sizes)
        for step in self._up_steps:
            best, at_target = self._least(step, share * beliefs)
            total += float(np.minimum.reduceat(best + at_target, step.target_starts).sum())
        return total

    def _least(self, step: _Step, shared: Floats) -> tuple[Floats, Floats]:
        """Per target state: (least over the source of the shifted entries, the target's share)."""
        carried = shared[step.source_states] - self.values[step.reverse]
        best = np.minimum.reduceat(step.entries + carried[step.column], step.cuts)
        return best, shared[step.target_states] - self.values[step.message]

    def excess(self, unary: Floats) -> Floats:
        """(S,): how far above `bound` a choice must be that takes this state."""
        arrays = self.arrays
        beliefs = self.beliefs(unary)
        alone = np.repeat(self._degree == 0, arrays.sizes)
        least = np.repeat(np.minimum.reduceat(beliefs, arrays.offsets[:-1]), arrays.sizes)
        result = np.where(alone, beliefs - least, 0.0)
        shared = np.repeat(1.0 / np.maximum(1, self._degree), arrays.sizes) * beliefs
        for step in (*self._up_steps, *self._down_steps):
            best, at_target = self._least(step, shared)
            whole = best + at_target
            lowest = np.minimum.reduceat(whole, step.target_starts)
            above = whole - np.repeat(lowest, step.target_counts)
            np.add.at(result, step.target_states, above)
        return result

    def choose(self, unary: Floats) -> Ints:
        """(n,): each node in order takes its best, by choices before and messages from after."""
        arrays = self.arrays
        below = self._from_below
        cost = unary + sums(self._states[below], self.values[below], len(unary))
        choice = np.zeros(arrays.num_nodes, np.int64)
        for nodes, step in zip_longest(self._by_depth, self._up_steps):
            counts = arrays.sizes[nodes]
            states = ranges(arrays.offsets[nodes], counts)
            choice[nodes] = segment_argmin(cost[states], counts)[1]
            if step is not None:
                rows = arrays.entry_offsets[step.edges ^ 1]
                rows = rows + choice[arrays.source[step.edges]] * step.target_counts
                added = arrays.entries[ranges(rows, step.target_counts)]
                np.add.at(cost, step.target_states, added)
        return choice


def _depths(arrays: Arrays) -> Ints:
    """(n,): one more than the deepest of the neighbours that come before."""
    depth = [0] * arrays.num_nodes
    target: list[int] = arrays.target.tolist()
    for node, edges in enumerate(arrays.out_edges):
        before = [depth[target[e]] for e in edges if target[e] < node]
        depth[node] = 1 + max(before, default=-1)
    return np.array(depth, np.int64)


def _groups(items: Ints, keys: Ints) -> list[Ints]:
    """The items of each key that there is, by ascending key."""
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(items[order], cuts) if len(items) else []
