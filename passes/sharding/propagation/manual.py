"""The border of manual computations: global shardings outside, without the manual axes inside."""

from __future__ import annotations

from typing import Any

from xdsl.ir import Operation

from autopar.dialects.sharding import Axes, DimSharding, Sharding

from .factors import TensorState


def manual_axes(op: Operation) -> frozenset[str]:
    data: Any = op.properties["manual_axes"]
    return frozenset(data.data)


def border_sharding(op: Operation, index: int, is_entry: bool) -> Sharding:
    """The written (global) sharding of operand or result `index` of a manual computation."""
    attribute: Any = op.properties["in_shardings" if is_entry else "out_shardings"]
    entry: Any = attribute.data[index]
    return entry if isinstance(entry, Sharding) else getattr(entry, "sharding", entry)


def without_manual(state: TensorState, axes: frozenset[str]) -> TensorState:
    """The state as the inside sees it."""
    return state._replace(
        dims=tuple(_drop(dim, axes) for dim in state.dims),
        replicated=_drop(state.replicated, axes),
    )


def with_manual(state: TensorState, border: Sharding, axes: frozenset[str]) -> TensorState:
    """The state as the outside sees it: manual axes of the border first, then free ones."""
    return state._replace(
        grid=state.grid or border.grid,
        dims=tuple(
            _keep(dim.axes, axes) + _drop(own, axes)
            for dim, own in zip(border.dims, state.dims, strict=True)
        ),
        replicated=_keep(border.replicated, axes) + _drop(state.replicated, axes),
    )


def written_border(state: TensorState, border: Sharding, axes: frozenset[str]) -> Sharding:
    """The closed sharding to write on the op for a state of the inside."""
    full = with_manual(state, border, axes)
    return Sharding(
        border.grid,
        tuple(DimSharding(dim) for dim in full.dims),
        full.replicated,
        border.partial,
    )


def _drop(axes: Axes, manual: frozenset[str]) -> Axes:
    return tuple(axis for axis in axes if axis.name not in manual)


def _keep(axes: Axes, manual: frozenset[str]) -> Axes:
    return tuple(axis for axis in axes if axis.name in manual)
