"""The parts of the search: bounds bound, exact methods agree, budgets end."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings

from autopar.passes.solver.arrays import Arrays, flatten
from autopar.passes.solver.budget import Budget
from autopar.passes.solver.dual import Ascent
from autopar.passes.solver.elimination import eliminate_all, elimination_order
from autopar.passes.solver.exact import branch_and_bound
from autopar.passes.solver.forests import (
    best_choice,
    boundary_costs,
    random_forest,
    tree_costs,
)
from autopar.passes.solver.graph import Contradiction, build_graph
from autopar.passes.solver.local_search import Incumbent, LocalSearch
from autopar.passes.solver.messages import Messages
from autopar.passes.solver.problem import FORBIDDEN, Problem
from autopar.passes.solver.pruning import prune

from .problems import brute_force, chain, problems


def budget(units: float = 1e7) -> Budget:
    return Budget(units, time.perf_counter() + 60)


def core(problem: Problem) -> Arrays:
    return flatten(build_graph(problem))


@given(problems())
@settings(max_examples=60, deadline=None)
def test_bounds_never_exceed_the_optimum(problem: Problem) -> None:
    best = brute_force(problem)
    if best is None or best >= FORBIDDEN // 2 or not problem.num_nodes:
        return
    graph = build_graph(problem)
    arrays = flatten(graph)
    incumbent = Incumbent(arrays)
    dual = Ascent(arrays, incumbent, np.random.default_rng(0)).run(budget(3e6))
    assert dual.bound + graph.constant <= best + 1e-6 * max(1, abs(best))
    if incumbent.feasible:
        assert incumbent.cost + graph.constant >= best


def test_sweeps_solve_a_tree() -> None:
    problem = chain(9, 4, 0, None)
    graph = build_graph(problem)
    arrays = flatten(graph)
    messages = Messages(arrays)
    for _ in range(100):
        messages.sweep(arrays.unary)
    order = elimination_order(graph, 1 << 20)
    assert order is not None
    _, cost = eliminate_all(graph, order, budget())
    assert messages.bound(arrays.unary) == pytest.approx(cost, rel=1e-6)
    assert arrays.cost(messages.choose(arrays.unary)) == cost


@given(problems())
@settings(max_examples=60, deadline=None)
def test_excess_is_a_bound(problem: Problem) -> None:
    """Pruning by the optimum leaves nothing; by more than it, the optimum."""
    best = brute_force(problem)
    if best is None or best >= FORBIDDEN // 2 or not problem.num_nodes:
        return
    for slack in (0, 1):
        graph = build_graph(problem)
        arrays = flatten(graph)
        ascent = Ascent(arrays, Incumbent(arrays), np.random.default_rng(0))
        dual = ascent.run(budget(3e6))
        try:
            prune(graph, arrays, ascent.messages, dual, best - graph.constant + slack)
            pruned = flatten(graph)
            result = branch_and_bound(pruned, budget(), 20)
            left = np.inf if result.choice is None else pruned.cost(result.choice) + graph.constant
        except Contradiction:
            left = np.inf
        assert left == best if slack else left >= best


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_forests_are_solved_exactly(share: float) -> None:
    arrays = core(chain(60, 5, 0, None))
    random = np.random.default_rng(0)
    choice = random.integers(0, 5, 60)
    for _ in range(10):
        forest = random_forest(arrays, random, share)
        costs = arrays.unary + boundary_costs(arrays, forest, choice)
        found = best_choice(arrays, forest, costs, choice)
        gain = tree_costs(arrays, forest, costs, found) - tree_costs(arrays, forest, costs, choice)
        assert (gain <= 0).all()
        assert arrays.cost(found) - arrays.cost(choice) == gain.sum()
        outside = np.setdiff1d(np.arange(60), forest.nodes)
        assert (found[outside] == choice[outside]).all()
        for node in forest.nodes.tolist():  # no single change is better
            for strategy in range(5):
                other = found.copy()
                other[node] = strategy
                assert arrays.cost(other) >= arrays.cost(found)


def test_local_search_repairs_and_improves() -> None:
    arrays = core(chain(200, 6, 0, 90))
    incumbent = Incumbent(arrays)
    incumbent.offer(arrays.unary.reshape(-1, 6).argmin(axis=1), np.full(len(arrays.limit), 10**6))
    search = LocalSearch(arrays, incumbent, np.zeros(len(arrays.limit)), np.random.default_rng(0))
    assert search.overuse > 0
    search.run(budget(3e7))
    assert incumbent.feasible and search.overuse == 0
    assert (arrays.load(incumbent.choice) <= arrays.limit).all()
    assert incumbent.cost == arrays.cost(incumbent.choice)


def test_branch_and_bound_says_when_nothing_fits() -> None:
    arrays = core(chain(6, 3, 0, 1))
    result = branch_and_bound(arrays, budget(), 20)
    assert result.choice is None and result.proved


def test_branch_and_bound_stops_at_the_clock() -> None:
    mine = budget()
    result = branch_and_bound(core(chain(6, 3, 0, 200)), mine, 0.0)
    assert result.choice is None and not result.proved and mine.clock_bound


def test_a_wide_graph_is_not_eliminated() -> None:
    assert elimination_order(build_graph(chain(60, 6, 0, None)), 30) is None


def test_parts_of_a_budget_are_paid_from_the_whole() -> None:
    whole = Budget(100, time.perf_counter() + 60)
    part = whole.part(0.5, at_most=40)
    part.spend(40)
    assert part.exhausted and not whole.exhausted and whole.left == 60
    late = Budget(100, time.perf_counter() - 1)
    assert late.part(1.0).exhausted and late.clock_bound
