"""Trying every choice, in exact integers: for small problems of costs beyond floating point.

HiGHS tells costs apart up to 10^-9 of their sum, and float64 adds whole numbers up to 2^53; a
choice among a few thousand needs neither.
"""

from __future__ import annotations

from math import log2, prod

import numpy as np

from .evaluate import edge_entries, summable
from .graph import maximal_live_sets
from .problem import Ints, Problem

_DEAR = 2.0**28
"""Sums of costs from which floating point does not prove that a choice is the cheapest."""
_MOST_NUMBERS = 1 << 22
"""To add up, for all choices together."""


def is_for_trying(problem: Problem) -> bool:
    """Whether costs are large and choices few."""
    if np.log2(problem.num_strategies).sum() > log2(_MOST_NUMBERS) or problem.spread < _DEAR:
        return False
    memory = problem.num_nodes * len(maximal_live_sets(problem))
    numbers = problem.num_nodes + memory + problem.num_edges
    return prod(problem.num_strategies.tolist()) * numbers <= _MOST_NUMBERS


def cheapest(problem: Problem) -> Ints:
    """(n,): the cheapest choice that fits into memory, where one does; the first of several."""
    chosen = _all_choices(problem)
    entries = problem.node_offsets[:-1] + chosen
    at_edges = problem.edge_costs[edge_entries(problem, chosen)]
    costs = summable(np.concatenate([problem.node_costs[entries], at_edges], axis=1)).sum(axis=1)
    if problem.usage_limit is not None:
        times = maximal_live_sets(problem)
        births, deaths = problem.intervals[:, :1], problem.intervals[:, 1:]
        is_live = ((births <= times) & (times < deaths)).astype(np.int64)
        used = summable(problem.node_usages[entries]) @ is_live
        fits = (used <= problem.usage_limit).all(axis=1)
        chosen, costs = chosen[fits], costs[fits]
    return chosen[int(costs.argmin())]


def _all_choices(problem: Problem) -> Ints:
    """(N, n), in lexicographic order."""
    sizes = problem.num_strategies
    count = int(sizes.prod())
    return np.arange(count)[:, None] // (count // np.cumprod(sizes)) % sizes
