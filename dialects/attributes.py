"""What the attributes `autopar.*` may hold, checked where a module is read from text.

MLIR lets any attribute stand behind the name of a dialect that it does not know; what reads them
afterwards takes their kind for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    UnitAttr,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, TypeAttribute
from xdsl.utils.hints import isa

from . import autopar
from .autopar import ShardingAttr, StrategyAttr, entries_of, stated_grid
from .diagnostics import DiagnosticError
from .spelling import did_you_mean


class _Kind(NamedTuple):
    hint: Any
    """The attribute's class, as `isa` takes it."""
    meaning: str = ""
    """What is expected, as an error says it."""


_ANY = _Kind(Attribute)
_INTEGER = _Kind(IntegerAttr, "an integer")

_KINDS: dict[str, _Kind] = {
    autopar.SHARDING: _Kind(
        ArrayAttr[ShardingAttr],
        'a list of shardings, one a result: [#autopar.sharding<@mesh, [{"x"}, {}]>]',
    ),
    autopar.MESH: _ANY,
    autopar.MESHES: _ANY,
    autopar.DEVICE_IDS: _ANY,  # checked by the grid
    autopar.PARTIAL: _ANY,
    autopar.KIND: _Kind(StringAttr, "a string"),
    autopar.BATCH_DIM: _INTEGER,
    autopar.AGAIN: _Kind(DenseArrayBase, "indices of operands, array<i64: 0>"),
    autopar.PHASE: _ANY,
    autopar.REDUCE_IN_LOOP: _ANY,
    autopar.STRATEGY: _Kind(StrategyAttr, 'a strategy, #autopar.strategy<[["x"], []]>'),
    autopar.GRID: _ANY,  # checked by `stated_grid`
    autopar.GLOBAL: _Kind(TypeAttribute, "a type"),
    autopar.COMBINE: _INTEGER,
    autopar.FREE_EARLY: _Kind(UnitAttr, "no value"),
    autopar.LAYOUT: _Kind(
        DictionaryAttr, 'a layout, {dims = [["x"], []], global = tensor<8x16xf32>}'
    ),
}
_ON_VALUES = {
    **_KINDS,
    autopar.SHARDING: _Kind(ShardingAttr, 'a sharding, #autopar.sharding<@mesh, [{"x"}, {}]>'),
}
"""The same on arguments and results of functions."""


class AttributeChecker:
    """Checks the ops of a module; each attribute object once, most are shared by many ops."""

    def __init__(self) -> None:
        self._passed: set[tuple[str, int, bool]] = set()

    def __call__(self, op: Operation) -> None:
        """DiagnosticError where an attribute `autopar.*` of an op, or of a function's arguments and
        results, is none that is known, or not of its kind."""
        if op.attributes:
            self._check(op, op.attributes, _KINDS, "")
        if isinstance(op, FuncOp):
            types = op.function_type
            for what, attrs, count in (
                ("argument", op.arg_attrs, len(types.inputs)),
                ("result", op.res_attrs, len(types.outputs)),
            ):
                for index, entry in enumerate(entries_of(attrs, count)):
                    self._check(op, entry.data, _ON_VALUES, f"{what} {index} of ")
        elif isinstance(op, ModuleOp):
            stated_grid(op)

    def _check(
        self,
        op: Operation,
        attributes: Mapping[str, Attribute],
        kinds: Mapping[str, _Kind],
        place: str,
    ) -> None:
        for name in attributes:
            if not name.startswith("autopar."):
                continue
            attr = attributes[name]
            key = name, id(attr), kinds is _ON_VALUES
            if key in self._passed:
                continue
            kind = kinds.get(name)
            if kind is None:
                problem = f"autopar has no attribute {name}{did_you_mean(name, kinds)}"
            elif not isa(attr, kind.hint):
                problem = f"{name} = {attr}: expected {kind.meaning}"
            else:
                self._passed.add(key)
                continue
            what = f"@{op.sym_name.data}" if isinstance(op, FuncOp) else f"'{op.name}' op"
            raise DiagnosticError(op, f"{place}{what}: {problem}")
