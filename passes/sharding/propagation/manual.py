"""The border of manual computations: global shardings outside, without the manual axes inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xdsl.ir import Attribute, Operation

from autopar.dialects.sdy.attributes import TensorSharding, TensorShardingPerValueAttr
from autopar.dialects.sharding import Axes, AxisRef, DimSharding, Grid, Sharding

from .factors import TensorState


@dataclass(frozen=True, slots=True)
class Manual:
    """One operand or result of a manual computation."""

    op: Operation
    index: int
    is_entry: bool
    """An operand (else a result)."""


def specify_manual_axes(op: Operation, grids: Mapping[str, Grid]) -> None:
    """Replicates explicitly what a border of a manual computation leaves out of its manual axes.

    The shapes inside are local to them: propagation must not split anything further over them.
    """
    axes: Any = op.properties["manual_axes"]
    for key in ("in_shardings", "out_shardings"):
        old: Any = op.properties[key]
        given: list[Sharding] = [item.sharding for item in old.data]
        new = [_with_replicated(s, axes.data, grids[s.grid]) for s in given]
        if new != given:
            op.properties[key] = per_value(new, old)


def _with_replicated(sharding: Sharding, names: Iterable[str], grid: Grid) -> Sharding:
    """The sharding with those of the named axes that it does not use among its replicated ones."""
    used = {axis.name for axis in sharding.used_axes()}
    missing = [AxisRef(name) for name in names if name not in used]
    if not missing:
        return sharding
    order = grid.axis_names
    replicated = sorted(
        (*sharding.replicated, *missing), key=lambda axis: (order.index(axis.name), axis.pre)
    )
    return replace(sharding, replicated=tuple(replicated))


def per_value(shardings: Sequence[Sharding], old: Attribute) -> TensorShardingPerValueAttr:
    """The shardings on the mesh on which the old ones are written (import-sdy inlines it)."""
    assert isinstance(old, TensorShardingPerValueAttr)
    return TensorShardingPerValueAttr(
        tuple(TensorSharding(s, o.inlined_mesh) for s, o in zip(shardings, old.data, strict=True))
    )


def border_sharding(op: Operation, index: int, is_entry: bool) -> Sharding:
    """The written (global) sharding of operand or result `index` of a manual computation."""
    attribute: Any = op.properties["in_shardings" if is_entry else "out_shardings"]
    return attribute.data[index].sharding


class Border:
    """What a value is on the two sides: outside global, inside without the manual axes.

    Of an operand the target is inside (the body's argument), of a result outside.
    """

    def __init__(self, manual: Manual) -> None:
        self.sharding = border_sharding(manual.op, manual.index, manual.is_entry)
        self._is_entry = manual.is_entry
        axes: Any = manual.op.properties["manual_axes"]
        self._axes = frozenset[str](axes.data)

    def seen_by_sources(self, target: TensorState) -> TensorState:
        """The target's state as the side of the sources has it."""
        return self._outside(target) if self._is_entry else self.inside(target)

    def seen_by_target(self, source: TensorState) -> TensorState:
        """A state of the sources' side as the target has it."""
        return self.inside(source) if self._is_entry else self._outside(source)

    def inside(self, state: TensorState) -> TensorState:
        return state._replace(
            dims=tuple(self._drop(dim) for dim in state.dims),
            replicated=self._drop(state.replicated),
        )

    def _outside(self, state: TensorState) -> TensorState:
        """Manual axes of the border first, then the free ones."""
        return state._replace(
            grid=state.grid or self.sharding.grid,
            dims=tuple(
                self._keep(dim.axes) + self._drop(own)
                for dim, own in zip(self.sharding.dims, state.dims, strict=True)
            ),
            replicated=self._keep(self.sharding.replicated) + self._drop(state.replicated),
        )

    def written(self, target: TensorState) -> Sharding:
        """The closed global sharding to write on the op for a state of the target."""
        full = self._outside(target)
        return Sharding(
            self.sharding.grid,
            tuple(DimSharding(dim) for dim in full.dims),
            full.replicated,
            self.sharding.partial,
        )

    def _drop(self, axes: Axes) -> Axes:
        return tuple(axis for axis in axes if axis.name not in self._axes)

    def _keep(self, axes: Axes) -> Axes:
        return tuple(axis for axis in axes if axis.name in self._axes)
