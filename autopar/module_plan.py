"""`autopar plan`: a module's plan as a table, and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from xdsl.dialects.builtin import ArrayAttr, StringAttr, i64
from xdsl.dialects.func import FuncOp

from .decisions import Decisions, Recorder
from .dialects.autopar import BATCH_DIM, KIND, entries_of
from .dialects.diagnostics import Diagnostic, collect_remarks, working_on
from .dialects.unverified import dictionary, integer_attr
from .files import output_path, write_whole
from .passes.collector import collector_off
from .passes.entry import main_function
from .passes.importing.arguments import argument_kinds
from .passes.importing.methods import MethodOptions
from .passes.planning.modelled import Modelled
from .passes.planning.naming import ValueNames
from .passes.planning.report import report_of
from .passes.planning.trial import Trial
from .sources import imported, plan_module, planner_of, read_source
from .terminal import UsageError


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    module: str
    options: str | None = None
    """Of auto-shard, as `grid=2x4 cluster=8xh100`."""
    output: str | None = None
    """Where the plan goes; None: nowhere."""


def plan_file(request: Request) -> tuple[dict[str, Any], Sequence[Diagnostic]]:
    """Plans a module: the report of auto-shard, and what the passes have to say. UsageError,
    PipelineError and DiagnosticError are one line, and then nothing is written."""
    planner = planner_of(request.options or "")
    target = None if request.output is None else output_path(request.output)
    recorder = Recorder()
    with working_on(request.module), collector_off(), collect_remarks() as remarks:
        source = read_source(request.module, None)
        if source.is_json:
            raise UsageError(f"{request.module} is no module: a plan is explained or viewed")
        module, context = imported(source)
        recorder.imported(module)
        planner.remark_kinds(module)  # before they are stated
        state_kinds(main_function(module))
        planned, terms = plan_module(planner, module, context, recorder)
        planned = planned.partitioned(module, context, terms.prices)
        report = report_of(module, planned, terms.limit)
        if target is not None:
            assert planned.tried is not None and recorder.decisions is not None
            names = ValueNames(main_function(module), ())
            _write(target, planned.tried, terms.limit, recorder.decisions, names)
    return report, remarks


def state_kinds(func: FuncOp) -> None:
    """Writes down what arguments are taken for: by that a plan knows its arguments again, which
    `parallelize` states as well."""
    entries = entries_of(func.arg_attrs, len(func.body.block.args))
    for index, kind in enumerate(argument_kinds(func)):
        data = {**entries[index].data, KIND: StringAttr(kind)}
        if kind == "batch":
            data.setdefault(BATCH_DIM, integer_attr(0, i64))
        entries[index] = dictionary(data)
    func.properties["arg_attrs"] = ArrayAttr(entries)


def _write(target: Path, trial: Trial, limit: int, decisions: Decisions, names: ValueNames) -> None:
    from .plan_files import plan_text
    from .plans import Plan

    # What AutoShardParallel says: nothing is demanded beside what the program states.
    options = MethodOptions("shard")
    plan = Plan.read_off(trial.module, decisions, options, names.arguments, names.results)
    plan.modelled = Modelled(trial.seconds, trial.memory.peak, limit)
    text = plan_text(plan).encode()

    def write(file: IO[bytes]) -> None:
        file.write(text)

    write_whole(target, write)
