"""The cheapest sequence of collectives from one spec to another.

A* over layouts of one tensor (Hart, Nilsson, Raphael 1968): a state is (axes of each dimension,
partial axes); an edge is one collective and costs the ring bytes that a device sends
(passes/cost/collectives.py), plus a small cost a step so that fewer collectives win ties. Where the
order of two collectives changes nothing, the one that leaves less for the outer axes of the grid
wins: these cross the slower links.

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

import heapq
from collections.abc import Iterator, Sequence
from itertools import count, permutations
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

STEP_COST = 64.0
"""Bytes' worth of starting a collective: only breaks ties between sequences of equal traffic."""
SLICE_COST = 1.0
_OUTER_COST = 1e-3
"""The share by which bytes cost more over an axis than over the next inner one: breaks ties."""


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


class ReshardPlanner:
    """Plans reshardings on one refined grid; plans are cached by (specs, shape, item size)."""

    def __init__(self, table: AxisTable) -> None:
        self._table = table
        self._cache: dict[tuple[Spec, Spec, tuple[int, ...], int], tuple[Step, ...]] = {}
        inner = len(table.sizes) - 1
        self._weights = [1.0 + _OUTER_COST * (inner - axis) for axis in range(len(table.sizes))]
        """Of bytes that are sent over some axes, by the innermost: one collective over several
        axes sends most of them there."""

    def plan(
        self, source: Spec, target: Spec, shape: Sequence[int], item_bytes: int
    ) -> tuple[Step, ...]:
        """The cheapest steps from `source` to `target` for a tensor of global `shape`."""
        if source == target:
            return ()
        key = (source, target, tuple(shape), item_bytes)
        steps = self._cache.get(key)
        if steps is None:
            steps = self._cache[key] = self._search(*key)
        return steps

    def cost(self, source: Spec, target: Spec, shape: Sequence[int], item_bytes: int) -> float:
        """Ring bytes a device sends for the resharding, plus the tie-breaking step costs."""
        return sum(
            step.num_bytes + (SLICE_COST if step.kind in ("all_slice", "to_partial") else STEP_COST)
            for step in self.plan(source, target, shape, item_bytes)
        )

    def _search(
        self, source: Spec, target: Spec, shape: tuple[int, ...], item_bytes: int
    ) -> tuple[Step, ...]:
        search = _Search(self._table, source, target, shape, item_bytes)
        weights = self._weights
        tie = count()
        frontier: list[tuple[float, int, Spec]] = [(0.0, next(tie), source)]
        best: dict[Spec, float] = {source: 0.0}
        came_from: dict[Spec, tuple[Spec, Step]] = {}
        done: set[Spec] = set()
        while frontier:
            _, _, state = heapq.heappop(frontier)
            if state in done:
                continue
            if state == target:
                break
            done.add(state)
            cost = best[state]
            for step in search.steps(state):
                after = step.after
                if after in done:
                    continue
                overhead = SLICE_COST if step.kind in ("all_slice", "to_partial") else STEP_COST
                inner = max(step.axes) if step.axes else -1
                new_cost = cost + step.num_bytes * weights[inner] + overhead
                if new_cost < best.get(after, float("inf")):
                    best[after] = new_cost
                    came_from[after] = (state, step)
                    left = search.least_bytes(after)
                    heapq.heappush(frontier, (new_cost + left, next(tie), after))
        else:
            raise AssertionError(f"no resharding from {source} to {target} of {shape}")
        path: list[Step] = []
        state = target
        while state != source:
            state, step = came_from[state]
            path.append(step)
        return tuple(reversed(path))


class _Search:
    """The moves of one resharding problem."""

    def __init__(
        self, table: AxisTable, source: Spec, target: Spec, shape: tuple[int, ...], item_bytes: int
    ) -> None:
        self._table = table
        self._target = target
        self._shape = shape
        changed = [
            dim for dim, (a, b) in enumerate(zip(source.dims, target.dims, strict=True)) if a != b
        ]
        # Axes may rest for a while on a dimension that is the same at both ends (all_to_all there
        # and back), which never pays; only dimensions that change take part.
        self._dims = changed
        self._parts: dict[tuple[int, ...], int] = {}
        self._same_bytes = item_bytes * prod(
            local_dim(size, table.parts(axes))
            for dim, (size, axes) in enumerate(zip(shape, source.dims, strict=True))
            if dim not in changed
        )
        parts = table.parts(source.dim_axes | target.dim_axes)
        is_even = all(shape[dim] % parts == 0 for dim in changed)
        self._least = self._local_bytes(target.dims) if is_even else 0.0

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
        if state.partial != self._target.partial:
            yield from self._partial_steps(state)
        for dim in self._dims:
            axes = state.dims[dim]
            if axes == self._target.dims[dim]:
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
        target = self._target.dims[dim]
        used = self._used(state)
        if target[: len(axes)] == axes:
            rest = target[len(axes) :]
            for take in range(1, len(rest) + 1):
                new = rest[:take]
                if not used.intersection(new) and self._nests(dim, axes, new):
                    yield Step("all_slice", new, self._with(state, (dim, axes + new)), dim)
        # An axis that another dimension will hold may be put here first and moved by a permute.
        for other in self._dims:
            for axis in self._target.dims[other]:
                if axis not in used and self._nests(dim, axes, (axis,)):
                    yield Step("all_slice", (axis,), self._with(state, (dim, (*axes, axis))), dim)

    def _permutes(self, state: Spec) -> Iterator[Step]:
        """Blocks of equal shape on other devices: straight to the target, or an order of axes."""
        if (
            all(
                self._count(a) == self._count(b)
                for a, b in zip(state.dims, self._target.dims, strict=True)
            )
            and not (self._used(state) - state.dim_axes) & self._target.dim_axes
        ):
            if state.dims != self._target.dims:
                yield Step(
                    "permute",
                    (),
                    Spec(self._target.dims, state.partial),
                    num_bytes=permute_bytes(self._local_bytes(state.dims)),
                )
            return
        for dim in self._dims:
            axes = state.dims[dim]
            if 1 < len(axes) <= 3 and axes != self._target.dims[dim]:
                for order in permutations(axes):
                    if order != axes:
                        yield Step(
                            "permute",
                            (),
                            self._with(state, (dim, order)),
                            num_bytes=permute_bytes(self._local_bytes(state.dims)),
                        )

    def _windows(self, state: Spec) -> Iterator[Step]:
        """One dimension straight to its target layout where padded blocks do not nest."""
        for dim in self._dims:
            axes, target = state.dims[dim], self._target.dims[dim]
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
        wanted = dict(self._target.partial)
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
                current, target = state.dims[dim], self._target.dims[dim]
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
        for kind, axes in self._target.partial:
            missing = tuple(a for a in axes if a not in have.get(kind, ()))
            if missing and not used.intersection(missing):
                yield Step(
                    "to_partial",
                    missing,
                    Spec(state.dims, merge_partial(state.partial, [(kind, missing)])),
                    reduction=kind,
                )
