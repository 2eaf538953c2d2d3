"""Plans in files: JSON, a line for each argument, result and op.

The format has a version; what stands in a file is checked before it is used, and nothing in it is
run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from autopar.dialects.sharding import Grid
from autopar.passes.cost.report import CollectiveUse
from autopar.passes.importing.methods import MethodOptions

from .decisions import DecidedOp, Decisions, StalePlanError
from .plans import Plan, PlannedValue

FORMAT = "autopar plan"
VERSION = 1

_LISTS = {
    "arguments": PlannedValue,
    "results": PlannedValue,
    "collectives": CollectiveUse,
    "ops": DecidedOp,
}
"""The parts of a file with a line for each element."""


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Writes a plan. ValueError for one without decisions, OSError where the file cannot be."""
    text = plan_text(plan)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def plan_text(plan: Plan) -> str:
    """What stands in a plan's file. ValueError for a plan without decisions."""
    decisions, options = plan.decisions, plan.options
    if decisions is None or options is None:
        raise ValueError("the plan does not say what was decided for the ops of its program")
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "method": plan.method,
        "options": asdict(options),
        "grid": dict(plan.grid.axes),
        "batch": plan.batch,
        "num_micro_batches": plan.num_micro_batches,
        "reduction": plan.reduction,
        "flops": plan.flops,
        "result_bytes": plan.result_bytes,
        "program": decisions.program,
        "inputs": decisions.inputs,
        "searched": decisions.searched,
        "demands": decisions.demands,
        "argument_shardings": decisions.arguments,
        "result_shardings": decisions.results,
    }
    lists = {
        "arguments": plan.arguments,
        "results": plan.results,
        "collectives": plan.collectives,
        "ops": decisions.ops,
    }
    return "".join(_text(head, lists))


def _text(head: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    yield "{\n"
    for key, value in head.items():
        yield f"  {json.dumps(key)}: {json.dumps(value)},\n"
    for key, values in lists.items():
        rows = ",\n".join(f"    {json.dumps(asdict(value))}" for value in values)
        end = "" if key == "ops" else ","
        yield f"  {json.dumps(key)}: [\n{rows}\n  ]{end}\n"
    yield "}\n"


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Reads a plan. StalePlanError for another version, ValueError for what is no plan, OSError
    where there is no file; each in one line."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is no plan: {error}") from None
    return plan_of_text(text, os.fspath(path))


def plan_of_text(text: str, name: str) -> Plan:
    """The plan of a file that has been read, as `load_plan`."""
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no plan: {error}") from None
    if not isinstance(data, dict) or cast(Any, data).get("format") != FORMAT:
        raise ValueError(f"{name} is no plan: it does not say {FORMAT!r}")
    found = cast("dict[str, Any]", data)
    if found.get("version") != VERSION:
        raise StalePlanError(
            f"{name}: a plan of version {found.get('version')}, this autopar reads "
            f"version {VERSION}: plan again"
        )
    try:
        return _plan(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{name} is no plan: {what}") from None


def _plan(data: dict[str, Any]) -> Plan:
    lists = {key: [_read(cls, row) for row in data[key]] for key, cls in _LISTS.items()}
    decisions = Decisions(
        str(data["program"]),
        _tuples(data["inputs"]),
        bool(data["searched"]),
        _tuples(data["demands"]),
        _tuples(data["argument_shardings"]),
        _tuples(data["result_shardings"]),
        tuple(lists["ops"]),
    )
    return Plan(
        method=str(data["method"]),
        grid=Grid("mesh", tuple((str(k), int(v)) for k, v in data["grid"].items())),
        arguments=lists["arguments"],
        results=lists["results"],
        collectives=lists["collectives"],
        flops=int(data["flops"]),
        result_bytes=int(data["result_bytes"]),
        batch=str(data["batch"]),
        num_micro_batches=int(data["num_micro_batches"]),
        reduction=str(data["reduction"]),
        options=MethodOptions(**data["options"]),
        decisions=decisions,
    )


def _read(cls: type[Any], row: Any) -> Any:
    names = [f.name for f in fields(cls)]
    if not isinstance(row, dict) or sorted(cast("dict[str, Any]", row)) != sorted(names):
        raise ValueError(f"expected {', '.join(names)}: {json.dumps(row)}")
    return cls(**{name: _tuples(value) for name, value in cast("dict[str, Any]", row).items()})


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in cast("list[Any]", value))
    return value
