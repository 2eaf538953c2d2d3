"""The data of a page, as JSON values, from a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Operation, SSAValue

from autopar.dialects.autopar import STRATEGY, StrategyAttr, sharding_of
from autopar.dialects.autopar import arg_shardings as shardings_of_arguments
from autopar.dialects.autopar import result_shardings as shardings_of_results
from autopar.dialects.rules.access import operands_of
from autopar.dialects.shard import user_grid
from autopar.dialects.sharding import Grid, Sharding, local_shape
from autopar.dialects.tensors import item_bytes, shape_of
from autopar.passes.entry import main_function
from autopar.passes.importing.arguments import argument_kinds
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import BOUNDARY, DECIDE, PARTITION
from autopar.passes.planning.auto_shard import Terms
from autopar.passes.planning.naming import ValueNames, pattern
from autopar.passes.planning.places import planned_ops
from autopar.passes.sharding.propagation.classes import ConstantFinder

from .facts import collectives_data, memory_data, objective_data
from .tree import ProgramTree, Table

VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a page says of itself."""

    title: str
    method: str
    searched: dict[str, Any] | None = None
    """Of the search: bound, gap, seconds; None where there was none."""


def program_data(
    module: ModuleOp,
    context: Context,
    terms: Terms,
    header: Header,
    arguments: Sequence[str] = (),
    results: Sequence[str] = (),
) -> dict[str, Any]:
    """Of a module whose shardings are decided. It is partitioned in place."""
    grid, layouts = user_grid(module), Table()
    run_passes(module, BOUNDARY, context)
    values = _boundary(module, layouts, arguments, results)
    tree = _program(module, layouts)
    run_passes(module, (*DECIDE, *PARTITION), context)
    collectives = collectives_data(module, terms.prices, tree)
    return {
        **head(header, grid),
        "objective": objective_data(module, terms.prices),
        "memory": memory_data(module, terms.limit),
        "collectives": collectives,
        "arguments": values[0],
        "results": values[1],
        "program": tree.as_json(),
        "layouts": layouts.values,
    }


def head(header: Header, grid: Grid) -> dict[str, Any]:
    return {
        "version": VERSION,
        "title": header.title,
        "method": header.method,
        "solver": header.searched,
        "grid": [[name, size] for name, size in grid.axes],
    }


def _program(module: ModuleOp, layouts: Table) -> ProgramTree:
    tree, constants = ProgramTree(), ConstantFinder()
    for op in planned_ops(main_function(module)):
        if not op.results:
            continue
        free = any(constants.is_copied(result) for result in op.results)
        tree.add(op, -1 if free else _layout_of(op.results[0], layouts), _strategy(op))
    return tree


def _strategy(op: Operation) -> str:
    attribute = op.attributes.get(STRATEGY)
    return strategy_text(attribute) if isinstance(attribute, StrategyAttr) else ""


def strategy_text(strategy: StrategyAttr) -> str:
    """The grid axes of each factor: `x,y | - | -`."""
    return " | ".join(",".join(axis.spelled for axis in axes) or "-" for axes in strategy.data)


def _layout_of(value: SSAValue, layouts: Table) -> int:
    return layout_number(sharding_of(value), len(shape_of(value.type)), layouts)


def layout_number(sharding: Sharding | None, rank: int, layouts: Table) -> int:
    """The axes of each dimension, as texts."""
    dims = ((),) * rank if sharding is None else sharding.dim_axes
    return layouts.number(tuple(",".join(axis.spelled for axis in axes) for axes in dims))


def _boundary(
    module: ModuleOp, layouts: Table, arguments: Sequence[str], results: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    func = main_function(module)
    names = ValueNames(func, (), arguments, results)
    last = func.body.block.last_op
    assert last is not None
    grid = user_grid(module)
    args = [
        _value(name, kind, arg.type, sharding, layouts, grid)
        for name, kind, arg, sharding in zip(
            names.arguments,
            argument_kinds(func),
            func.body.block.args,
            shardings_of_arguments(func),
            strict=True,
        )
    ]
    outs = [
        _value(name, "result", value.type, sharding, layouts, grid)
        for name, value, sharding in zip(
            names.results, operands_of(last), shardings_of_results(func), strict=True
        )
    ]
    return merged(args), merged(outs)


def _value(
    name: str, kind: str, type: Attribute, sharding: Sharding | None, layouts: Table, grid: Grid
) -> list[Any]:
    shape = shape_of(type)
    local = shape if sharding is None else local_shape(shape, sharding, grid)
    size = item_bytes(type)
    for length in local:
        size *= length
    return [name, kind, str(type), layout_number(sharding, len(shape), layouts), round(size)]


def merged(values: Sequence[list[Any]]) -> list[Any]:
    """[names, kind, type, layout, bytes of all]: values whose names differ in numbers together."""
    rows: dict[tuple[Any, ...], list[Any]] = {}
    for name, kind, type, layout, size in values:
        row = rows.setdefault((pattern(name), kind, type, layout), [[], kind, type, layout, 0])
        row[0].append(name)
        row[4] += size
    return list(rows.values())


def encoded(data: dict[str, Any]) -> str:
    """JSON that may stand inside of a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
