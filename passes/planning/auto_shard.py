"""Pass `auto-shard`: the shardings of a program, chosen by the cost model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from autopar.dialects.autopar import (
    STRATEGY,
    StrategyAttr,
    aliases,
    refuse_partitioned,
    set_arg_shardings,
    set_result_shardings,
    set_sharding,
)
from autopar.dialects.diagnostics import DiagnosticError, remark
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Sharding
from autopar.passes.cost.cluster import ClusterError, read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.importing.arguments import main_function
from autopar.passes.importing.grid_option import check_grid, ensure_grid
from autopar.passes.partition.specs import AxisTable
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.problem import Problem, make_problem
from autopar.passes.solver.solve import Solution, SolveOptions, solve

from .places import MOVES, planned_ops
from .plan_graph import PlanGraph

_UNIT = 1e-12
"""Seconds of one unit of the solver's whole costs."""


@dataclass(frozen=True)
class AutoShardPass(ModulePass):
    """Choose how every value and op is split, so that a step takes least time by the cost model.

    Needs: a grid (in the module, or `grid=2x4 axis-names=x,y`), calls inlined (inline). Shardings
    and constraints of the program are binding. Memory is not looked at yet: what is chosen may need
    more than a device has.

    Guarantees: every value has a sharding and every op with several operands its strategy, the
    cheapest together that the solver finds; a remark tells how far from the optimum they may be.
    The same input and options give the same plan.
    """

    name = "auto-shard"

    grid: str | None = None
    """The grid of a module that declares none, as 2x4."""
    axis_names: tuple[str, ...] | None = None
    """Names of the axes of `grid` (x,y,z)."""
    cluster: str = "8xh100"
    """The devices and links: a preset or a TOML file."""
    alpha: tuple[float, ...] | None = None
    """Seconds a message, for each axis of the grid, in place of the cluster's."""
    beta: tuple[float, ...] | None = None
    """Seconds a byte of ring traffic, for each axis of the grid, in place of the cluster's."""
    objective: Literal["time", "communication"] = "time"
    """What is least: the time of a step, or of its collectives alone."""
    time_limit: float = 60.0
    """Seconds of search."""
    seed: int = 0
    """Of the solver's random numbers."""

    def __post_init__(self) -> None:
        check_grid(self.grid, self.axis_names)
        SolveOptions(self.time_limit, self.seed)

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        refuse_partitioned(op, self.name)
        ensure_grid(op, self.grid, self.axis_names)
        try:
            cluster = read_cluster(self.cluster)
            prices = CostModel.of(cluster, grid_of(op), self.alpha, self.beta, self.objective)
        except ClusterError as error:
            raise DiagnosticError(op, f"auto-shard: {error}") from None
        auto_shard(op, prices, SolveOptions(self.time_limit, self.seed))


def auto_shard(module: ModuleOp, prices: CostModel, options: SolveOptions) -> Solution:
    """Chooses and writes the shardings of @main; the solution's costs are in 1e-12 seconds."""
    func = main_function(module)
    graph = PlanGraph(func, AxisTable(grid_of(module), ()), prices)
    solution = solve(_problem(graph), options)
    _write(graph, solution.strategies)
    propagate_shardings(module)  # constants, and what lies anyhow
    if not solution.optimal:
        remark(func, f"auto-shard: the plan is within {solution.gap:.1%} of the cheapest")
    if not solution.reproducible:
        remark(func, "auto-shard: the time limit ended the search; the plan is not reproducible")
    return solution


def _problem(graph: PlanGraph) -> Problem:
    nodes = [_whole(node.seconds) for node in graph.nodes]
    return make_problem(
        [(0, 0)] * len(nodes),
        nodes,
        [[0] * len(costs) for costs in nodes],
        list(graph.edges),
        [_whole(seconds) for seconds in graph.edges.values()],
    )


def _whole(seconds: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[int]:
    return np.rint(seconds.reshape(-1) / _UNIT).astype(np.int64).tolist()


def _write(graph: PlanGraph, chosen: list[int]) -> None:
    table, func = graph.table, graph.func

    def sharding(value: SSAValue) -> Sharding | None:
        node = graph.node_of(value)
        return None if node is None else table.sharding(graph.nodes[node].specs[chosen[node]])

    for op in planned_ops(func):
        if op.name not in MOVES and op.name != MANUAL:
            for result in op.results:
                own = sharding(result)
                if own is not None:
                    set_sharding(result, own)
    for op, node in graph.op_nodes:
        factors = graph.nodes[node].strategies[chosen[node]].factors
        op.attributes[STRATEGY] = StrategyAttr(tuple(table.axes(axes) for axes in factors))
    _write_boundary(func, sharding)


def _write_boundary(func: FuncOp, sharding: Callable[[SSAValue], Sharding | None]) -> None:
    arguments = [sharding(argument) for argument in func.body.block.args]
    set_arg_shardings(func, arguments)
    last = func.body.block.last_op
    assert last is not None
    results = [sharding(value) for value in operands_of(last)]
    for argument, result in aliases(func):
        results[result] = arguments[argument]
    set_result_shardings(func, results)
