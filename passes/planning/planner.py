"""A plan for a module: searched, written into it, and held against the partitioned program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.diagnostics import remark
from autopar.dialects.shard import grid_of
from autopar.passes.copying import copied
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.partition.specs import AxisTable
from autopar.passes.partition.unruled import tell_unruled
from autopar.passes.solver.problem import FORBIDDEN, Problem
from autopar.passes.solver.solve import Plugin, SolveOptions

from .clock import Clock
from .contest import best_of_rivals
from .demands import Demands
from .fitting import fitting
from .places import searched_axes
from .plan_graph import PlanGraph
from .refusals import not_obeyed, too_dear
from .road import Found, Road
from .search import Choices, Search
from .trial import Trial
from .uneven import uneven_remarks
from .words import proof_text
from .writing import Unplanned

_WORTH_SAYING = 1e-3
"""Gaps above this share are told."""


@dataclass(frozen=True)
class Planned:
    """A plan that stands in its module."""

    graph: PlanGraph
    choices: Choices
    seconds: Mapping[str, float]
    """That planning took: `graph`, `search`, `write`, `try`."""
    tried: Trial | None
    """The plan partitioned, where it had to be."""

    def partitioned(self, module: ModuleOp, context: Context, prices: CostModel) -> Planned:
        """The same, partitioned: `module` is what the plan stands in."""
        tried = self.tried or Trial(copied(module), context, prices)
        return replace(self, tried=tried)


def make_plan(
    module: ModuleOp,
    context: Context,
    prices: CostModel,
    options: SolveOptions,
    limit: int | None = None,
    demands: Demands | None = None,
    plugin: Plugin | None = None,
    keep: Callable[[Problem], None] | None = None,
) -> Planned:
    """Chooses and writes the shardings of @main, so that a device needs at most `limit` bytes.

    `keep` is given the problem as a whole, with memory at every time.

    DiagnosticError, with the tensors that weigh most, where no plan is found that does.
    """
    func, clock = main_function(module), Clock()
    with clock("graph", "reading the program"):
        graph = PlanGraph(func, AxisTable(grid_of(module), ()), prices, demands)
        search = Search(graph, options, plugin)
    if keep is not None:
        keep(search.problem(limit))
    road = Road(module, context, prices, search, options, clock, Unplanned(module), plugin is None)
    found = road.cheapest() if limit is None else fitting(road, limit)
    if found.choices.solution.cost >= FORBIDDEN:
        raise too_dear(func, demands)
    if plugin is None:
        found = best_of_rivals(found, limit)
    if graph.forbidden:
        found = _obeying(found)
    _tell(module, graph, found.choices)
    return Planned(graph, found.choices, clock.seconds, found.trial)


def _obeying(found: Found) -> Found:
    """What was found, partitioned; DiagnosticError where it has a forbidden collective."""
    found = replace(found, trial=found.trial or found.road.tried())
    assert found.trial is not None
    used = found.road.forbidden_of(found.trial)
    if used:
        raise not_obeyed(found.road.search.graph.func, used)
    return found


def _tell(module: ModuleOp, graph: PlanGraph, choices: Choices) -> None:
    func, solution = main_function(module), choices.solution
    if choices.gap > _WORTH_SAYING:
        proof = proof_text(choices.gap, optimal=choices.is_optimal, rival=choices.is_rival)
        remark(func, f"auto-shard: {proof}")
    if not solution.reproducible:
        remark(func, "auto-shard: the time limit ended the search; the plan is not reproducible")
    for group in searched_axes(graph.table):
        if len(group) > 1:
            names = " and ".join(axis.name for axis in graph.table.axes(group))
            remark(
                func,
                f"auto-shard: the axes {names} are planned as one, as no more than three are "
                "searched each by itself",
            )
    for text in uneven_remarks(graph):
        remark(func, text)
    tell_unruled(graph.whole, graph.table.grid.num_devices, "auto-shard: ")
