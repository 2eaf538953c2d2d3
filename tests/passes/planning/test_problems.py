"""Problems of the solver: memory of copies, which nodes of their own have."""

from __future__ import annotations

import numpy as np
import pytest

from autopar.passes.planning.problems import ProblemBuilder
from autopar.passes.planning.repeats import Ints
from autopar.passes.solver.evaluate import evaluate
from autopar.passes.solver.problem import FORBIDDEN

SPANS = [(0, 2), (1, 3)]


def _least_limit(usage: Ints, one: int, two: int) -> int:
    """The lowest limit under which two nodes may choose so."""
    for limit in range(int(usage.sum()) + 1):
        builder = ProblemBuilder()
        for size in usage.shape[1:]:
            builder.add(np.zeros(size, np.int64))
        builder.hold(0, 1, SPANS, usage)
        problem = builder.problem(limit)
        others = [range(n) for n in problem.num_strategies[2:].tolist()]
        assert len(others) <= len(SPANS)
        for rest in np.ndindex(*map(len, others)):
            judged = evaluate(problem, [one, two, *rest])
            if judged.feasible and judged.cost < FORBIDDEN:
                return limit
    raise AssertionError("no limit suffices")


@pytest.mark.parametrize("seed", range(3))
def test_copies_take_what_both_ends_choose(seed: int) -> None:
    usage = np.random.default_rng(seed).integers(0, 4, (len(SPANS), 3, 3))
    for one, two in np.ndindex(3, 3):
        peak = max(usage[0, one, two], usage[1, one, two], usage[:, one, two].sum())
        assert _least_limit(usage, one, two) == peak


def test_copies_of_a_node_beside_itself() -> None:
    builder = ProblemBuilder()
    builder.add(np.zeros(2, np.int64))
    builder.hold(0, 0, SPANS[:1], np.array([[[1, 9], [9, 4]]]))
    problem = builder.problem(3)
    assert [evaluate(problem, [choice]).feasible for choice in (0, 1)] == [True, False]
