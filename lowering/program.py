"""A per-device program as data: what runs on every device, and how its global values lie.

Read off a module after `convert-shard-to-stablehlo`; nothing else tells the runtime anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    ModuleOp,
    StringAttr,
    TensorType,
)
from xdsl.dialects.func import CallOp, FuncOp
from xdsl.ir import Attribute, Operation
from xdsl.utils.hints import isa

from autopar.dialects.autopar import GRID, LAYOUT, aliases, entries_of, stated_grid
from autopar.dialects.constants import numpy_dtype
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.access import op_name
from autopar.dialects.sharding import DimSharding, Grid, Sharding, local_shape, parse_axis
from autopar.passes.importing.annotations import ShardingChecker
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

    DiagnosticError where the module has not been through convert-shard-to-stablehlo, and for what
    would end the process in XLA: an op that it does not know, recursion, arrays of other sizes than
    @main's.
    """
    grid = _grid(module)
    _check_ops(module)
    func = next(
        (op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main"), None
    )
    if func is None:
        raise DiagnosticError(module, "a per-device module needs a function @main")
    inputs, outputs = func.function_type.inputs.data, func.function_type.outputs.data
    reader = _LayoutReader(func, grid)
    arguments = reader.read(func.arg_attrs, inputs, "argument")
    results = reader.read(func.res_attrs, outputs, "result")
    return DeviceProgram(module, grid, arguments, results, tuple(aliases(func)))


_RUNNABLE = frozenset({"builtin", "chlo", "func", "stablehlo"})


def _check_ops(module: ModuleOp) -> None:
    checked: set[type[Operation]] = set()
    calls: list[CallOp] = []
    for op in inner_ops(module):
        if type(op) is CallOp:
            calls.append(op)
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
    if calls:
        _check_calls(calls)


def _check_calls(calls: Sequence[CallOp]) -> None:
    """Refuses functions that call themselves, directly or not."""
    called: dict[str, list[CallOp]] = {}
    for call in calls:
        scope = call.parent_op()
        while scope is not None and not isinstance(scope, FuncOp):
            scope = scope.parent_op()
        if scope is not None:
            called.setdefault(scope.sym_name.data, []).append(call)
    finished: set[str] = set()
    for root in called:
        path = {root: iter(called[root])}  # a function on the way, and its calls to follow
        while path:
            name, rest = next(reversed(path.items()))
            call = next(rest, None)
            if call is None:
                path.popitem()
                finished.add(name)
                continue
            callee = call.callee.string_value()
            if callee in path:
                raise DiagnosticError(
                    call,
                    f"@{callee} calls itself: XLA knows no recursion, write a stablehlo.while",
                )
            if callee not in finished:
                path[callee] = iter(called.get(callee, ()))


def _grid(module: ModuleOp) -> Grid:
    grid = stated_grid(module)
    if grid is None or "mhlo.num_replicas" not in module.attributes:
        raise DiagnosticError(
            module,
            f"the module is no per-device program (no {GRID} and mhlo.num_replicas): "
            "run shard-partition and convert-shard-to-stablehlo first",
        )
    return grid


class _LayoutReader:
    """Reads the layouts of a function's boundary, and checks them against its types."""

    def __init__(self, func: FuncOp, grid: Grid) -> None:
        self._func = func
        self._grid = grid
        self._check = ShardingChecker({grid.name: grid})
        self._read: dict[tuple[int, int], Layout] = {}  # by identity of layout and type

    def read(
        self, attrs: ArrayAttr[DictionaryAttr] | None, types: Sequence[Attribute], what: str
    ) -> tuple[Layout, ...]:
        layouts: list[Layout] = []
        for index, (entry, type_) in enumerate(
            zip(entries_of(attrs, len(types)), types, strict=True)
        ):
            attr = entry.data.get(LAYOUT)
            layout = self._read.get((id(attr), id(type_)))
            if layout is None:
                layout = self._layout(attr, type_, f"{what} {index} of @main")
                self._read[id(attr), id(type_)] = layout
            layouts.append(layout)
        return tuple(layouts)

    def _layout(self, attr: Attribute | None, local: Attribute, what: str) -> Layout:
        if not isinstance(attr, DictionaryAttr):
            raise DiagnosticError(self._func, f"{what} has no {LAYOUT}")
        whole = attr.data.get("global")
        if not isinstance(whole, TensorType):
            if isinstance(local, TensorType):
                raise DiagnosticError(
                    self._func, f"{what} is {local}, its {LAYOUT} names no global tensor type"
                )
            return Layout((), (), None)
        whole = cast("TensorType[Attribute]", whole)
        axes = attr.data.get("dims")
        if not isa(axes, ArrayAttr[ArrayAttr[StringAttr]]):
            raise DiagnosticError(self._func, f"{what}: {LAYOUT} has no lists of axes: {attr}")
        names = tuple(tuple(name.data for name in dim) for dim in axes)
        dims = tuple(DimSharding(tuple(parse_axis(name) for name in dim)) for dim in names)
        sharding = Sharding(self._grid.name, dims)
        self._check(sharding, whole.get_num_dims(), self._func, what)
        expected = TensorType(
            whole.element_type, local_shape(whole.get_shape(), sharding, self._grid)
        )
        if local != expected:
            raise DiagnosticError(
                self._func,
                f"{what} is {local}, its {LAYOUT} of {whole} says {expected}: a device's part of a "
                "dimension is ceil(global size / parts)",
            )
        dtype = numpy_dtype(whole.element_type)
        return Layout(names, whole.get_shape(), dtype, "partial" in attr.data)
