"""Shardings as plain data: grids, axes, per-dimension axes, partial results.

Every pass computes on these classes; the IR attributes of `shard`, `sdy` and `autopar` only wrap
them (one payload, several spellings). The vocabulary is Shardy's (sub-axes, open and closed
dimensions, priorities, explicitly replicated axes; https://openxla.org/shardy), extended by partial
results with a reduction kind, as the older MLIR mesh dialect had them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import NamedTuple


class AxisRef(NamedTuple):
    """A grid axis, or a sub-axis of it.

    `pre` is the product of the sizes of the more major sub-axes, `size` the size of this one;
    `size == 0` means the whole axis. Text: `"x"`, or `"x":(pre)size` for a sub-axis.
    """

    name: str
    pre: int = 1
    size: int = 0

    @property
    def is_whole(self) -> bool:
        return self.size == 0

    def __str__(self) -> str:
        return f'"{self.name}"' if self.size == 0 else f'"{self.name}":({self.pre}){self.size}'

    @property
    def spelled(self) -> str:
        """The name under which a refined grid holds this axis: `x`, or `x:(pre)size`."""
        return self.name if self.size == 0 else f"{self.name}:({self.pre}){self.size}"


_SUB_AXIS = re.compile(r"(.+):\((\d+)\)(\d+)$")


def parse_axis(text: str) -> AxisRef:
    """`x` or `x:(pre)size`, as layouts and refined grids spell axes."""
    match = _SUB_AXIS.match(text)
    return AxisRef(match[1], int(match[2]), int(match[3])) if match else AxisRef(text)


Axes = tuple[AxisRef, ...]


class DimSharding(NamedTuple):
    """The axes that split one tensor dimension, major to minor."""

    axes: Axes = ()
    is_open: bool = False
    """Whether propagation may add axes."""
    priority: int | None = None
    """User priority of sdy (0 is the first; None means 0 but is not printed)."""

    def __str__(self) -> str:
        parts = [str(axis) for axis in self.axes] + (["?"] if self.is_open else [])
        suffix = "" if self.priority is None else f"p{self.priority}"
        return "{" + ", ".join(parts) + "}" + suffix


class Partial(NamedTuple):
    """The value is a partial result: reducing it by `kind` over `axes` gives the value meant."""

    kind: str
    """sum, max, min, product, bitwise_and, bitwise_or, bitwise_xor (shard's reduction kinds)."""
    axes: Axes


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one tensor lies on a grid. Axes not named anywhere are replicated."""

    grid: str
    dims: tuple[DimSharding, ...]
    replicated: Axes = ()
    """Axes that propagation must not use for this tensor (explicitly replicated)."""
    partial: tuple[Partial, ...] = ()

    @staticmethod
    def of(grid: str, dims: Iterable[Iterable[str | AxisRef]], **kwargs: object) -> Sharding:
        """A closed sharding from axis names: `Sharding.of("mesh", [["x"], []])`."""
        return Sharding(
            grid,
            tuple(
                DimSharding(tuple(a if isinstance(a, AxisRef) else AxisRef(a) for a in dim))
                for dim in dims
            ),
            **kwargs,  # pyright: ignore[reportArgumentType]
        )

    @staticmethod
    def fully_replicated(grid: str, rank: int, *, is_open: bool = False) -> Sharding:
        return Sharding(grid, (DimSharding((), is_open),) * rank)

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def dim_axes(self) -> tuple[Axes, ...]:
        return tuple(dim.axes for dim in self.dims)

    @property
    def partial_axes(self) -> Axes:
        return tuple(axis for partial in self.partial for axis in partial.axes)

    def used_axes(self) -> Iterator[AxisRef]:
        """Every axis that the sharding names: dimensions, explicitly replicated, partial."""
        for dim in self.dims:
            yield from dim.axes
        yield from self.replicated
        for partial in self.partial:
            yield from partial.axes

    @property
    def is_replicated(self) -> bool:
        return not self.partial and not any(dim.axes for dim in self.dims)

    @property
    def says_something(self) -> bool:
        """Whether it does more than leave all dimensions open."""
        return any(self.used_axes()) or not all(dim.is_open for dim in self.dims)

    def closed(self) -> Sharding:
        """The same placement with every dimension closed and without priorities."""
        return replace(self, dims=tuple(DimSharding(dim.axes) for dim in self.dims))

    def __str__(self) -> str:
        text = f"@{self.grid}, [{', '.join(map(str, self.dims))}]"
        if self.replicated:
            text += f", replicated={{{', '.join(map(str, self.replicated))}}}"
        if self.partial:
            kinds = ", ".join(f"{p.kind} = [{', '.join(map(str, p.axes))}]" for p in self.partial)
            text += f", partial={{{kinds}}}"
        return text


@dataclass(frozen=True)
class Grid:
    """A named, row-major grid of devices with named axes."""

    name: str
    axes: tuple[tuple[str, int], ...]
    """(name, size) in major to minor order; axes of size 1 included."""
    device_ids: tuple[int, ...] | None = None
    """The device order that the program was written with; kept, never renumbers (None = iota)."""

    @cached_property
    def axis_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.axes)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.axes)

    @cached_property
    def sizes(self) -> dict[str, int]:
        return dict(self.axes)

    @cached_property
    def num_devices(self) -> int:
        return prod(self.shape)

    def axis_size(self, axis: AxisRef) -> int:
        """Number of parts that `axis` splits into. KeyError if the grid has no such axis."""
        return axis.size or self.sizes[axis.name]

    def parts(self, axes: Iterable[AxisRef]) -> int:
        """Number of parts that a dimension sharded over `axes` is split into."""
        count = 1
        for name, _, size in axes:
            count *= size or self.sizes[name]
        return count

    def axis_stride(self, axis: AxisRef) -> int:
        """Distance in device index between neighbours along `axis` (row-major)."""
        index = self.axis_names.index(axis.name)
        minor = prod(self.shape[index + 1 :])
        if axis.size:
            minor *= self.shape[index] // (axis.pre * axis.size)
        return minor

    def coordinate(self, device: int, axis: AxisRef) -> int:
        """Coordinate of `device` (row-major index) along `axis`."""
        return device // self.axis_stride(axis) % self.axis_size(axis)

    def linear_coordinate(self, device: int, axes: Sequence[AxisRef]) -> int:
        """Index of the part that `device` holds of a dimension sharded over `axes`."""
        index = 0
        for axis in axes:
            index = index * self.axis_size(axis) + self.coordinate(device, axis)
        return index

    def groups(self, axes: Sequence[AxisRef]) -> list[list[int]]:
        """Replica groups of a collective over `axes`: the devices that differ only in these axes.

        Within a group the devices stand in the row-major order of `axes` as given; the groups in
        the order of their first device in the grid.
        """
        members: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        strides = [(self.axis_stride(a), self.axis_size(a)) for a in axes]
        for device in range(self.num_devices):
            base, index = device, 0
            for stride, size in strides:
                coordinate = device // stride % size
                base -= coordinate * stride
                index = index * size + coordinate
            members.setdefault((base,), []).append((index, device))
        return [[device for _, device in sorted(group)] for group in members.values()]


def local_dim(size: int, parts: int) -> int:
    """Local size of a dimension of global `size` split in `parts`: ceil, padding at the end."""
    return -(-size // parts)


def local_shape(shape: Sequence[int], sharding: Sharding, grid: Grid) -> tuple[int, ...]:
    """Per-device shape of a tensor of global `shape`; scalars and partials keep theirs."""
    return tuple(
        local_dim(size, grid.parts(dim.axes)) if dim.axes else size
        for size, dim in zip(shape, sharding.dims, strict=True)
    )
