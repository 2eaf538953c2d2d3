"""Plans on coarser grids, from which the search on a grid of many axes begins, and which may be
cheaper than those found on the grid where messages count.

A grid of 2x2x2 is also one of 2x4, of 4x2 and of 8: where axes next to each other split all
dimensions together, they are one axis. Such plans are among those of the grid, and with so much
fewer choices that they are found at once, mostly the cheapest of them. Their collectives are of few
kinds, so that more of them are made one, as the search takes them to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from .places import searched_axes
from .plan_graph import Node, PlanGraph

Kept = NDArray[np.bool_]
"""(choices,) of a node: whether it may choose so."""


def coarse_choices(graph: PlanGraph, fewest: int = 3) -> list[list[Kept]]:
    """For each coarser grid, of each node the choices that it has, none where it has none; no
    coarser grids where there are fewer axes than `fewest`."""
    axes = searched_axes(graph.table)
    if len(axes) < fewest:
        return []
    return [[_kept(node, groups) for node in graph.nodes] for groups in _coarser(axes)]


def _coarser(axes: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """The axes that are one axis of a coarser grid."""
    for count in range(len(axes) - 1):
        for cuts in combinations(range(1, len(axes)), count):
            bounds = pairwise((0, *cuts, len(axes)))
            yield [tuple(chain.from_iterable(axes[a:b])) for a, b in bounds if b - a > 1]


def _kept(node: Node, groups: Sequence[tuple[int, ...]]) -> Kept:
    if node.strategies:
        choices: Iterable[Iterable[tuple[int, ...]]] = (s.factors for s in node.strategies)
    else:
        choices = ((*spec.dims, *(axes for _, axes in spec.partial)) for spec in node.specs)
    return np.array([_together(groups, lists) for lists in choices], np.bool_)


def _together(groups: Sequence[tuple[int, ...]], lists: Iterable[tuple[int, ...]]) -> bool:
    """Whether each list of axes has all axes of a group, one after the other, or none."""
    for axes in lists:
        for group in groups:
            if group[0] in axes:
                at = axes.index(group[0])
                if axes[at : at + len(group)] != group:
                    return False
            elif not set(group).isdisjoint(axes):
                return False
    return True
