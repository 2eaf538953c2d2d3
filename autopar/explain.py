"""`autopar explain`: why a value is sharded so, and what the next best choice would cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import UnitAttr

from .decisions import Decisions, parsed_sharding, parsed_strategy
from .dialects.autopar import FREE_EARLY
from .dialects.diagnostics import working_on
from .dialects.shard import grid_of
from .passes.collector import collector_off
from .passes.entry import main_function
from .passes.partition.specs import AxisTable
from .passes.planning.auto_shard import Terms
from .passes.planning.decided import DecidedValues, UnevenError, choices_of
from .passes.planning.explain import Explainer, Explanation
from .passes.planning.explain_text import table_text
from .passes.planning.naming import UnknownValueError, boundary_text, closest, numbered
from .passes.planning.plan_graph import PlanGraph
from .passes.progress import watched
from .sources import Source, imported, plan_module, planner_of, read_source
from .terminal import Progress, UsageError

if TYPE_CHECKING:
    from .plans import Plan
    from .road import Road

VERSION = 1


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    module: str
    """Or a plan's file."""
    value: str | None
    """None: every argument."""
    options: str | None = None
    """Of auto-shard, as `grid=2x4 cluster=8xh100`."""


def explain_file(request: Request, progress: Progress) -> Explanations:
    """Plans a module and explains it. UsageError, PipelineError and DiagnosticError are one
    line."""
    planner = planner_of(request.options or "")
    progress.step(f"reading {request.module}")
    with working_on(request.module), watched(progress.step), collector_off():
        source = read_source(request.module, request.options)
        if source.is_json:
            return _explain_saved(source, request.value)
        module, context = imported(source)
        planned, terms = plan_module(planner, module, context)
        chosen = planned.choices.of_node
        progress.step("pricing other choices")
        explainer = Explainer(
            planned.graph,
            chosen,
            limit=terms.limit,
            demands=terms.demands,
            by="rival" if planned.choices.is_rival else "search",
            partitioned_seconds=None if planned.tried is None else planned.tried.price.total,
        )
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


def explain_plan(plan: Plan, name: Any) -> Explanations:
    """As `Plan.explain`."""
    if not isinstance(name, str | None):
        raise ValueError(f"explain: expected a name, found {name!r}")
    road, decisions = plan.road, plan.decisions
    if road is None or decisions is None:
        return unpriced(plan, name, "not priced: the plan is from a file, which has no program")
    with collector_off():
        try:
            graph, chosen = choices_read_off(plan)
        except UnevenError as error:
            return unpriced(plan, name, f"not priced: {error}")
        terms = terms_of(road, plan.mesh, graph.func.parent_op())
        searched, modelled = decisions.searched, plan.modelled
        explainer = Explainer(
            graph,
            chosen,
            limit=terms.limit,
            demands=terms.demands,
            by="search" if searched else "propagation",
            partitioned_seconds=modelled.seconds.total_s if searched and modelled else None,
            stated_by="the program" if searched else f"the method {plan.method!r}, or the program,",
            arguments=[value.name for value in plan.arguments],
            results=[value.name for value in plan.results],
        )
        return _told(explainer, name)


def _told(explainer: Explainer, name: str | None) -> Explanations:
    if name is None:
        return Explanations(explainer.every_argument(), as_table=True)
    return Explanations(explainer.explain(name))


def choices_read_off(plan: Plan) -> tuple[PlanGraph, list[int]]:
    """The graph of a plan's program, and what the plan chose of it. What another method than auto
    decided is judged by the cost model that auto takes. UnevenError where that cannot judge it."""
    road, decisions = plan.road, plan.decisions
    assert road is not None and decisions is not None, "a plan from a file has no program"
    module = road.undecided()
    terms = terms_of(road, plan.mesh, module)
    table = AxisTable(grid_of(module), ())
    graph = PlanGraph(main_function(module), table, terms.prices, terms.demands)
    if decisions.free_early:
        graph.func.attributes[FREE_EARLY] = UnitAttr()
    return graph, choices_of(graph, _decided_values(decisions))


def terms_of(road: Road, mesh: Any, module: Any) -> Terms:
    """What a program on a mesh is judged by: as it was searched, else as auto would search it."""
    from .methods import AutoShardParallel

    if road.planner is not None:
        return road.planner.terms(module)
    return AutoShardParallel().planner(mesh).terms(module)


def _decided_values(decisions: Decisions) -> DecidedValues:
    return DecidedValues(
        [parsed_sharding(text) for text in decisions.arguments],
        [[parsed_sharding(text) for text in op.shardings] for op in decisions.ops],
        [None if op.strategy is None else parsed_strategy(op.strategy) for op in decisions.ops],
    )


# ---- without prices ------------------------------------------------------------------------------


def _explain_saved(source: Source, value: str | None) -> Explanations:
    try:
        return explain_plan(source.as_plan(), value)
    except ValueError as error:
        raise UsageError(f"{source.name}: {error}") from None


def unpriced(plan: Plan, name: str | None, note: str) -> Explanations:
    """What a plan says of its arguments and results itself."""
    arguments, results = plan.arguments, plan.results
    every = [*arguments, *results]
    if name is None:
        return Explanations(
            [_unpriced(plan, i, note) for i in range(len(arguments))], as_table=True
        )
    number = numbered(name)
    if number is not None and number[1] < len(arguments if number[0] else results):
        found = [number[1] if number[0] else len(arguments) + number[1]]
    else:
        begins = (f"{name}[", f"{name}.")
        found = [i for i, v in enumerate(every) if v.name == name or v.name.startswith(begins)]
    if not found:
        counts = boundary_text(len(arguments), len(results))
        near = closest(name, [value.name for value in every])
        raise UnknownValueError(f"no value is named {name!r}: {near}there are {counts}")
    return Explanations(_unpriced(plan, index, note) for index in found)


def _unpriced(plan: Plan, index: int, note: str) -> Explanation:
    is_argument = index < len(plan.arguments)
    number = index if is_argument else index - len(plan.arguments)
    value = (plan.arguments if is_argument else plan.results)[number]
    decisions = plan.decisions
    said = decisions.demands[index] if decisions and index < len(decisions.demands) else ""
    stated = " sharding=" in said
    by = "auto" if decisions and decisions.searched else "propagation"
    local = "x".join(map(str, value.local_shape))
    return Explanation(
        value.name,
        f"argument {number} ({value.kind})" if is_argument else f"result {number}",
        _type_text(value.shape, said),
        "",
        value.layout,
        value.dims,
        f"{local} on each device" if value.shape else "",
        "user" if stated else by,
        f"the method {plan.method!r}, or the program, states it" if stated else "",
        None,
        note=note,
    )


_ELEMENT = re.compile(r"is tensor<(?:[\d?]+x)*(.+?)>(?= |$)")


def _type_text(shape: Sequence[int], demand: str) -> str:
    """The type as a module has it: of the whole batch, of which the demand may have a part only."""
    found = _ELEMENT.search(demand)
    sizes = [str(size) for size in shape]
    return f"tensor<{'x'.join([*sizes, found[1]])}>" if found else "x".join(sizes) or "scalar"
