"""`solve` against trying everything, and what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.passes.solver import enumeration
from autopar.passes.solver.evaluate import evaluate
from autopar.passes.solver.problem import FORBIDDEN, Problem, ProblemError, make_problem
from autopar.passes.solver.solve import InfeasibleError, SolveOptions, check_memory, solve

from .problems import ANY, DEAR, LARGE, brute_force, chain, cost_and_fit, problems

QUICK = SolveOptions(time_limit_s=5)


def check(problem: Problem) -> None:
    best = brute_force(problem)
    if best is None:
        with pytest.raises(InfeasibleError):
            solve(problem, QUICK)
        return
    solution = solve(problem, QUICK)
    assert cost_and_fit(problem, tuple(solution.strategies)) == (solution.cost, True)
    assert solution.cost == best
    assert solution.lower_bound <= best
    assert solution.optimal and solution.gap == 0.0
    assert solution.reproducible


@given(problems())
@settings(max_examples=150, deadline=None)
def test_optimal_on_small_problems(problem: Problem) -> None:
    check(problem)


@given(problems(costs=DEAR))
@settings(max_examples=80, deadline=None)
def test_optimal_where_forbidden_entries_cannot_be_avoided(problem: Problem) -> None:
    check(problem)


@given(st.one_of(problems(LARGE), problems(LARGE, nodes=7, most_edges=0), problems(ANY, nodes=4)))
@settings(max_examples=150, deadline=None)
def test_optimal_at_any_cost(problem: Problem) -> None:
    """Costs whose sums float64 cannot hold, or HiGHS not tell apart."""
    check(problem)


@given(problems(LARGE), problems(ANY, nodes=4))
@settings(max_examples=60, deadline=None)
def test_costs_beyond_floating_point_are_searched(large: Problem, any_: Problem) -> None:
    """Where choices are too many to try: exact costs, true bounds, and nearly the best, but where
    costs of either sign cancel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enumeration, "_MOST_NUMBERS", 1)
        for problem in (large, any_):
            best = brute_force(problem)
            if best is not None:
                solution = solve(problem, QUICK)
                assert cost_and_fit(problem, tuple(solution.strategies)) == (solution.cost, True)
                assert solution.lower_bound <= best <= solution.cost
                if problem is large:
                    assert solution.cost - best <= 1e-9 * max(1, abs(best))


def test_a_search_that_is_cut_short_proves_nothing() -> None:
    """It has no bound on solutions without forbidden entries: that on others is none on all."""
    random, count, size = np.random.default_rng(0), 60, 12
    ends = [(u, v) for u in range(count) for v in range(u) if random.random() < 0.3]
    costs = random.integers(0, 1000, (len(ends), size, size))
    costs[random.random(costs.shape) < 0.05] = FORBIDDEN
    costs[:, 7, 7] = 250
    none, tables = [[0] * size] * count, costs.reshape(len(ends), -1).tolist()
    problem = make_problem([[0, 1]] * count, none, none, ends, tables)
    solution = solve(problem, SolveOptions(time_limit_s=60, work=1))
    assert solution.lower_bound <= evaluate(problem, [7] * count).cost < solution.cost


@pytest.mark.parametrize("limit", [None, 120, 100])
def test_chains_are_proved_optimal(limit: int | None) -> None:
    solution = solve(chain(80, 6, 0, limit), SolveOptions(time_limit_s=30))
    assert solution.optimal and solution.reproducible


def test_the_same_seed_gives_the_same_solution() -> None:
    problem = chain(120, 8, 1, 120)
    options = SolveOptions(time_limit_s=60, seed=3, work=2e7)
    first, second = solve(problem, options), solve(problem, options)
    assert first.reproducible and second.reproducible
    assert first.strategies == second.strategies
    assert first.lower_bound == second.lower_bound


@given(problems(), st.data())
@settings(max_examples=60, deadline=None)
def test_optimal_from_any_start(problem: Problem, data: st.DataObject) -> None:
    """Also from choices that do not fit, or that reductions drop."""
    start = [data.draw(st.integers(0, count - 1)) for count in problem.num_strategies.tolist()]
    best = brute_force(problem)
    if best is not None:
        assert solve(problem, QUICK, starts=[start]).cost == best


def test_the_answer_is_no_dearer_than_a_start() -> None:
    random, count, size = np.random.default_rng(0), 60, 12
    ends = [(u, v) for u in range(count) for v in range(u) if random.random() < 0.3]
    costs = random.integers(0, 1000, (len(ends), size * size)).tolist()
    problem = make_problem(
        [[0, 1]] * count, [[0] * size] * count, [[0] * size] * count, ends, costs
    )
    good = solve(problem, SolveOptions(time_limit_s=60, work=5e7))
    least = SolveOptions(time_limit_s=60, work=1)
    alone, begun = solve(problem, least), solve(problem, least, starts=[good.strategies])
    assert begun.cost <= good.cost < alone.cost


