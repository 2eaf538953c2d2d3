"""What reshardings cost in seconds, for many pairs of specs at once.

The steps of a resharding do not depend on how large a tensor is, only on which of its dimensions
the axes divide; nor on dimensions that lie the same before and after. So a plan is made once for
each such case, its price is a number of messages and of bytes for each byte of the tensor, and the
prices of two lists of specs are arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.combining import COMBINABLE
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.specs import AxisTable, Spec

from .demands import Demands

Floats = NDArray[np.float64]

_SMALL_BYTES = OptimizeCollectivesPass.small_bytes
"""Collectives of arguments and gradients up to this size are made one; each pays its share of the
message by its size."""
_COMBINABLE = frozenset(kind.name.removeprefix("shard.") for kind in COMBINABLE)
_DEARER = 4.0
"""What all_reduces cost where reduce_scatters are preferred."""
_PRIME = 1009
"""A factor of sizes that no grid has."""

_Steps = tuple[tuple[float, float, float], ...]
"""For each collective: seconds of its messages, seconds a byte of the whole tensor, and the bytes
of its full buffer for each byte of the whole tensor; infinite where it is never made one with
others."""


_Move = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A collective: its kind, its axes, and the axes that split the tensor before it."""


class ReshardPrices:
    """Prices of reshardings on one grid."""

    def __init__(self, table: AxisTable, prices: CostModel, demands: Demands) -> None:
        self._table, self._prices, self._demands = table, prices, demands
        self._planner = ReshardPlanner(table)
        self._devices = prod(table.sizes)
        self._steps: dict[tuple[Spec, Spec, tuple[int, ...]], _Steps] = {}
        self._pairs: dict[tuple[int, ...], dict[tuple[Spec, Spec], _Steps]] = {}
        self._arrays: dict[tuple[object, ...], Floats] = {}
        self._plans: dict[tuple[Spec, Spec, tuple[int, ...]], list[_Move]] = {}

    def signature(self, shape: Sequence[int]) -> tuple[int, ...]:
        """What the axes of the grid may divide of each dimension; equal ones have equal steps."""
        return tuple(gcd(size, self._devices) for size in shape)

    def seconds(
        self,
        sources: Sequence[Spec],
        targets: Sequence[Spec],
        shape: Sequence[int],
        num_bytes: int,
        *,
        combined: bool = False,
    ) -> Floats:
        """(sources, targets) for a tensor of `shape` and `num_bytes` in all; infinite for what the
        demands forbid.

        `combined`: by collectives that wait for others of their kind, of which small ones are made
        one (`passes/partition/combining.py`).
        """
        messages, per_byte, buffers = self._of(tuple(sources), tuple(targets), shape)
        if combined and num_bytes:
            messages = messages * np.minimum(1.0, buffers * (num_bytes / _SMALL_BYTES))
        return messages.sum(axis=0) + per_byte.sum(axis=0) * num_bytes

    def _of(
        self, sources: tuple[Spec, ...], targets: tuple[Spec, ...], shape: Sequence[int]
    ) -> Floats:
        """(3, steps, sources, targets): the entries of `_Steps`."""
        signature = self.signature(shape)
        key = sources, targets, signature
        found = self._arrays.get(key)
        if found is None:
            pairs = self._pairs.setdefault(signature, {})
            for pair in product(sources, targets):
                if pair not in pairs:
                    pairs[pair] = self._between(*pair, signature)
            rows = [[pairs[one, two] for two in targets] for one in sources]
            most = max((len(steps) for row in rows for steps in row), default=0)
            found = np.zeros((3, most, len(sources), len(targets)))
            for i, row in enumerate(rows):
                for j, steps in enumerate(row):
                    for k, step in enumerate(steps):
                        found[:, k, i, j] = step
            self._arrays[key] = found
        return found

    def _between(self, source: Spec, target: Spec, signature: tuple[int, ...]) -> _Steps:
        if source == target:
            return ()
        changed = [
            d for d, (a, b) in enumerate(zip(source.dims, target.dims, strict=True)) if a != b
        ]
        one = Spec(tuple(source.dims[d] for d in changed), source.partial)
        two = Spec(tuple(target.dims[d] for d in changed), target.partial)
        sizes = tuple(signature[d] for d in changed)
        key = one, two, sizes
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = self._planned(one, two, sizes)
        same = self._table.parts(
            axis for d, axes in enumerate(source.dims) if d not in changed for axis in axes
        )
        return tuple((alpha, beta / same, full / same) for alpha, beta, full in found)

    def _planned(self, source: Spec, target: Spec, sizes: tuple[int, ...]) -> _Steps:
        found: list[tuple[float, float, float]] = []
        for kind, indices, split in self._moves(source, target, sizes):
            part = 1 / self._table.parts(split)
            axes = self._table.axes(indices)
            alpha = self._prices.collective_seconds(kind, 0.0, axes)
            beta = self._prices.collective_seconds(kind, part, axes) - alpha
            if kind in self._demands.forbidden:
                alpha = np.inf
            elif kind == "all_reduce" and self._demands.prefer_reduce_scatter:
                alpha, beta = _DEARER * alpha, _DEARER * beta
            full = part * (self._table.parts(indices) if kind == "all_gather" else 1)
            if kind not in _COMBINABLE:
                full = np.inf
            found.append((alpha, beta, full))
        return tuple(found)

    def _moves(self, source: Spec, target: Spec, sizes: tuple[int, ...]) -> list[_Move]:
        """The steps of a resharding. They are the same in any order of the dimensions, over other
        axes of the same sizes in the same order, and for sizes that these axes divide alike: each
        is planned once."""
        most = self._table.parts(_axes_of(source) | _axes_of(target))
        sizes = tuple(gcd(size, most) for size in sizes)
        order = sorted(range(len(sizes)), key=lambda d: (sizes[d], source.dims[d], target.dims[d]))
        spare = iter(range(len(self._table.sizes)))
        others: dict[int, int] = {}
        for axis in sorted(_axes_of(source) | _axes_of(target)):
            others[axis] = next(o for o in spare if self._table.sizes[o] == self._table.sizes[axis])
        one, two = _renamed(source, order, others), _renamed(target, order, others)
        shape = tuple(_PRIME * sizes[d] for d in order)
        found = self._plans.get((one, two, shape))
        if found is None:
            found = self._plans[one, two, shape] = self._search(one, two, shape)
        axes = {other: axis for axis, other in others.items()}
        return [
            (kind, tuple(axes[i] for i in indices), tuple(axes[i] for i in split))
            for kind, indices, split in found
        ]

    def _search(self, source: Spec, target: Spec, shape: tuple[int, ...]) -> list[_Move]:
        moves: list[_Move] = []
        spec = source
        for step in self._planner.plan(source, target, shape, 1 << 20):
            kind = {"window": "permute", "to_partial": "all_slice"}.get(step.kind, step.kind)
            axes = step.axes or tuple(target.dim_axes | spec.dim_axes)
            moves.append((kind, axes, tuple(spec.dim_axes)))
            spec = step.after
        return moves


def _axes_of(spec: Spec) -> frozenset[int]:
    return spec.dim_axes | spec.partial_axes


def _renamed(spec: Spec, order: Sequence[int], names: Mapping[int, int]) -> Spec:
    """The spec with its dimensions in another order, and other axes."""
    return Spec(
        tuple(tuple(names[axis] for axis in spec.dims[d]) for d in order),
        tuple((kind, tuple(names[axis] for axis in axes)) for kind, axes in spec.partial),
    )
