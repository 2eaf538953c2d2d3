"""`autopar view` and `Plan.view`: a plan as a page."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autopar.dialects import make_context
from autopar.dialects.diagnostics import working_on
from autopar.files import output_path, write_whole
from autopar.passes.collector import collector_off
from autopar.passes.importing.grid_option import require_grid_op
from autopar.passes.manager import PassSpec, build_pass
from autopar.passes.pipelines import PROPAGATE
from autopar.passes.planning.auto_shard import AutoShardPass
from autopar.passes.planning.report import solver_facts
from autopar.passes.progress import tell, watched
from autopar.reading import transform, unforeseen
from autopar.sources import Source, imported, plan_module, planner_of, read_source
from autopar.terminal import Progress, UsageError

from .data import Header, program_data
from .page import page
from .plain import plan_data, report_data, solver_data

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
    title = request.title or Path(request.source).name
    with working_on(request.source), watched(progress.step), collector_off():
        source = read_source(request.source, request.options)
        data = (
            _file_data(source, title)
            if source.is_json
            else _module_data(source, request.options, title)
        )
    progress.step(f"writing {request.output}")
    return _write(path, data)


def _write(path: Path, data: dict[str, Any]) -> int:
    whole = page(data).encode()

    def write(file: IO[bytes]) -> None:
        file.write(whole)

    write_whole(path, write)
    return len(whole)


def _module_data(source: Source, options: str | None, title: str) -> dict[str, Any]:
    module, context = imported(source)
    if options is None:
        require_grid_op(module, "the page of a plan", AutoShardPass.name)
        tell("deciding shardings")
        transform(module, [build_pass(PassSpec(name)) for name in PROPAGATE], context)
        terms = AutoShardPass().terms(module)
        header = Header(title, "the module's own shardings")
    else:
        planned, terms = plan_module(planner_of(options), module, context)
        facts = solver_data(solver_facts(planned))
        header = Header(title, f"auto-shard {options}".strip(), facts)
    tell("partitioning")
    with unforeseen(module, "partitioning"):
        return program_data(module, context, terms, header)


def _file_data(source: Source, title: str) -> dict[str, Any]:
    """Of a plan or a report."""
    try:
        found: Any = json.loads(source.text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{source.name}: neither a module nor JSON: {error}") from None
    if "format" in found:
        plan = source.as_plan()
        try:
            return plan_data(plan, title)
        except ValueError as error:
            raise UsageError(f"{source.name}: {error}") from None
    try:
        return report_data(found, title)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UsageError(
            f"{source.name}: neither a plan (autopar plan, Plan.save) nor a report of auto-shard "
            "(report=FILE.json)"
        ) from None


def view_plan(plan: Plan, path: Path, title: str | None) -> None:
    """As `Plan.view`."""
    if plan.road is None or plan.decisions is None:
        _write(path, plan_data(plan, title or "plan"))
        return
    from autopar.explain import terms_of

    road = replace(plan.road, decisions=plan.decisions)
    with collector_off():
        module = road.at("sharded")
        terms = terms_of(plan.road, plan.mesh, module)
        header = Header(title or "plan", f"method {plan.method}")
        names = [[value.name for value in values] for values in (plan.arguments, plan.results)]
        data = program_data(module, make_context(), terms, header, *names)
    _write(path, data)
