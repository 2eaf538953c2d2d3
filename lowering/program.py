"""A per-device program as data: what runs on every device, and how its global values lie.

Read off a module after `convert-shard-to-stablehlo`; nothing else tells the runtime anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    ModuleOp,
    StringAttr,
    TensorType,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation

from autopar.dialects.autopar import GRID, LAYOUT, aliases, stated_grid
from autopar.dialects.constants import numpy_dtype
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.access import op_name
from autopar.dialects.sharding import Grid
from autopar.passes.walk import inner_ops


@dataclass(frozen=True)
class Layout:
    """How a global array lies on the devices of a program."""

    dims: tuple[tuple[str, ...], ...]
    """For each dimension the grid axes that split it, major to minor; sub-axes as `x:(1)2`."""
    shape: tuple[int, ...]
    """Global shape."""
    dtype: Any
    """NumPy (or ml_dtypes) dtype; None for a token."""
    is_partial: bool = False
    """Each device holds a summand only (results of fragments, unreduced results)."""


@dataclass(frozen=True)
class DeviceProgram:
    """A program for one device of `grid`, in xDSL."""

    module: ModuleOp
    grid: Grid
    arguments: tuple[Layout, ...]
    results: tuple[Layout, ...]
    aliases: tuple[tuple[int, int], ...]
    """(argument, result) pairs that share a buffer."""


def device_program(module: ModuleOp) -> DeviceProgram:
    """Reads the contract's attributes off a per-device module.

    DiagnosticError where the module has not been through convert-shard-to-stablehlo, and for an op
    that XLA does not know (it would end the process).
    """
    grid = _grid(module)
    _check_ops(module)
    func = next(
        (op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main"), None
    )
    if func is None:
        raise DiagnosticError(module, "a per-device module needs a function @main")
    arguments = _layouts(func, func.arg_attrs, "argument")
    results = _layouts(func, func.res_attrs, "result")
    return DeviceProgram(module, grid, arguments, results, tuple(aliases(func)))


_RUNNABLE = frozenset({"builtin", "chlo", "func", "stablehlo"})


def _check_ops(module: ModuleOp) -> None:
    checked: set[type[Operation]] = set()
    for op in inner_ops(module):
        if type(op) in checked:
            continue
        checked.add(type(op))
        name = op_name(op)
        if name.partition(".")[0] not in _RUNNABLE:
            raise DiagnosticError(
                op,
                f"'{name}' op: XLA runs StableHLO only; convert the op, or make it a "
                "stablehlo.custom_call to a registered target",
            )


def _grid(module: ModuleOp) -> Grid:
    grid = stated_grid(module)
    if grid is None or "mhlo.num_replicas" not in module.attributes:
        raise DiagnosticError(
            module,
            f"the module is no per-device program (no {GRID} and mhlo.num_replicas): "
            "run shard-partition and convert-shard-to-stablehlo first",
        )
    return grid


def _layouts(
    func: FuncOp, attrs: ArrayAttr[DictionaryAttr] | None, what: str
) -> tuple[Layout, ...]:
    if attrs is None:
        return ()
    layouts: list[Layout] = []
    seen: dict[int, Layout] = {}
    for index, entry in enumerate(attrs.data):
        attr = entry.data.get(LAYOUT)
        if not isinstance(attr, DictionaryAttr):
            raise DiagnosticError(func, f"{what} {index} of @main has no {LAYOUT}")
        layout = seen.get(id(attr))
        if layout is None:
            layout = seen[id(attr)] = _layout(attr)
        layouts.append(layout)
    return tuple(layouts)


def _layout(attr: DictionaryAttr) -> Layout:
    whole = attr.data.get("global")
    if not isinstance(whole, TensorType):
        return Layout((), (), None)
    whole = cast("TensorType[Attribute]", whole)
    dims = cast(ArrayAttr[Attribute], attr.data["dims"])
    axes = tuple(tuple(_strings(dim)) for dim in dims)
    dtype = numpy_dtype(whole.element_type)
    return Layout(axes, whole.get_shape(), dtype, "partial" in attr.data)


def _strings(attr: Attribute) -> list[str]:
    texts = cast(ArrayAttr[StringAttr], attr)
    return [text.data for text in texts]
