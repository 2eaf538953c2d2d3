"""Small random problems, and their answers by trying everything."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from hypothesis import strategies as st

from autopar.passes.solver.problem import FORBIDDEN, Problem, make_problem

COSTS = st.one_of(
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(-5, 10**6),
    st.just(FORBIDDEN),
)
DEAR = st.one_of(st.integers(0, 9), st.sampled_from([FORBIDDEN, FORBIDDEN + 3, 5 * FORBIDDEN]))
LARGE = st.one_of(st.integers(0, 10**9), st.integers(-(10**13), 10**13), st.integers(0, 10**17))
ANY = st.integers(-(2**63), 2**63 - 1)


@st.composite
def problems(
    draw: st.DrawFn, costs: st.SearchStrategy[int] = COSTS, nodes: int = 5, most_edges: int = 7
) -> Problem:
    """Up to that many nodes; parallel, one-, two- and three-ended edges; often a tight limit."""
    count = draw(st.integers(0, nodes))
    sizes = [draw(st.integers(1, 3)) for _ in range(count)]
    intervals: list[list[int]] = []
    for _ in range(count):
        start = draw(st.integers(-2, 6))
        intervals.append([start, start + draw(st.integers(0, 5))])
    node_costs = [[draw(costs) for _ in range(size)] for size in sizes]
    usages = [[draw(st.integers(0, 6)) for _ in range(size)] for size in sizes]
    edges: list[list[int]] = []
    if count:
        ends = st.lists(st.integers(0, count - 1), min_size=0, max_size=3)
        pair = st.lists(st.integers(0, count - 1), min_size=2, max_size=2)
        edges = draw(st.lists(st.one_of(pair, pair, ends), max_size=most_edges))
    edge_costs = [[draw(costs) for _ in range(prod(sizes[v] for v in e))] for e in edges]
    limit = draw(st.one_of(st.none(), st.integers(0, 14)))
    return make_problem(intervals, node_costs, usages, edges, edge_costs, limit)


def cost_and_fit(problem: Problem, choice: tuple[int, ...]) -> tuple[int, bool]:
    """Straight from the format's definition, one Python integer at a time."""
    cost = sum(int(problem.costs_of(v)[s]) for v, s in enumerate(choice))
    for edge in range(problem.num_edges):
        index = 0
        for end in problem.ends_of(edge).tolist():
            index = index * len(problem.costs_of(end)) + choice[end]
        cost += int(problem.edge_costs_of(edge)[index])
    if problem.usage_limit is None:
        return cost, True
    for t in set(problem.intervals.reshape(-1).tolist()):
        used = sum(
            int(problem.usages_of(v)[s])
            for v, s in enumerate(choice)
            if problem.intervals[v, 0] <= t < problem.intervals[v, 1]
        )
        if used > problem.usage_limit:
            return cost, False
    return cost, True


def brute_force(problem: Problem) -> int | None:
    """The least cost of all choices that fit, None if none does."""
    found = [
        cost
        for choice in product(*(range(k) for k in problem.num_strategies.tolist()))
        for cost, fits in [cost_and_fit(problem, choice)]
        if fits
    ]
    return min(found, default=None)


def chain(length: int, size: int, seed: int, limit: int | None) -> Problem:
    """A chain with a skip now and then, as of layers with residual connections."""
    import numpy as np

    random = np.random.default_rng(seed)
    costs = random.integers(0, 100, (length, size)).tolist()
    usages = random.integers(1, 50, (length, size)).tolist()
    spans = [[t, t + int(random.integers(1, 6))] for t in range(length)]
    edges = [[t, t + 1] for t in range(length - 1)]
    edges += [[t, t + 3] for t in range(0, length - 3, 10)]
    edge_costs: list[Any] = [random.integers(0, 100, size * size).tolist() for _ in edges]
    return make_problem(spans, costs, usages, edges, edge_costs, limit)
