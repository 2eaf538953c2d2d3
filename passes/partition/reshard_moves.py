"""The collectives that a resharding may take.

    all_slice       adds axes at the minor end of a dimension              no bytes
    all_gather      removes axes at the minor end of a dimension
    all_to_all      moves axes from the minor end of one dimension to that of another
    permute         any layout with the same number of parts a dimension: blocks change devices
    reduce_scatter  partial axes to the minor end of a dimension
    all_reduce      partial axes away
    to_partial      a replicated axis becomes a partial one (kept on index 0, neutral elsewhere)
    window          along one dimension, any layout to any other (shifted blocks); for padded
                    dimensions, whose layouts over (a, b) and over a do not nest

Dimensions that the axes do not divide: local size is ceil(global / parts), padding at the end, so
6 over 4 is 2,2,2,0 and over 2 is 3,3: an axis may be gathered or sliced only where blocks nest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import Literal, NamedTuple

from autopar.dialects.sharding import local_dim
from autopar.passes.cost.collectives import (
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
    permute_bytes,
    reduce_scatter_bytes,
)

from .specs import AxisTable, Dims, Spec, merge_partial

StepKind = Literal[
    "all_slice",
    "all_gather",
    "all_to_all",
    "permute",
    "reduce_scatter",
    "all_reduce",
    "to_partial",
    "window",
]


class Step(NamedTuple):
    """One collective of a resharding plan; `after` is the layout that it leaves."""

    kind: StepKind
    axes: tuple[int, ...]
    after: Spec
    dim: int = -1
    """The dimension sliced, gathered, scattered or windowed; the source of an all_to_all."""
    target_dim: int = -1
    """Where an all_to_all puts the axes."""
    reduction: str = "sum"
    num_bytes: float = 0.0


def nests(size: int, major_parts: int, minor_parts: int) -> bool:
    """Whether blocks of `size` over (major, minor) are sub-blocks of those over major alone."""
    if major_parts == 1:
        return True
    return minor_parts * local_dim(size, major_parts * minor_parts) == local_dim(size, major_parts)


class MovesKey(NamedTuple):
    """What the moves of a resharding depend on: all of its source but where that begins."""

    target: Spec
    shape: tuple[int, ...]
    item_bytes: int
    changed: tuple[int, ...]
    """Axes may rest for a while on a dimension that is the same at both ends (all_to_all there and
    back), which never pays; only dimensions that change take part."""
    dim_axes: frozenset[int]
    """That split a dimension at either end."""

    @staticmethod
    def of(source: Spec, target: Spec, shape: tuple[int, ...], item_bytes: int) -> MovesKey:
        ends = enumerate(zip(source.dims, target.dims, strict=True))
        changed = tuple(dim for dim, (a, b) in ends if a != b)
        return MovesKey(target, shape, item_bytes, changed, source.dim_axes | target.dim_axes)


class Moves:
    """The moves of one resharding problem."""

    def __init__(self, table: AxisTable, key: MovesKey) -> None:
        self._table = table
        self.target, self._shape, item_bytes, self._dims, dim_axes = key
        self.num_axes = len(table.sizes)
        self._parts: dict[tuple[int, ...], int] = {}
        self._same_bytes = item_bytes * prod(
            local_dim(size, table.parts(axes))
            for dim, (size, axes) in enumerate(zip(self._shape, self.target.dims, strict=True))
            if dim not in self._dims
        )
        parts = table.parts(dim_axes)
        is_even = all(self._shape[dim] % parts == 0 for dim in self._dims)
        self._least = self._local_bytes(self.target.dims) if is_even else 0.0

    def least_bytes(self, state: Spec) -> float:
        """Below what it takes to get from here to the target: nothing but gathers makes more of a
        tensor local, and these send what they add (padding aside)."""
        return max(0.0, self._least - self._local_bytes(state.dims)) if self._least else 0.0

    def _count(self, axes: tuple[int, ...]) -> int:
        found = self._parts.get(axes)
        if found is None:
            found = self._parts[axes] = self._table.parts(axes)
        return found

    def _local_bytes(self, dims: Dims) -> float:
        num = self._same_bytes
        for dim in self._dims:
            num *= local_dim(self._shape[dim], self._count(dims[dim]))
        return float(num)

    def steps(self, state: Spec) -> Iterator[Step]:
        if state.partial != self.target.partial:
            yield from self._partial_steps(state)
        for dim in self._dims:
            axes = state.dims[dim]
            if axes == self.target.dims[dim]:
                continue
            for keep in range(len(axes)):
                yield from self._removing(state, dim, axes[:keep], axes[keep:])
            yield from self._slices(state, dim, axes)
        yield from self._permutes(state)
        yield from self._windows(state)

    def _used(self, state: Spec) -> set[int]:
        return {a for dim in state.dims for a in dim} | {
            a for _, axes in state.partial for a in axes
        }

    def _nests(self, dim: int, major: tuple[int, ...], minor: tuple[int, ...]) -> bool:
        return nests(self._shape[dim], self._count(major), self._count(minor))

    def _with(self, state: Spec, *changes: tuple[int, tuple[int, ...]]) -> Spec:
        dims = list(state.dims)
        for dim, axes in changes:
            dims[dim] = axes
        return Spec(tuple(dims), state.partial)

    def _removing(
        self, state: Spec, dim: int, keep: tuple[int, ...], move: tuple[int, ...]
    ) -> Iterator[Step]:
        """all_gather of the minor axes `move` of `dim`, or all_to_all of them elsewhere."""
        if not self._nests(dim, keep, move):
            return
        group = self._count(move)
        local = self._local_bytes(state.dims)
        yield Step(
            "all_gather",
            move,
            self._with(state, (dim, keep)),
            dim,
            num_bytes=all_gather_bytes(local, group),
        )
        for other in self._dims:
            into = state.dims[other]
            if other == dim or not self._nests(other, into, move):
                continue
            yield Step(
                "all_to_all",
                move,
                self._with(state, (dim, keep), (other, into + move)),
                dim,
                other,
                num_bytes=all_to_all_bytes(local, group),
            )

    def _slices(self, state: Spec, dim: int, axes: tuple[int, ...]) -> Iterator[Step]:
        """all_slice along the axes that the target has on this dimension next."""
        target = self.target.dims[dim]
        used = self._used(state)
        if target[: len(axes)] == axes:
            rest = target[len(axes) :]
            for take in range(1, len(rest) + 1):
                new = rest[:take]
                if not used.intersection(new) and self._nests(dim, axes, new):
                    yield Step("all_slice", new, self._with(state, (dim, axes + new)), dim)
        # An axis that another dimension will hold may be put here first and moved by a permute.
        for other in self._dims:
            for axis in self.target.dims[other]:
                if axis not in used and self._nests(dim, axes, (axis,)):
                    yield Step("all_slice", (axis,), self._with(state, (dim, (*axes, axis))), dim)

    def _permutes(self, state: Spec) -> Iterator[Step]:
        """Blocks of equal shape on other devices: straight to the target, or an order of axes."""
        if (
            all(
                self._count(a) == self._count(b)
                for a, b in zip(state.dims, self.target.dims, strict=True)
            )
            and not (self._used(state) - state.dim_axes) & self.target.dim_axes
        ):
            if state.dims != self.target.dims:
                yield self._permute(state, Spec(self.target.dims, state.partial))
            return
        for dim in self._dims:
            axes = state.dims[dim]
            if 1 < len(axes) <= 3 and axes != self.target.dims[dim]:
                for order in permutations(axes):
                    if order != axes:
                        yield self._permute(state, self._with(state, (dim, order)))

    def _permute(self, state: Spec, after: Spec) -> Step:
        moved = self._places(state.dims) ^ self._places(after.dims)
        axes = tuple(sorted({axis for axis, _, _ in moved}))
        return Step("permute", axes, after, num_bytes=permute_bytes(self._local_bytes(state.dims)))

    def _places(self, dims: Dims) -> set[tuple[int, int, int]]:
        """(axis, dimension, blocks that it strides over) of each axis."""
        return {
            (axis, dim, self._count(dims[dim][at + 1 :]))
            for dim in self._dims
            for at, axis in enumerate(dims[dim])
        }

    def _windows(self, state: Spec) -> Iterator[Step]:
        """One dimension straight to its target layout where padded blocks do not nest."""
        for dim in self._dims:
            axes, target = state.dims[dim], self.target.dims[dim]
            size = self._shape[dim]
            if axes == target or not axes or not target:
                continue
            elsewhere = self._used(state) - set(axes)
            if elsewhere.intersection(target):
                continue
            if size % self._count(axes) == 0 and size % self._count(target) == 0:
                continue
            after = self._with(state, (dim, target))
            yield Step("window", target, after, dim, num_bytes=2 * self._local_bytes(after.dims))

    def _partial_steps(self, state: Spec) -> Iterator[Step]:
        wanted = dict(self.target.partial)
        have = dict(state.partial)
        local = self._local_bytes(state.dims)
        for kind, axes in state.partial:
            surplus = tuple(a for a in axes if a not in wanted.get(kind, ()))
            if not surplus:
                continue
            left = merge_partial(
                [(k, a) for k, a in state.partial if k != kind],
                [(kind, [a for a in axes if a not in surplus])],
            )
            group = self._table.parts(surplus)
            yield Step(
                "all_reduce",
                surplus,
                Spec(state.dims, left),
                reduction=kind,
                num_bytes=all_reduce_bytes(local, group),
            )
            for dim in self._dims:
                current, target = state.dims[dim], self.target.dims[dim]
                if target[: len(current)] != current:
                    continue
                rest = target[len(current) :]
                for take in range(1, len(rest) + 1):
                    new = rest[:take]
                    if set(new) <= set(surplus) and self._nests(dim, current, new):
                        dims = list(state.dims)
                        dims[dim] = current + new
                        remaining = merge_partial(
                            [(k, a) for k, a in state.partial if k != kind],
                            [(kind, [a for a in axes if a not in new])],
                        )
                        yield Step(
                            "reduce_scatter",
                            new,
                            Spec(tuple(dims), remaining),
                            dim,
                            reduction=kind,
                            num_bytes=reduce_scatter_bytes(local, self._table.parts(new)),
                        )
        used = self._used(state)
        for kind, axes in self.target.partial:
            missing = tuple(a for a in axes if a not in have.get(kind, ()))
            if missing and not used.intersection(missing):
                yield Step(
                    "to_partial",
                    missing,
                    Spec(state.dims, merge_partial(state.partial, [(kind, missing)])),
                    reduction=kind,
                )
