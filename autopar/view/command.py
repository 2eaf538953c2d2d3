"""`autopar view` and `Plan.view`: a plan as a page."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autopar.dialects import make_context
from autopar.explain import planner_of
from autopar.files import output_path, write_whole
from autopar.passes.collector import collector_off
from autopar.passes.manager import PassSpec, build_pass
from autopar.passes.pipelines import IMPORT, PROPAGATE
from autopar.passes.planning.auto_shard import AutoShardPass
from autopar.passes.progress import watched
from autopar.reading import read_input, transform, unforeseen
from autopar.terminal import Progress, UsageError

from .data import Header, program_data
from .page import page

if TYPE_CHECKING:
    from autopar.plans import Plan


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    source: str
    """A module, a plan's file, or a report of auto-shard."""
    output: str
    options: str | None = None
    """Of auto-shard; None: the module says itself how it is sharded, the rest by propagation."""
    title: str | None = None


def view_file(request: Request, progress: Progress) -> int:
    """Writes the page, and tells its size. UsageError, PipelineError and DiagnosticError are one
    line, and then nothing is written."""
    path = output_path(request.output)
    progress.step(f"reading {request.source}")
    text = read_input(request.source)
    title = request.title or Path(request.source).name
    if text.lstrip().startswith("{"):
        data = _file_data(request.source, text, title)
    else:
        data = _module_data(request, text, title, progress)
    progress.step(f"writing {request.output}")
    return _write(path, data)


def _write(path: Path, data: dict[str, Any]) -> int:
    whole = page(data).encode()

    def write(file: IO[bytes]) -> None:
        file.write(whole)

    write_whole(path, write)
    return len(whole)


def _module_data(request: Request, text: str, title: str, progress: Progress) -> dict[str, Any]:
    from autopar.lowering.parse import parse_module

    context = make_context()
    module = parse_module(text, request.source, context)
    with collector_off():
        transform(module, [build_pass(PassSpec(name)) for name in IMPORT], context)
        progress.step("deciding shardings")
        if request.options is None:
            transform(module, [build_pass(PassSpec(name)) for name in PROPAGATE], context)
            terms = AutoShardPass().terms(module)
            header = Header(title, "the module's own shardings")
        else:
            with unforeseen(module, "planning"), watched(progress.step):
                planned, terms = planner_of(request.options).plan(context, module)
            solution = planned.choices.solution
            facts = {
                "gap": solution.gap,
                "optimal": solution.optimal,
                "reproducible": solution.reproducible,
                "nodes": len(planned.graph.nodes),
                "edges": len(planned.graph.edges),
                "seconds": sum(planned.seconds.values()),
            }
            header = Header(title, f"auto-shard {request.options}".strip(), facts)
        progress.step("partitioning")
        with unforeseen(module, "partitioning"):
            return program_data(module, context, terms, header)


def _file_data(source: str, text: str, title: str) -> dict[str, Any]:
    """Of a plan or a report."""
    from .plain import plan_data, report_data

    try:
        found: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{source}: neither a module nor JSON: {error}") from None
    if "format" in found:
        from autopar.plan_files import load_plan

        try:
            return plan_data(load_plan(source), title)
        except ValueError as error:
            raise UsageError(str(error)) from None
    try:
        return report_data(found, title)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UsageError(
            f"{source}: neither a plan (Plan.save) nor a report of auto-shard (report=FILE.json)"
        ) from None


def view_plan(plan: Plan, path: Path, title: str | None) -> None:
    """As `Plan.view`."""
    if plan.road is None or plan.decisions is None:
        from .plain import plan_data

        _write(path, plan_data(plan, title or "plan"))
        return
    from autopar.explain import terms_of

    road = replace(plan.road, decisions=plan.decisions)
    with collector_off():
        module = road.at("sharded")
        terms = terms_of(plan, plan.road, module)
        header = Header(title or "plan", f"method {plan.method}")
        names = [[value.name for value in values] for values in (plan.arguments, plan.results)]
        data = program_data(module, make_context(), terms, header, *names)
    _write(path, data)
