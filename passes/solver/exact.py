"""Branch and bound on a small core: HiGHS on the one-hot formulation, through OR-Tools' MathOpt.

The formulation is Alpa's (Zheng et al., OSDI 2022): a 0/1 variable for each strategy, a variable
for each pair of strategies at an edge. The pairs of a strategy sum to its variable, with equality:
then the linear relaxation is exact on trees. Memory rows are added where a solution breaks them.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Arrays, ranges, segment_argmin
from .budget import Budget
from .problem import Ints

_ROWS_AT_ONCE = 8
"""Memory rows added after a solution that breaks the limit."""
_MOST_ROWS_AT_START = 200


@dataclass(frozen=True)
class Exact:
    """What branch and bound found out."""

    choice: Ints | None
    """The best choice that fits, if any."""
    bound: float
    """No choice that fits costs less."""
    proved: bool
    """Whether `choice` is optimal; without a choice: whether there is none."""
    is_near: bool = False
    """Whether `choice` is no further above the bound than was asked for."""


def branch_and_bound(
    arrays: Arrays, budget: Budget, seconds: float, tolerance: float = 0.0
) -> Exact:
    """The best choice, or one that costs at most `tolerance` more than the bound, or as far as it
    gets in that many seconds (then the clock has bound)."""
    from ortools.math_opt.python import mathopt  # pyright: ignore[reportMissingTypeStubs]

    deadline = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    rows = list(range(len(arrays.limit))) if len(arrays.limit) <= _MOST_ROWS_AT_START else []
    bound = -np.inf
    while True:
        left = deadline - datetime.datetime.now()
        if left.total_seconds() <= 0:
            budget.hit_clock()
            return Exact(None, bound, proved=False)
        model = mathopt.Model.from_model_proto(_model(arrays, rows))
        parameters = mathopt.SolveParameters(
            time_limit=left,
            relative_gap_tolerance=0.0,
            absolute_gap_tolerance=max(0.5, tolerance),
        )
        result = mathopt.solve(model, mathopt.SolverType.HIGHS, params=parameters)
        reason = result.termination.reason
        if reason == mathopt.TerminationReason.INFEASIBLE:
            return Exact(None, np.inf, proved=True)
        bound = max(bound, result.termination.objective_bounds.dual_bound)
        finished = reason == mathopt.TerminationReason.OPTIMAL
        if not finished:
            budget.hit_clock()
        if not result.has_primal_feasible_solution():
            return Exact(None, bound, proved=False)
        choice = _choice(arrays, result.variable_values())
        broken = _broken(arrays, choice)
        if not broken:
            # the solver's tolerances may hide a cost: trust our own sum
            above = arrays.cost(choice) - bound - 1e-9 * abs(bound)
            return Exact(choice, bound, finished and above <= 0.5, above <= max(0.5, tolerance))
        if not finished or set(broken) <= set(rows):
            return Exact(None, bound, proved=False)
        rows = sorted({*rows, *broken})


def _broken(arrays: Arrays, choice: Ints) -> list[int]:
    """Live sets that overflow, the worst first, then those far from it in time."""
    over = arrays.load(choice) - arrays.limit
    found: list[int] = []
    apart = max(1, len(over) // 64)
    for t in np.argsort(-over, kind="stable").tolist():
        if over[t] <= 0 or len(found) == _ROWS_AT_ONCE:
            break
        if all(abs(t - other) >= apart for other in found):
            found.append(t)
    return found


def _choice(arrays: Arrays, values: dict[Any, float]) -> Ints:
    states = np.zeros(len(arrays.unary))
    for variable, value in values.items():
        if variable.id < len(states):
            states[variable.id] = value
    return segment_argmin(-states, arrays.sizes)[1]


def _model(arrays: Arrays, rows: list[int]) -> Any:
    """Variables: states (0/1), then the pairs of each edge, target major.

    Constraints: one state per node; the pairs of each state at each end of each edge; memory.
    """
    from ortools.math_opt import model_pb2  # pyright: ignore[reportMissingTypeStubs]

    proto: Any = model_pb2.ModelProto()
    num_states = len(arrays.unary)
    edges = np.arange(0, len(arrays.source), 2)
    source, target = arrays.source[edges], arrays.target[edges]
    width, height = arrays.sizes[source], arrays.sizes[target]
    pairs = width * height
    pair_costs = arrays.entries[ranges(arrays.entry_offsets[edges], pairs)]
    num_variables = num_states + len(pair_costs)
    variables = proto.variables
    variables.ids.extend(range(num_variables))
    variables.lower_bounds.extend([0.0] * num_variables)
    variables.upper_bounds.extend([1.0] * num_variables)
    variables.integers.extend([True] * num_states + [False] * len(pair_costs))
    costs = np.concatenate([arrays.unary, pair_costs])
    used = np.flatnonzero(costs)
    proto.objective.linear_coefficients.ids.extend(used.tolist())
    proto.objective.linear_coefficients.values.extend(costs[used].tolist())

    # pair (target j, source i) of an edge belongs to state j of the target and i of the source
    edge_of = np.repeat(np.arange(len(edges)), pairs)
    within = np.arange(len(pair_costs)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    j, i = within // width[edge_of], within % width[edge_of]
    first_row = arrays.num_nodes + np.cumsum(width + height) - (width + height)
    pair = num_states + np.arange(len(pair_costs))
    at_target, at_source = first_row[edge_of] + j, first_row[edge_of] + height[edge_of] + i
    num_marginals = int((width + height).sum())
    both = np.stack([target, source], axis=1).reshape(-1)
    marginal_states = ranges(arrays.offsets[both], arrays.sizes[both])
    num_rows = arrays.num_nodes + num_marginals
    memory_row, memory_state, memory_value = _memory(arrays, rows)
    row = np.concatenate(
        [
            arrays.owner,
            at_target,
            at_source,
            arrays.num_nodes + np.arange(num_marginals),
            num_rows + memory_row,
        ]
    )
    column = np.concatenate([np.arange(num_states), pair, pair, marginal_states, memory_state])
    value = np.concatenate(
        [
            np.ones(num_states + 2 * len(pair)),
            np.full(num_marginals, -1.0),
            memory_value,
        ]
    )
    order = np.lexsort((column, row))
    proto.linear_constraint_matrix.row_ids.extend(row[order].tolist())
    proto.linear_constraint_matrix.column_ids.extend(column[order].tolist())
    proto.linear_constraint_matrix.coefficients.extend(value[order].tolist())
    constraints = proto.linear_constraints
    constraints.ids.extend(range(num_rows + len(rows)))
    exactly = [1.0] * arrays.num_nodes + [0.0] * num_marginals
    constraints.lower_bounds.extend(exactly + [-np.inf] * len(rows))
    limits = arrays.limit[rows]
    constraints.upper_bounds.extend(exactly + (limits / np.maximum(1, limits)).tolist())
    return proto


def _memory(arrays: Arrays, rows: list[int]) -> tuple[Ints, Ints, np.ndarray[Any, Any]]:
    """(row, state, share of the limit) of the entries of the memory rows."""
    row_index: list[Ints] = []
    states: list[Ints] = []
    values: list[np.ndarray[Any, Any]] = []
    for index, t in enumerate(rows):
        alive = np.flatnonzero((arrays.row_spans[:, 0] <= t) & (t < arrays.row_spans[:, 1]))
        nodes = arrays.row_node[alive]
        counts = arrays.sizes[nodes]
        total = np.zeros(len(arrays.unary))
        bytes_ = arrays.row_bytes[ranges(arrays.row_offsets[alive], counts)]
        np.add.at(total, ranges(arrays.offsets[nodes], counts), bytes_ / max(1, arrays.limit[t]))
        used = np.flatnonzero(total)
        row_index.append(np.full(len(used), index))
        states.append(used)
        values.append(total[used])
    empty = np.zeros(0, np.int64)
    if not rows:
        return empty, empty, np.zeros(0)
    return np.concatenate(row_index), np.concatenate(states), np.concatenate(values)
