"""What reshardings cost in seconds, for many pairs of specs at once.

The steps of a resharding do not depend on how large a tensor is, only on which of its dimensions
the axes divide; nor on dimensions that lie the same before and after. So a plan is made once for
each such case, its price is a number of messages and of bytes for each byte of the tensor, and the
prices of two lists of specs are arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from enum import IntEnum
from itertools import product
from math import gcd, lcm, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autopar.passes.cost.merging import MESSAGE_BYTES
from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.combining import COMBINABLE
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.specs import AxisTable, PartialAxes, Spec

from .demands import Demands

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LARGEST = OptimizeCollectivesPass.small_bytes
"""Collectives of arguments and gradients up to this size are made one."""


class Meets(IntEnum):
    """What a collective that waits is taken to meet of its kind and axes, as others choose: small
    ones so many bytes, which are fewer than a group may have. Where it is taken for more, plans
    come to be of many kinds, each with a message of its own; but in plans that are all of one kind
    it does meet many, and in those of several kinds it may be alone."""

    ALONE = 1
    FEW = 2 * _LARGEST
    MANY = OptimizeCollectivesPass.group_bytes


_COMBINABLE = frozenset(kind.name.removeprefix("shard.") for kind in COMBINABLE)
_PRIME = 1009
"""A factor of sizes that no grid has."""
_ITEM_BYTES = 1 << 30
"""Of an element: bytes count for more than the starts of collectives."""

_Steps = tuple[tuple[float, float, float, float], ...]
"""For each collective: seconds of its messages, seconds a byte of the whole tensor, and the bytes
of its full buffer for each byte of the whole tensor: once as what autopar makes one with others if
it is small, once as what XLA does whatever its size (an all_reduce); infinite where it is not."""
_Ends = tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]
"""The axes of each dimension before and after, and what axes may divide of it; in order."""


_Move = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A collective: its kind, its axes, and the axes that split the tensor before it."""


class _Plan(NamedTuple):
    """The steps of a resharding."""

    moves: tuple[_Move, ...]
    parts: tuple[int, ...]
    """Of each dimension: what its size has to be divided by in every layout on the way."""


class _Matrix(NamedTuple):
    """Steps of many pairs, of which most have the same as others."""

    which: Ints
    """(sources, targets): the row of the pair's steps."""
    steps: Floats
    """(4, rows, steps): the entries of `_Steps`."""


