"""Each reduction keeps the least cost, and its trace leads back to a solution of that cost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings

from autopar.passes.solver.arrays import flatten
from autopar.passes.solver.evaluate import evaluate
from autopar.passes.solver.graph import Contradiction, Graph, build_graph, maximal_live_sets
from autopar.passes.solver.problem import FORBIDDEN, Problem, make_problem
from autopar.passes.solver.reductions import (
    drop_dominated,
    forget_slack,
    minimise_out,
    propagate,
    reduce_graph,
)

from .problems import brute_force, problems


def best_of_core(graph: Graph) -> dict[int, int] | None:
    """The cheapest choice of the living nodes that fits, by trying all."""
    arrays = flatten(graph)
    best, least = None, np.inf
    for choice in product(*(range(graph.size(v)) for v in graph.nodes)):
        chosen = np.array(choice, np.int64)
        cost = sum(float(graph.unary[v][s]) for v, s in zip(graph.nodes, choice, strict=True))
        where = dict(zip(graph.nodes, choice, strict=True))
        for u in graph.nodes:
            for v, matrix in graph.adjacent[u].items():
                if u < v:
                    cost += float(matrix[where[u], where[v]])
        if cost < least and (arrays.load(chosen) <= arrays.limit).all():
            best, least = where, cost
    if best is not None:
        assert least + graph.constant < FORBIDDEN
    return best


def without_memory_first(graph: Graph) -> None:
    forget_slack(graph)
    minimise_out(graph)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda _graph: None,
        propagate,
        forget_slack,
        drop_dominated,
        without_memory_first,
        reduce_graph,
    ],
    ids=["none", "propagate", "forget_slack", "drop_dominated", "minimise_out", "all"],
)
@given(problem=problems())
@settings(max_examples=80, deadline=None)
def test_the_least_cost_stays(reduce: Callable[[Graph], None], problem: Problem) -> None:
    best = brute_force(problem)
    if best is not None and best >= FORBIDDEN // 2:
        best = None
    try:
        graph = build_graph(problem)
        reduce(graph)
        chosen = best_of_core(graph)
    except Contradiction:
        chosen = None
    if best is None:
        assert chosen is None
    else:
        assert chosen is not None
        judged = evaluate(problem, graph.expand(chosen)[: problem.num_nodes])
        assert judged.feasible and judged.cost == best


def test_functional_edges_fold() -> None:
    """Three values in lockstep, one of them in memory: one node is left, with all rows."""
    x = FORBIDDEN
    same = [0, x, x, 0]
    problem = make_problem(
        [[0, 4], [2, 6], [4, 8]],
        [[1, 5], [0, 0], [2, 1]],
        [[3, 1], [3, 2], [9, 0]],
        [[0, 1], [1, 2]],
        [same, same],
        6,
    )
    graph = build_graph(problem)
    propagate(graph)
    assert len(graph.nodes) == 1 and len(graph.spans[graph.nodes[0]]) == 3
    reduce_graph(graph)
    assert graph.nodes == [] and graph.constant == 6.0
    assert graph.expand({}).tolist() == [1, 1, 1]


def test_separable_edges_go() -> None:
    problem = make_problem([[0, 0]] * 2, [[0, 0]] * 2, [[0, 0]] * 2, [[0, 1]], [[1, 2, 11, 12]])
    graph = build_graph(problem)
    propagate(graph)
    assert not graph.adjacent[0]


def test_a_dominated_strategy_that_saves_memory_stays() -> None:
    problem = make_problem([[0, 2], [0, 2]], [[1, 9], [1, 9]], [[5, 1], [5, 1]], usage_limit=6)
    graph = build_graph(problem)
    forget_slack(graph)
    drop_dominated(graph)
    assert [graph.size(v) for v in graph.nodes] == [2, 2]


def test_live_sets_are_the_maximal_ones() -> None:
    problem = make_problem(
        [[0, 4], [1, 3], [3, 6], [5, 9], [7, 8], [9, 9]], [[0]] * 6, [[1]] * 6, usage_limit=9
    )
    assert maximal_live_sets(problem).tolist() == [1, 3, 5, 7]


def test_repeated_ends_mean_the_diagonal() -> None:
    problem = make_problem([[0, 0]], [[0, 0]], [[0, 0]], [[0, 0]], [[7, 1, 1, 5]])
    graph = build_graph(problem)
    assert graph.unary[0].tolist() == [7.0, 5.0]
