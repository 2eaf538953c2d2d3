"""What was planned, as data (JSON) and as a table."""

from __future__ import annotations

import errno
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.autopar import arg_shardings
from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.cost.report import CollectiveUse, axes_text
from autopar.passes.entry import main_function
from autopar.passes.importing.arguments import argument_kinds

from .modelled import StepSeconds, memory_text
from .naming import ValueNames
from .planner import Planned
from .problems import UNIT_S
from .words import layout_text, proof_text, size_text, without_numbers

VERSION = 1


def report_of(module: ModuleOp, planned: Planned, limit: int | None) -> dict[str, Any]:
    """The facts of a plan that stands in a module, and of its partitioned copy.

    Seconds are the cost model's, of one step (`StepSeconds`); bytes are those of one device.
    """
    trial = planned.tried
    assert trial is not None, "the plan has not been partitioned"
    memory = trial.memory
    func = main_function(module)
    names = ValueNames(func, ()).arguments
    arguments = [
        {
            "index": index,
            "name": names[index],
            "kind": kind,
            "type": str(arg.type),
            "sharding": None
            if sharding is None
            else [[axis.spelled for axis in dim.axes] for dim in sharding.dims],
        }
        for index, (arg, kind, sharding) in enumerate(
            zip(func.body.block.args, argument_kinds(func), arg_shardings(func), strict=True)
        )
    ]
    return {
        "version": VERSION,
        "grid": {name: size for name, size in planned.graph.table.grid.axes},
        "objective": trial.seconds.as_json(),
        "memory": {
            "peak_bytes": memory.peak,
            "arguments_bytes": memory.arguments,
            "results_bytes": memory.results,
            "temporaries_bytes": memory.temporaries,
            "limit_bytes": limit,
        },
        "collectives": _collectives(trial.collectives),
        "solver": solver_facts(planned),
        "arguments": arguments,
    }


def solver_facts(planned: Planned) -> dict[str, Any]:
    """How the plan was found, and how near to the cheapest it is by the search's own prices: of a
    rival these are rough, as `proof_text` says."""
    choices, solution = planned.choices, planned.choices.by_search
    return {
        "planned_s": solution.cost * UNIT_S,
        "bound_s": solution.lower_bound * UNIT_S,
        "gap": choices.gap,
        "rival": choices.is_rival,
        "optimal": choices.is_optimal,
        "reproducible": solution.reproducible,
        "nodes": len(planned.graph.nodes),
        "edges": len(planned.graph.edges),
        "seconds": sum(planned.seconds.values()),
        "seconds_of": dict(planned.seconds),
    }


def proof_of(solver: Mapping[str, Any]) -> str:
    """As `proof_text`, of these facts; reports of before do not say whether a plan is a rival's."""
    is_rival = solver.get("rival", False)
    return proof_text(solver["gap"], optimal=solver["optimal"], rival=is_rival)


def _collectives(uses: list[CollectiveUse]) -> list[dict[str, Any]]:
    counts: dict[tuple[str, tuple[str, ...], int], int] = defaultdict(int)
    sent: dict[tuple[str, tuple[str, ...], int], float] = defaultdict(float)
    for use in uses:
        key = use.kind, use.axes, use.group
        counts[key] += use.times
        sent[key] += use.times * use.num_bytes
    return [
        {
            "kind": kind,
            "axes": list(axes),
            "group": group,
            "count": counts[kind, axes, group],
            "ring_bytes": sent[kind, axes, group],
        }
        for kind, axes, group in sorted(sent, key=lambda key: -sent[key])
    ]


def table_of(report: dict[str, Any]) -> str:
    """The report for people, without its arguments."""
    memory, solver = report["memory"], report["solver"]
    parts = {key: value for key, value in report["objective"].items() if key != "total_s"}
    lines = [
        str(StepSeconds(**parts)),
        memory_text(memory["peak_bytes"], memory["limit_bytes"]),
    ]
    if report["objective"]["compute_s"] is None:
        sent = sum(use["ring_bytes"] for use in report["collectives"])
        lines.append(f"{size_text(sent)} sent by each device in all")
    lines += [
        f"{use['kind']} over {axes_text(use['axes'], use['group'])}: {use['count']} times, "
        f"{size_text(use['ring_bytes'])} sent by each device"
        for use in report["collectives"]
    ]
    proof = proof_of(solver)
    lines.append(f"{proof}; searched for {solver['seconds']:.1f} s")
    return "\n".join(lines)


def plan_text(report: dict[str, Any]) -> str:
    """The whole report for people."""
    axes = ", ".join(f"{name}={size}" for name, size in report["grid"].items())
    return "\n".join([f"arguments on the grid {axes}", *_argument_rows(report), table_of(report)])


def _argument_rows(report: dict[str, Any]) -> Iterator[str]:
    """A row for each argument; those that differ in numbers of their names only share one."""
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for argument in report["arguments"]:
        layout = layout_text(argument["sharding"] or [])
        pattern = without_numbers(argument["name"])
        rows[pattern, argument["kind"], argument["type"], layout].append(argument["name"])
    table = [
        (f"{len(same)} x {pattern}" if len(same) > 1 else same[0], *cells)
        for (pattern, *cells), same in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def check_report(module: ModuleOp, path: str) -> None:
    """DiagnosticError where no report can be written to a path, before it is made."""
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        code = errno.EISDIR if target.is_dir() else errno.ENOENT
        raise _unwritable(module, path, os.strerror(code))


def write_report(module: ModuleOp, report: dict[str, Any], path: str) -> None:
    """Writes a report; DiagnosticError where the file cannot be written."""
    try:
        Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(module, path, error.strerror or str(error)) from None


def _unwritable(module: ModuleOp, path: str, reason: str) -> DiagnosticError:
    return DiagnosticError(module, f"auto-shard: report={path}: {reason}")
