"""Algebra of (sub-)axes: overlap, prefix, merging, splitting off a part.

All functions expect canonical axes: a sub-axis that is the whole axis is written as the whole axis.
"""

from __future__ import annotations

from collections.abc import Iterable

from autopar.dialects.sharding import Axes, AxisRef, Grid


class AxisAlgebra:
    """Operations on the axes of one grid."""

    def __init__(self, grid: Grid) -> None:
        self.sizes = grid.sizes

    def size(self, axis: AxisRef) -> int:
        return axis.size or self.sizes[axis.name]

    def total(self, axes: Iterable[AxisRef]) -> int:
        product = 1
        for axis in axes:
            product *= self.size(axis)
        return product

    def sub_axis(self, name: str, pre: int, size: int) -> AxisRef:
        whole = pre == 1 and size == self.sizes[name]
        return AxisRef(name) if whole else AxisRef(name, pre, size)

    def canonical(self, axis: AxisRef) -> AxisRef:
        return self.sub_axis(axis.name, axis.pre, axis.size) if axis.size else axis

    def contains(self, outer: AxisRef, inner: AxisRef) -> bool:
        """Whether `inner` is `outer` or lies wholly in it."""
        if outer == inner:
            return True
        return (
            outer.name == inner.name
            and outer.pre <= inner.pre
            and outer.pre * self.size(outer) >= inner.pre * self.size(inner)
        )

    def is_prefix(self, first: AxisRef, second: AxisRef) -> bool:
        """Whether `first` is `second` or its major part."""
        if first == second:
            return True
        return (
            first.name == second.name
            and first.pre == second.pre
            and self.size(first) <= self.size(second)
        )

    def overlaps(self, first: AxisRef, second: AxisRef) -> bool:
        if first.name != second.name:
            return False
        return first.pre < second.pre * self.size(second) and second.pre < first.pre * self.size(
            first
        )

    def prefix_without_overlap(self, axis: AxisRef, others: Iterable[AxisRef]) -> AxisRef | None:
        """The largest major part of `axis` that overlaps none of `others`; None if there is none.

        A part ends where an overlapping sub-axis begins, and only there.
        """
        for other in others:
            if axis.name != other.name or not self.overlaps(axis, other):
                continue
            if axis.pre >= other.pre:
                return None
            axis = self.sub_axis(axis.name, axis.pre, other.pre // axis.pre)
        return axis

    def append(self, axes: list[AxisRef], axis: AxisRef) -> None:
        """Appends `axis`, merged with the last one where it continues that."""
        if axes:
            last = axes[-1]
            if last.name == axis.name and last.pre * self.size(last) == axis.pre:
                size = self.size(last) * self.size(axis)
                axes[-1] = self.sub_axis(last.name, last.pre, size)
                return
        axes.append(axis)

    def is_strict_prefix(self, first: Axes, second: Axes) -> bool:
        """Whether `second` properly extends `first` (its last axis may grow)."""
        return first != second and self.is_list_prefix(first, second)

    def is_list_prefix(self, first: Axes, second: Axes) -> bool:
        if not first:
            return True
        count = len(first)
        if count > len(second) or first[: count - 1] != second[: count - 1]:
            return False
        return self.is_prefix(first[-1], second[count - 1])
