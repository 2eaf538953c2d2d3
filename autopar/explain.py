"""`autopar explain`: why a value is sharded so, and what the next best choice would cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .decisions import Decisions, parsed_sharding, parsed_strategy
from .dialects import make_context
from .dialects.shard import grid_of
from .opt import read_input
from .passes.collector import collector_off
from .passes.importing.arguments import main_function
from .passes.manager import PassSpec, build_pass, parse_options
from .passes.partition.specs import AxisTable
from .passes.pipelines import IMPORT
from .passes.planning.auto_shard import AutoShardPass, Terms
from .passes.planning.decided import DecidedValues, choices_of
from .passes.planning.explain import Explainer, Explanation
from .passes.planning.explain_text import table_text
from .passes.planning.naming import UnknownValueError
from .passes.planning.plan_graph import PlanGraph
from .terminal import Progress, UsageError

if TYPE_CHECKING:
    from .plans import Plan
    from .road import Road

VERSION = 1


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    module: str
    value: str | None
    """None: every argument."""
    options: str = ""
    """Of auto-shard, as `grid=2x4 cluster=8xh100`."""


def planner_of(options: str) -> AutoShardPass:
    """The pass with options as autopar-opt takes them. PipelineError names a wrong one."""
    made = build_pass(PassSpec(AutoShardPass.name, parse_options(options)))
    assert isinstance(made, AutoShardPass)
    return made


def explain_file(request: Request, progress: Progress) -> Explanations:
    """Plans a module and explains it. UsageError, PipelineError and DiagnosticError are one
    line."""
    from .lowering.parse import parse_module
    from .opt import transform, unforeseen

    planner = planner_of(request.options)
    progress.step(f"reading {request.module}")
    context = make_context()
    module = parse_module(read_input(request.module), request.module, context)
    with collector_off():
        transform(module, [build_pass(PassSpec(name)) for name in IMPORT], context)
        progress.step("planning")
        with unforeseen(module, "planning"):
            planned, terms = planner.plan(context, module)
        chosen = planned.choices.of_node
        progress.step("pricing other choices")
        explainer = Explainer(planned.graph, chosen, limit=terms.limit, demands=terms.demands)
        try:
            return _told(explainer, request.value)
        except UnknownValueError as error:
            raise UsageError(f"{request.module}: {error}") from None


class Explanations(list[Explanation]):
    """What was asked for; `str()` tells it, `as_json()` gives it as data."""

    def __init__(self, found: Iterable[Explanation], *, as_table: bool = False) -> None:
        super().__init__(found)
        self._as_table = as_table

    def __str__(self) -> str:
        return table_text(self) if self._as_table else "\n\n".join(map(str, self))

    def as_json(self) -> dict[str, Any]:
        return {"version": VERSION, "values": [one.as_json() for one in self]}


def explain_plan(plan: Plan, name: str | None) -> Explanations:
    """As `Plan.explain`."""
    with collector_off():
        return _told(_explainer_of(plan), name)


def _told(explainer: Explainer, name: str | None) -> Explanations:
    if name is None:
        return Explanations(explainer.every_argument(), as_table=True)
    return Explanations(explainer.explain(name))


def _explainer_of(plan: Plan) -> Explainer:
    graph, chosen = choices_read_off(plan)
    road, decisions = plan.road, plan.decisions
    assert road is not None and decisions is not None
    searched = decisions.searched
    terms = terms_of(plan, road, graph.func.parent_op())
    return Explainer(
        graph,
        chosen,
        limit=terms.limit,
        demands=terms.demands,
        by="search" if searched else "propagation",
        stated_by="the program" if searched else f"the method {plan.method!r}, or the program,",
        arguments=[value.name for value in plan.arguments],
        results=[value.name for value in plan.results],
    )


def choices_read_off(plan: Plan) -> tuple[PlanGraph, list[int]]:
    """The graph of a plan's program, and what the plan chose of it. What another method than auto
    decided is judged by the cost model that auto takes. ValueError for a plan from a file."""
    road, decisions = plan.road, plan.decisions
    if road is None or decisions is None:
        raise ValueError(
            "explain: a plan from a file has no program: take that of .lower(*args).plan, or "
            "autopar explain MODULE.mlir"
        )
    module = road.undecided()
    terms = terms_of(plan, road, module)
    table = AxisTable(grid_of(module), ())
    graph = PlanGraph(main_function(module), table, terms.prices, terms.demands)
    return graph, choices_of(graph, _decided_values(decisions))


def terms_of(plan: Plan, road: Road, module: Any) -> Terms:
    """What a plan's program is judged by: as it was searched, else as auto would search it."""
    from .methods import AutoShardParallel

    if road.planner is not None:
        return road.planner.terms(module)
    return AutoShardParallel().planner(plan.mesh).terms(module)


def _decided_values(decisions: Decisions) -> DecidedValues:
    return DecidedValues(
        [parsed_sharding(text) for text in decisions.arguments],
        [[parsed_sharding(text) for text in op.shardings] for op in decisions.ops],
        [None if op.strategy is None else parsed_strategy(op.strategy) for op in decisions.ops],
    )
