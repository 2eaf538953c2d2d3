"""Several meshes over the same devices, seen as one grid.

A mesh's axis covers an interval of the row-major device index: axis i of sizes s_0, s_1, … stands
between the products p_i = s_0 … s_(i-1) and p_i s_i. An axis of another mesh over the same devices
is the list of (sub-)axes that covers the same interval, which exists for all axes when the products
of both meshes, put together in order, divide each other (their common refinement).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from autopar.dialects.sharding import Axes, AxisRef, DimSharding, Partial, Sharding

MeshAxes = Sequence[tuple[str, int]]
"""(name, size) of each axis, major to minor."""


def boundaries(axes: MeshAxes) -> set[int]:
    """The products between which the axes stand."""
    product, found = 1, {1}
    for _, size in axes:
        product *= size
        found.add(product)
    return found


def refine_together(meshes: Iterable[MeshAxes]) -> bool:
    """Whether meshes of equal size have a common refinement."""
    cuts = sorted(set[int]().union(*(boundaries(axes) for axes in meshes)))
    return all(small and large % small == 0 for small, large in pairwise(cuts))


def axis_problem(axis: AxisRef, axes: MeshAxes) -> str | None:
    """What is wrong with a reference to an axis of a mesh; None if nothing is."""
    sizes = dict(axes)
    if axis.name not in sizes:
        known = ", ".join(f'"{name}"={size}' for name, size in axes)
        return f'axis "{axis.name}" does not exist; the axes are [{known}]'
    size = sizes[axis.name]
    if axis.size and (size % (axis.pre * axis.size) or axis.size == size):
        return (
            f'sub-axis {axis} does not divide axis "{axis.name}" of size {size}: pre-size x size '
            f"must divide it, and the size be smaller"
        )
    return None


def _interval(axis: AxisRef, axes: MeshAxes) -> tuple[int, int]:
    start = 1
    for name, size in axes:
        if name == axis.name:
            start *= axis.pre
            return start, start * (axis.size or size)
        start *= size
    raise KeyError(axis.name)


def overlap(axes: Sequence[AxisRef], mesh: MeshAxes) -> tuple[AxisRef, AxisRef] | None:
    """Two references of `axes` that share devices' coordinates; None if there are none."""
    if len({axis.name for axis in axes}) == len(axes):
        return None
    for index, first in enumerate(axes):
        for second in axes[index + 1 :]:
            if first.name != second.name:
                continue
            a, b = _interval(first, mesh), _interval(second, mesh)
            if max(a[0], b[0]) < min(a[1], b[1]) or first == second:
                return first, second
    return None


def _translate_axis(axis: AxisRef, source: MeshAxes, target: MeshAxes) -> Axes | None:
    start, end = _interval(axis, source)
    found: list[AxisRef] = []
    product = 1
    for name, size in target:
        low, high = max(start, product), min(end, product * size)
        if low < high:
            if low % product or high % low:
                return None
            pre, part = low // product, high // low
            if size % (pre * part):
                return None
            found.append(AxisRef(name) if part == size else AxisRef(name, pre, part))
        product *= size
    return tuple(found)


def merge_axes(axes: Iterable[AxisRef], mesh: MeshAxes) -> Axes:
    """The same axes with neighbouring sub-axes put together (sdy wants it so)."""
    sizes = dict(mesh)
    merged: list[AxisRef] = []
    for axis in axes:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.name == axis.name
            and last.size
            and axis.size
            and axis.pre == last.pre * last.size
        ):
            size = last.size * axis.size
            whole = size == sizes[axis.name]
            merged[-1] = AxisRef(axis.name) if whole else AxisRef(axis.name, last.pre, size)
        else:
            merged.append(axis)
    return tuple(merged)


def translate_axes(axes: Axes, source: MeshAxes, target: MeshAxes) -> Axes | None:
    """Axes of mesh `source` as axes of mesh `target`; None where `target` cannot say them."""
    found: list[AxisRef] = []
    for axis in axes:
        part = _translate_axis(axis, source, target)
        if part is None:
            return None
        found.extend(part)
    return merge_axes(found, target)


def translate_sharding(
    sharding: Sharding, source: MeshAxes, grid: str, target: MeshAxes
) -> Sharding | None:
    """A sharding on mesh `source` as one on `grid`; None where that cannot say it."""
    dims: list[DimSharding] = []
    for dim in sharding.dims:
        axes = translate_axes(dim.axes, source, target)
        if axes is None:
            return None
        dims.append(DimSharding(axes, dim.is_open, dim.priority))
    replicated = translate_axes(sharding.replicated, source, target)
    if replicated is None:
        return None
    partials: list[Partial] = []
    for partial in sharding.partial:
        axes = translate_axes(partial.axes, source, target)
        if axes is None:
            return None
        if axes:
            partials.append(Partial(partial.kind, axes))
    return Sharding(grid, tuple(dims), replicated, tuple(partials))


def in_mesh_order(axes: Iterable[AxisRef], mesh: MeshAxes) -> Axes:
    """Axes sorted as they stand in the mesh, neighbouring sub-axes put together."""
    order = {name: index for index, (name, _) in enumerate(mesh)}
    return merge_axes(sorted(axes, key=lambda axis: (order[axis.name], axis.pre)), mesh)