def test_the_clock_ends_the_search_and_says_so() -> None:
    solution = solve(chain(3000, 12, 1, 150), SolveOptions(time_limit_s=0.5, work=1e15))
    assert not solution.reproducible
    assert evaluate(chain(3000, 12, 1, 150), solution.strategies).feasible


def test_infeasible_says_what_is_missing() -> None:
    problem = make_problem([[0, 4], [2, 6]], [[1, 2], [3]], [[9, 5], [4]], usage_limit=8)
    with pytest.raises(InfeasibleError) as caught:
        solve(problem)
    assert str(caught.value) == (
        "infeasible: at time 2 the values alive take 9 even where each takes its least, "
        "1 above usage_limit 8; the least limit that can be met is 9"
    )
    assert solve(make_problem([[0, 4]], [[1, 2]], [[9, 5]], usage_limit=5)).strategies == [1]


def test_check_memory_takes_the_least() -> None:
    problem = make_problem([[0, 4], [2, 6]], [[1, 2], [3, 3]], [[9, 5], [4, 4]], usage_limit=9)
    assert check_memory(problem).tolist() == [1, 0]


def test_a_thrifty_choice_may_be_the_best() -> None:
    """Nothing cheaper than the first solution is left: that proves it."""
    problem = make_problem(
        [[0, 3], [1, 4]], [[1, 5], [2, 2]], [[8, 4], [6, 3]], [[0, 1]], [[0, 9, 9, 0]], 11
    )
    solution = solve(problem, QUICK)
    assert (solution.strategies, solution.lower_bound) == ([1, 1], 7)


def test_progress_is_told() -> None:
    said: list[str] = []
    solve(chain(60, 6, 0, 90), QUICK, progress=said.append)
    assert said[0] == "reducing the problem"


# ---- plug-ins and options ------------------------------------------------------------------------


def test_a_plugin_is_asked_and_checked() -> None:
    problem = make_problem([[0, 4], [2, 6]], [[1, 2], [3, 9]], [[9, 5], [4, 1]], usage_limit=10)
    solution = solve(problem, plugin=lambda _: [1, 0])
    assert (solution.strategies, solution.cost, solution.lower_bound) == ([1, 0], 5, 4)
    assert not solution.optimal and solution.gap == 0.2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1], "the solution has 1 entries for 2 nodes"),
        ([1, 2], "node 1: strategy 2 is not in 0..1"),
        ([1, True], "node 1: strategy True is not an integer"),
        ([1, 0.5], "node 1: strategy 0.5 is not an integer"),
        ([0, 0], "the plug-in's solution does not fit: 13 in use at time 2, 3 above the limit 10"),
    ],
)
def test_wrong_plugins(answer: Sequence[Any], message: str) -> None:
    problem = make_problem([[0, 4], [2, 6]], [[1, 2], [3, 9]], [[9, 5], [4, 1]], usage_limit=10)
    with pytest.raises(ProblemError) as caught:
        solve(problem, plugin=lambda _: answer)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit_s": 0.0}, "time-limit=0: expected a number of seconds above 0"),
        ({"time_limit_s": float("nan")}, "time-limit=nan: expected a number of seconds above 0"),
        ({"work": -1.0}, "work is -1.0; it must be above 0, or None"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        SolveOptions(**options)
    assert str(caught.value) == message


def test_forbidden_is_legal_but_dear() -> None:
    costs = [[FORBIDDEN] * 4, [FORBIDDEN, 0, 0, FORBIDDEN], [0] * 4]
    problem = make_problem(
        [[0, 0]] * 3, [[0, 1]] * 3, [[0, 0]] * 3, [[0, 1], [1, 2], [0, 2]], costs
    )
    solution = solve(problem)
    assert solution.cost == FORBIDDEN + 1 and solution.optimal


def test_a_gap_that_is_allowed_ends_the_search() -> None:
    problem = chain(80, 6, 0, 100)
    exact = solve(problem, SolveOptions(time_limit_s=30))
    near = solve(problem, SolveOptions(time_limit_s=30, gap=0.2))
    assert near.gap <= 0.2
    assert near.cost >= exact.lower_bound
    with pytest.raises(ValueError, match=r"gap is 1.5; it must be at least 0 and below 1"):
        SolveOptions(gap=1.5)
