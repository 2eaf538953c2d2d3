"""What a solution costs, exactly, and whether the memory suffices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .problem import Ints, Problem, ProblemError


@dataclass(frozen=True)
class Overuse:
    """More memory in use than there is."""

    time: int
    used: int
    limit: int

    @property
    def missing(self) -> int:
        """Bytes above the limit."""
        return self.used - self.limit

    def __str__(self) -> str:
        return (
            f"{self.used} in use at time {self.time}, {self.missing} above the limit {self.limit}"
        )


@dataclass(frozen=True)
class Evaluation:
    """A solution's exact cost, and where it first takes more memory than there is."""

    cost: int
    overuse: Overuse | None

    @property
    def feasible(self) -> bool:
        return self.overuse is None


def evaluate(problem: Problem, strategies: Sequence[int] | Ints) -> Evaluation:
    """Judges one strategy index per node; ProblemError if a choice does not exist.

    Sums are Python integers: ten forbidden entries overflow 64 bits.
    """
    chosen = checked_strategies(problem, strategies)
    node_entries = problem.node_offsets[:-1] + chosen
    entries = edge_entries(problem, chosen)
    cost = sum(problem.node_costs[node_entries].tolist())
    cost += sum(problem.edge_costs[entries].tolist())
    return Evaluation(cost, first_overuse(problem, problem.node_usages[node_entries]))


def checked_strategies(problem: Problem, strategies: Sequence[int] | Ints) -> Ints:
    """The choices as an array (n,); ProblemError names the first that does not exist."""
    if len(strategies) != problem.num_nodes:
        raise ProblemError(
            f"the solution has {len(strategies)} entries for {problem.num_nodes} nodes"
        )
    for node, (choice, count) in enumerate(
        zip(strategies, problem.num_strategies.tolist(), strict=True)
    ):
        if not np.issubdtype(type(choice), np.integer):
            raise ProblemError(f"node {node}: strategy {choice!r} is not an integer")
        if not 0 <= choice < count:
            raise ProblemError(f"node {node}: strategy {choice} is not in 0..{count - 1}")
    return np.array(strategies, np.int64).reshape(-1)


def edge_entries(problem: Problem, chosen: Ints) -> Ints:
    """(…, m): where in `edge_costs` each edge's chosen entry is (mixed radix, first end slowest),
    of choices (…, n)."""
    arity = np.diff(problem.end_offsets)
    sizes = problem.num_strategies
    index = np.zeros((*chosen.shape[:-1], problem.num_edges), np.int64)
    for position in range(int(arity.max(initial=0))):
        has = arity > position
        end = problem.ends[problem.end_offsets[:-1][has] + position]
        index[..., has] = index[..., has] * sizes[end] + chosen[..., end]
    return problem.cost_offsets[:-1] + index


def first_overuse(problem: Problem, usages: Ints) -> Overuse | None:
    """The first time at which the nodes' usages (n,) sum to more than the limit."""
    if problem.usage_limit is None:
        return None
    times, totals = usage_profile(problem.intervals, usages)
    over = np.flatnonzero(totals > problem.usage_limit)
    if not over.size:
        return None
    return Overuse(int(times[over[0]]), int(totals[over[0]]), problem.usage_limit)


def worst_overuse(problem: Problem, usages: Ints) -> Overuse | None:
    """The time at which most memory is missing, None if none ever is."""
    if problem.usage_limit is None:
        return None
    times, totals = usage_profile(problem.intervals, usages)
    peak = int(np.argmax(totals))
    if totals[peak] <= problem.usage_limit:
        return None
    return Overuse(int(times[peak]), int(totals[peak]), problem.usage_limit)


def usage_profile(intervals: Ints, usages: Ints) -> tuple[Ints, NDArray[Any]]:
    """(times, totals): memory in use from each time on, until the next one listed."""
    live = (intervals[:, 0] < intervals[:, 1]) & (usages > 0)
    spans, exact = intervals[live], summable(usages[live])
    times, index = np.unique(spans, return_inverse=True)
    if not len(times):
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    index = index.reshape(-1, 2)
    steps = np.zeros(len(times), exact.dtype)
    np.add.at(steps, index[:, 0], exact)
    np.subtract.at(steps, index[:, 1], exact)
    return times, np.cumsum(steps)


def summable(numbers: Ints) -> NDArray[Any]:
    """Numbers whose sums are exact: Python's (dtype object) where 64 bits might not do."""
    return numbers if np.abs(numbers, dtype=np.float64).sum() <= 2.0**62 else numbers.astype(object)
