"""Specs: shardings on a refined grid with axes as integers, the form that partitioning computes on.

A refined grid has every sub-axis that the program uses as an axis of its own, so a spec is just,
for each dimension, a tuple of axis indices (major to minor), and the axes over which the value is
partial. Specs are interned tuples: comparing and hashing them is cheap on 16,000-op programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Partial, Sharding, local_dim

Dims = tuple[tuple[int, ...], ...]

PartialAxes = tuple[tuple[str, tuple[int, ...]], ...]
"""(reduction kind, axes in ascending order), at most one entry a kind."""


class Spec(NamedTuple):
    """Where a tensor lies: the axes of each dimension, and what it is partial over."""

    dims: Dims
    partial: PartialAxes = ()

    @property
    def partial_axes(self) -> frozenset[int]:
        """Every axis over which the tensor is partial, of all kinds."""
        return axes_of_partial(self.partial)

    @property
    def dim_axes(self) -> frozenset[int]:
        """Every axis that splits a dimension."""
        return frozenset(axis for dim in self.dims for axis in dim)

    def with_partial(self, partial: PartialAxes) -> Spec:
        """The same place, partial over something else."""
        return Spec(self.dims, partial)


def axes_of_partial(partial: PartialAxes) -> frozenset[int]:
    """The axes of all kinds together."""
    return frozenset(axis for _, axes in partial for axis in axes)


def merge_partial(*partials: Iterable[tuple[str, Iterable[int]]]) -> PartialAxes:
    """One entry a kind, axes ascending, kinds in alphabetical order."""
    kinds: dict[str, set[int]] = {}
    for partial in partials:
        for kind, axes in partial:
            kinds.setdefault(kind, set()).update(axes)
    return tuple((kind, tuple(sorted(axes))) for kind, axes in sorted(kinds.items()) if axes)


def without_axes(spec: Spec, axes: frozenset[int]) -> Spec:
    """The spec as seen where `axes` are manual: tensors there are local to them."""
    return Spec(
        tuple(tuple(a for a in dim if a not in axes) for dim in spec.dims),
        merge_partial((kind, [a for a in over if a not in axes]) for kind, over in spec.partial),
    )


class AxisTable:
    """Translates between `Sharding`s on a user's grid and specs on its refinement.

    `used` are the axes that the program names, sub-axes among them; each user axis is split at all
    their borders, so that whole axes and sub-axes alike are tuples of refined axes.
    """

    def __init__(self, grid: Grid, used: Iterable[AxisRef]) -> None:
        self.grid = grid
        cuts: dict[str, set[int]] = {name: {1, size} for name, size in grid.axes}
        for axis in used:
            if axis.size:
                cuts[axis.name].update((axis.pre, axis.pre * axis.size))
        refined: list[tuple[str, int]] = []
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}
        """For each user axis: (pre, size, refined axis index) of its pieces."""
        self.refs: list[AxisRef] = []
        """For each refined axis what it is of the user's grid."""
        for name, size in grid.axes:
            bounds = sorted(cuts[name])
            pieces = self._pieces[name] = []
            spans = list(pairwise(bounds)) or [(1, size)]
            for low, high in spans:
                if high % low:
                    raise ValueError(
                        f'axis "{name}" of grid @{grid.name} is cut into sub-axes that do not '
                        f"nest: products {low} and {high}"
                    )
                ref = AxisRef(name) if len(spans) == 1 else AxisRef(name, low, high // low)
                pieces.append((low, high // low, len(refined)))
                self.refs.append(ref)
                refined.append((ref.spelled, high // low))
        self.refined = Grid(grid.name, tuple(refined), grid.device_ids)
        self.sizes = self.refined.shape
        self._from_sharding: dict[Sharding, Spec] = {}
        self._to_sharding: dict[Spec, Sharding] = {}
        self._identity = all(ref.is_whole for ref in self.refs)

    def indices(self, axes: Iterable[AxisRef]) -> tuple[int, ...]:
        """The refined axes that make up `axes`, major to minor; up to the first sub-axis that the
        cuts do not tell apart."""
        result: list[int] = []
        for axis in axes:
            low = axis.pre if axis.size else 1
            high = low * axis.size if axis.size else self.grid.sizes[axis.name]
            pieces = [p for p in self._pieces[axis.name] if p[0] >= low and p[0] * p[1] <= high]
            if axis.size and (prod(size for _, size, _ in pieces) != axis.size):
                break
            result.extend(index for _, size, index in pieces if size > 1)
        return tuple(result)

    def spec(self, sharding: Sharding) -> Spec:
        """Where a sharding on the user's grid puts a tensor."""
        spec = self._from_sharding.get(sharding)
        if spec is None:
            spec = Spec(
                tuple(self.indices(dim.axes) for dim in sharding.dims),
                merge_partial((p.kind, self.indices(p.axes)) for p in sharding.partial),
            )
            self._from_sharding[sharding] = spec
        return spec

    def sharding(self, spec: Spec) -> Sharding:
        """The sharding on the refined grid's own axis names."""
        sharding = self._to_sharding.get(spec)
        if sharding is None:
            names = self.refined.axis_names
            sharding = Sharding(
                self.grid.name,
                tuple(DimSharding(tuple(AxisRef(names[i]) for i in dim)) for dim in spec.dims),
                partial=tuple(
                    Partial(kind, tuple(AxisRef(names[i]) for i in axes))
                    for kind, axes in spec.partial
                ),
            )
            self._to_sharding[spec] = sharding
        return sharding

    def axes(self, indices: Iterable[int]) -> tuple[AxisRef, ...]:
        """The refined axes by name."""
        names = self.refined.axis_names
        return tuple(AxisRef(names[i]) for i in indices)

    def parts(self, axes: Iterable[int]) -> int:
        """Into how many parts the (refined) axes split."""
        return prod(self.sizes[axis] for axis in axes)

    def local_shape(self, shape: Sequence[int], spec: Spec) -> tuple[int, ...]:
        """The shape on one device, rounded up: the last devices may hold padding."""
        return tuple(
            local_dim(size, self.parts(axes)) if axes else size
            for size, axes in zip(shape, spec.dims, strict=True)
        )

    def is_divisible(self, size: int, axes: tuple[int, ...]) -> bool:
        """Whether a dimension of `size` split over `axes` needs no padding."""
        return size % self.parts(axes) == 0

    def replicated(self, rank: int) -> Spec:
        """A tensor of `rank` dimensions that every device holds whole."""
        return Spec(((),) * rank)
