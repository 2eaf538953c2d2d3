"""What reshardings cost in seconds, for many pairs of specs at once.

The steps of a resharding do not depend on how large a tensor is, only on which of its dimensions
the axes divide; nor on dimensions that lie the same before and after. So a plan is made once for
each such case, its price is a number of messages and of bytes for each byte of the tensor, and the
prices of two lists of specs are arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.specs import AxisTable, Spec

from .demands import Demands

Floats = NDArray[np.float64]

_SMALL_BYTES = OptimizeCollectivesPass.small_bytes
"""Collectives of arguments and gradients up to this size are made one; each pays its share of the
message by its size."""
_DEARER = 4.0
"""What all_reduces cost where reduce_scatters are preferred."""
_PRIME = 1009
"""A factor of sizes that no grid has."""

_Steps = tuple[tuple[float, float, float], ...]
"""For each collective: seconds of its messages, seconds a byte of the whole tensor, and the bytes
of its full buffer for each byte of the whole tensor."""


class ReshardPrices:
    """Prices of reshardings on one grid."""

    def __init__(self, table: AxisTable, prices: CostModel, demands: Demands) -> None:
        self._table, self._prices, self._demands = table, prices, demands
        self._planner = ReshardPlanner(table)
        self._devices = prod(table.sizes)
        self._steps: dict[tuple[Spec, Spec, tuple[int, ...]], _Steps] = {}
        self._arrays: dict[tuple[object, ...], Floats] = {}

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
        if combined:
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
            rows = [[self._between(one, two, signature) for two in targets] for one in sources]
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
        shape = tuple(size * _PRIME for size in sizes)
        found: list[tuple[float, float, float]] = []
        spec = source
        for step in self._planner.plan(source, target, shape, 1 << 20):
            part = 1 / self._table.parts(spec.dim_axes)
            axes = self._table.axes(step.axes or tuple(target.dim_axes | spec.dim_axes))
            kind = {"window": "permute", "to_partial": "all_slice"}.get(step.kind, step.kind)
            alpha = self._prices.collective_seconds(kind, 0.0, axes)
            beta = self._prices.collective_seconds(kind, part, axes) - alpha
            if kind in self._demands.forbidden:
                alpha = np.inf
            elif kind == "all_reduce" and self._demands.prefer_reduce_scatter:
                alpha, beta = _DEARER * alpha, _DEARER * beta
            full = part * (self._table.parts(step.axes) if kind == "all_gather" else 1)
            found.append((alpha, beta, full))
            spec = step.after
        return tuple(found)
