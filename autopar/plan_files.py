"""Plans in files: JSON, a line for each argument, result and op.

The format has a version; what stands in a file is checked before it is used, and nothing in it is
run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, cast

from autopar.dialects.autopar import StrategyAttr
from autopar.dialects.sharding import Grid, Sharding
from autopar.passes.cost.report import CollectiveUse
from autopar.passes.importing.methods import METHODS, MethodOptions
from autopar.passes.planning.modelled import Modelled

from .decisions import DecidedOp, Decisions, StalePlanError, parsed_sharding, parsed_strategy
from .methods import check_num_micro_batches, check_reduction
from .plans import Plan, PlannedValue
from .typed_json import from_json

FORMAT = "autopar plan"
VERSION = 1
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class PlanFile:
    """What stands in a file, beside its format and version. ValueError for what cannot be."""

    method: str
    options: MethodOptions
    grid: dict[str, int]
    batch: str
    num_micro_batches: int
    reduction: str
    flops: int
    result_bytes: int
    program: str
    inputs: tuple[str, ...]
    searched: bool
    demands: tuple[str, ...]
    argument_shardings: tuple[str | None, ...]
    result_shardings: tuple[str | None, ...]
    arguments: list[PlannedValue]
    results: list[PlannedValue]
    collectives: list[CollectiveUse]
    ops: tuple[DecidedOp, ...]
    free_early: bool
    without: tuple[str, ...]
    modelled: Modelled | None

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise ValueError(f"method: {self.method!r} is unknown")
        if not self.grid or min(self.grid.values()) < 1:
            raise ValueError("grid: expected axes of at least one device")
        if min(self.flops, self.result_bytes) < 0:
            raise ValueError("flops, result_bytes: expected numbers of at least 0")
        check_num_micro_batches(self.num_micro_batches)
        check_reduction(self.reduction)
        for name in ("argument", "result"):
            values, shardings = getattr(self, f"{name}s"), getattr(self, f"{name}_shardings")
            if len(values) != len(shardings):
                raise ValueError(
                    f"{name}_shardings: expected {len(values)}, one for each {name}, found "
                    f"{len(shardings)}"
                )
            for index, (value, text) in enumerate(zip(values, shardings, strict=True)):
                self._check_dims(f"{name}s[{index}].dims", value)
                self._check_axes(f"{name}_shardings[{index}]", text, parsed_sharding)
        self._check_program()
        for number, op in enumerate(self.ops):
            for text in op.shardings:
                self._check_axes(f"ops[{number}].shardings", text, parsed_sharding)
            self._check_axes(f"ops[{number}].strategy", op.strategy, parsed_strategy)

    def _check_program(self) -> None:
        """ValueError for what is no hash of a program, and for other numbers of things that are
        known of its arguments than there are."""
        if not _HASH.fullmatch(self.program):
            raise ValueError(f"program: expected 64 hexadecimal digits, found {self.program!r}")
        counts = {"inputs": len(self.arguments), "demands": len(self.arguments + self.results)}
        for name, count in counts.items():
            found = len(getattr(self, name))
            if found != count:
                whose = "argument" if name == "inputs" else "argument and result"
                raise ValueError(f"{name}: expected {count}, one for each {whose}, found {found}")

    def _check_dims(self, field: str, value: PlannedValue) -> None:
        """ValueError where a value has other dimensions than its shape, lies over axes that the
        grid does not have, or twice over one; sub-axes are spelled `x:(1)2`."""
        if len(value.dims) != len(value.shape):
            raise ValueError(
                f"{field}: expected {len(value.shape)}, one for each dimension of {value.shape}, "
                f"found {len(value.dims)}"
            )
        axes = [axis for dim in value.dims for axis in dim]
        unknown = [axis for axis in axes if axis.partition(":")[0] not in self.grid]
        if unknown:
            raise ValueError(f"{field}: the grid has no axis {unknown[0]!r}")
        if len(set(axes)) < len(axes):
            raise ValueError(f"{field}: an axis stands there twice")

    def _check_axes(
        self, field: str, text: str | None, parsed: Callable[[str], Sharding | StrategyAttr | None]
    ) -> None:
        """ValueError where a text has axes that the grid does not have, or cannot be read."""
        try:
            found = parsed(text) if text is not None else None
        except StalePlanError as error:
            raise ValueError(f"{field}: {error}") from None
        if found is None:
            return
        axes = found.used_axes() if isinstance(found, Sharding) else chain(*found.data)
        for axis in axes:
            if axis.name not in self.grid:
                raise ValueError(f"{field}: the grid has no axis {axis.name!r}")


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
    file = PlanFile(
        method=plan.method,
        options=options,
        grid=dict(plan.grid.axes),
        batch=plan.batch,
        num_micro_batches=plan.num_micro_batches,
        reduction=plan.reduction,
        flops=plan.flops,
        result_bytes=plan.result_bytes,
        program=decisions.program,
        inputs=decisions.inputs,
        searched=decisions.searched,
        demands=decisions.demands,
        argument_shardings=decisions.arguments,
        result_shardings=decisions.results,
        arguments=plan.arguments,
        results=plan.results,
        collectives=plan.collectives,
        ops=decisions.ops,
        free_early=decisions.free_early,
        without=decisions.without,
        modelled=plan.modelled,
    )
    entries = {"format": FORMAT, "version": VERSION, **asdict(file)}
    return (
        "{\n" + ",\n".join(f"  {json.dumps(k)}: {_text(v)}" for k, v in entries.items()) + "\n}\n"
    )


def _text(value: Any) -> str:
    """JSON in one line; of lists of records a line for each."""
    if isinstance(value, list | tuple):
        rows = cast("Sequence[Any]", value)
        if not rows or isinstance(rows[0], dict):
            return "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n  ]"
    return json.dumps(value)


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Reads a plan. StalePlanError for another version, ValueError for what is no plan, OSError
    where there is no file; each in one line."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        what = f"no plan can be read: {error.strerror}: Plan.save(path) writes one"
        raise type(error)(error.errno, what, os.fspath(path)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is no plan: {error}") from None
    return plan_of_text(text, os.fspath(path))


def plan_of_text(text: str, name: str) -> Plan:
    """The plan of a file that has been read, as `load_plan`."""
    try:
        data: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is no plan: {error}") from None
    if not isinstance(data, dict) or cast(Any, data).get("format") != FORMAT:
        raise ValueError(f"{name} is no plan: it does not say {FORMAT!r}")
    found = cast("dict[str, Any]", data)
    if found.get("version") != VERSION or isinstance(found["version"], bool):
        raise StalePlanError(
            f"{name}: a plan of version {found.get('version')}, this autopar reads "
            f"version {VERSION}: plan again"
        )
    entries = {key: value for key, value in found.items() if key not in ("format", "version")}
    try:
        return _plan(from_json(entries, PlanFile))
    except ValueError as error:
        raise ValueError(f"{name} is no plan: {error}") from None


def _plan(file: PlanFile) -> Plan:
    return Plan(
        method=file.method,
        grid=Grid("mesh", tuple(file.grid.items())),
        arguments=file.arguments,
        results=file.results,
        collectives=file.collectives,
        flops=file.flops,
        result_bytes=file.result_bytes,
        batch=file.batch,
        num_micro_batches=file.num_micro_batches,
        reduction=file.reduction,
        modelled=file.modelled,
        options=file.options,
        decisions=Decisions(
            file.program,
            file.inputs,
            file.searched,
            file.demands,
            file.argument_shardings,
            file.result_shardings,
            file.ops,
            file.free_early,
            file.without,
        ),
    )