class ReshardPrices:
    """Prices of reshardings on one grid."""

    def __init__(
        self, table: AxisTable, prices: CostModel, demands: Demands, meets: Meets = Meets.FEW
    ) -> None:
        self._table, self._prices, self._demands, self._meets = table, prices, demands, meets
        self._planner = ReshardPlanner(table)
        self._devices = prod(table.sizes)
        self._numbers: dict[_Steps, int] = {(): 0}
        self._steps: dict[tuple[_Ends, PartialAxes, PartialAxes, int], int] = {}
        self._pairs: dict[tuple[int, ...], dict[tuple[Spec, Spec], int]] = {}
        self._matrices: dict[tuple[object, ...], _Matrix] = {}
        self._plans: dict[tuple[Spec, Spec, tuple[int, ...]], _Plan] = {}
        self._priced: dict[tuple[_Move, ...], _Steps] = {}
        self._waiting = self._reduced = 0

    def where_met(self, meets: Meets) -> ReshardPrices:
        """The same where collectives meet others so, of which none are noted yet: what reshardings
        move is found once for both."""
        found = copy(self)
        found._meets = meets
        found._waiting = found._reduced = 0
        return found

    def reduce(self, num_bytes: int) -> None:
        """Notes a sum whose all_reduce waits for others."""
        self._reduced += num_bytes

    def wait(self, num_bytes: int) -> None:
        """Notes a value whose collectives wait for others of their kind, if they are small."""
        if num_bytes <= _LARGEST:
            self._waiting += num_bytes

    def is_same(self, meets: Meets) -> bool:
        """Whether nothing is priced otherwise where collectives meet others so."""
        return self._shared(meets) == self._shared(self._meets)

    def _shared(self, meets: Meets) -> tuple[int, int]:
        """The bytes of small collectives, and of all_reduces, that share a message if they wait."""
        reduced = 0 if meets is Meets.ALONE else min(MESSAGE_BYTES, self._reduced)
        return min(meets, self._waiting), reduced

    def share(self, num_bytes: int) -> float:
        """Of a message, for the sum of a value that waits."""
        return min(1.0, num_bytes / max(1, self._waiting))

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
        one (`passes/partition/combining.py`). Which ones these are hangs on the choices of all: a
        small one is taken to meet the others that wait, up to some bytes, and pays its share of the
        message by its size. So does an all_reduce of any size (`passes/cost/merging.py`).
        """
        which, steps = self._of(tuple(sources), tuple(targets), shape)
        messages, per_byte, buffers, reduced = steps
        if combined and num_bytes:
            messages = messages * self._shares(buffers * num_bytes, reduced * num_bytes, num_bytes)
        return (messages.sum(axis=1) + per_byte.sum(axis=1) * num_bytes)[which]

    def _shares(self, sizes: Floats, reduced: Floats, num_bytes: int) -> Floats:
        """Of messages that wait for others, with buffers and all_reduces of so many bytes: of what
        they meet, which is taken to be split as they are, but of no more than a message has."""
        small = np.maximum(sizes / self._meets, num_bytes / max(num_bytes, self._waiting))
        if self._meets is not Meets.ALONE:
            every = num_bytes / max(num_bytes, self._reduced)
            merged = np.maximum(reduced / MESSAGE_BYTES, every)
        else:
            merged = np.ones_like(small)
        return np.minimum(1.0, np.where(sizes <= _LARGEST, np.minimum(small, merged), merged))

    def _of(
        self, sources: tuple[Spec, ...], targets: tuple[Spec, ...], shape: Sequence[int]
    ) -> _Matrix:
        signature = self.signature(shape)
        key = sources, targets, signature
        found = self._matrices.get(key)
        if found is None:
            pairs = self._pairs.setdefault(signature, {})
            # those of one target one after the other: their searches share moves
            for target, source in product(targets, sources):
                if (source, target) not in pairs:
                    pairs[source, target] = self._between(source, target, signature)
            numbers = [[pairs[one, two] for two in targets] for one in sources]
            found = self._matrices[key] = self._matrix(
                np.array(numbers, np.int64).reshape(len(sources), len(targets))
            )
        return found

    def _matrix(self, numbers: Ints) -> _Matrix:
        used, which = np.unique(numbers, return_inverse=True)
        every = [*self._numbers]
        numbers_used: list[int] = used.tolist()
        rows = [every[number] for number in numbers_used]
        steps = np.zeros((4, len(rows), max(map(len, rows), default=0)))
        for i, row in enumerate(rows):
            for k, step in enumerate(row):
                steps[:, i, k] = step
        return _Matrix(which.reshape(numbers.shape), steps)

    def _between(self, source: Spec, target: Spec, signature: tuple[int, ...]) -> int:
        """The number of the steps between two specs."""
        if source == target:
            return 0
        every = tuple(zip(source.dims, target.dims, signature, strict=True))
        ends = tuple(sorted(end for end in every if end[0] != end[1]))
        same = self._table.parts(axis for a, b, _ in every if a == b for axis in a)
        key = ends, source.partial, target.partial, same
        found = self._steps.get(key)
        if found is None:
            steps = tuple(
                (alpha, beta / same, full / same, reduced / same)
                for alpha, beta, full, reduced in self._planned(*key[:3])
            )
            found = self._steps[key] = self._numbers.setdefault(steps, len(self._numbers))
        return found

    def _planned(self, ends: _Ends, before: PartialAxes, after: PartialAxes) -> _Steps:
        one = Spec(tuple(axes for axes, _, _ in ends), before)
        two = Spec(tuple(axes for _, axes, _ in ends), after)
        moves = self._moves(one, two, tuple(size for _, _, size in ends))
        found = self._priced.get(moves)
        if found is None:
            found = self._priced[moves] = tuple(self._price(*move) for move in moves)
        return found

    def _price(
        self, kind: str, indices: tuple[int, ...], split: tuple[int, ...]
    ) -> tuple[float, float, float, float]:
        part = 1 / self._table.parts(split)
        axes = self._table.axes(indices)
        alpha = self._prices.collective_seconds(kind, 0.0, axes)
        beta = self._prices.collective_seconds(kind, part, axes) - alpha
        if kind in self._demands.forbidden:
            alpha = np.inf
        full = part * (self._table.parts(indices) if kind == "all_gather" else 1)
        small = full if kind in _COMBINABLE else np.inf
        return alpha, beta, small, full if kind == "all_reduce" else np.inf

    def _moves(self, source: Spec, target: Spec, sizes: tuple[int, ...]) -> tuple[_Move, ...]:
        """The steps of a resharding. They are the same in any order of the dimensions, and over
        other axes of the same sizes in the same order: each is planned once."""
        used = sorted(_axes_of(source) | _axes_of(target))
        spare = iter(range(len(self._table.sizes)))
        others: dict[int, int] = {}
        for axis in used:
            others[axis] = next(o for o in spare if self._table.sizes[o] == self._table.sizes[axis])
        plan = self._plan(_renamed(source, others), _renamed(target, others), sizes)
        axes = {other: axis for axis, other in others.items()}
        return tuple(
            (kind, tuple(axes[i] for i in indices), tuple(axes[i] for i in split))
            for kind, indices, split in plan.moves
        )

    def _plan(self, source: Spec, target: Spec, sizes: tuple[int, ...]) -> _Plan:
        """As for dimensions that all axes divide, but for those that the way there would split
        where they do not divide."""
        most = self._table.parts(_axes_of(source) | _axes_of(target))
        shape = [most] * len(sizes)
        while True:
            plan = self._search(source, target, tuple(shape))
            uneven = [d for d, parts in enumerate(plan.parts) if sizes[d] % parts]
            if all(shape[d] != most for d in uneven):
                return plan
            for d in uneven:
                shape[d] = _PRIME * gcd(sizes[d], most)

    def _search(self, source: Spec, target: Spec, shape: tuple[int, ...]) -> _Plan:
        key = source, target, shape
        found = self._plans.get(key)
        if found is None:
            moves: list[_Move] = []
            spec = source
            parts = [self._table.parts(axes) for axes in spec.dims]
            for step in self._planner.plan(source, target, shape, _ITEM_BYTES):
                kind = {"window": "permute", "to_partial": "all_slice"}.get(step.kind, step.kind)
                moves.append((kind, step.axes, tuple(spec.dim_axes)))
                spec = step.after
                parts = [
                    lcm(n, self._table.parts(axes))
                    for n, axes in zip(parts, spec.dims, strict=True)
                ]
            found = self._plans[key] = _Plan(tuple(moves), tuple(parts))
        return found


def _axes_of(spec: Spec) -> frozenset[int]:
    return spec.dim_axes | spec.partial_axes


def _renamed(spec: Spec, names: Mapping[int, int]) -> Spec:
    """The spec over other axes."""
    return Spec(
        tuple(tuple(names[axis] for axis in axes) for axes in spec.dims),
        tuple((kind, tuple(names[axis] for axis in axes)) for kind, axes in spec.partial),
    )
