"""Where gradients become new state: what `prefer-reduce-scatter` is about.

The place of an update is where elementwise ops join what a step adds to a parameter, or to a piece
of optimizer state, with the old value, and where the new one comes of. A gradient that is summed
there over devices can be scattered instead: each device updates its part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import prod

import numpy as np
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.importing.arguments import STATE_KINDS, argument_kinds
from autopar.passes.importing.state import next_values_by_flow
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.specs import Spec

from .places import Places
from .reshard_prices import Floats

_DEARER = 4.0
"""What an all_reduce costs where a reduce_scatter is preferred: more than the reduce_scatter, the
all_gather of the new value, and a wider type of it come to."""
_CARRIERS = frozenset(
    f"stablehlo.{name}"
    for name in ("concatenate", "dynamic_update_slice", "pad", "reshape", "slice", "transpose")
)
"""What gradients go through to their updates: other shapes, parts of stacked parameters."""


def update_places(
    func: FuncOp,
    places: Places,
    node_of: Callable[[SSAValue], int | None],
    may_be_split: Callable[[SSAValue], bool],
) -> set[int]:
    """The nodes where gradients are added to state that may lie split, and of the gradients in
    other shapes before that."""
    last = func.body.block.last_op
    assert last is not None
    kinds, results = argument_kinds(func), operands_of(last)
    joined: dict[SSAValue, set[int | None]] = defaultdict(set)
    for argument, value, _ in places.reads:
        joined[argument].add(node_of(value))
    found: set[int] = set()
    for index, result in next_values_by_flow(func).items():
        argument, node = func.body.block.args[index], node_of(results[result])
        is_update = kinds[index] in STATE_KINDS and node in joined[argument]
        if node is not None and is_update and may_be_split(argument):
            found.add(node)
    return _with_carried(found, places, node_of)


def _with_carried(
    found: set[int], places: Places, node_of: Callable[[SSAValue], int | None]
) -> set[int]:
    carried: dict[int, set[int]] = defaultdict(set)
    for op in places.others:
        if op.name in _CARRIERS or _adds_ones(op):
            target = node_of(op.results[0])
            ends = {node_of(value) for value in operands_of(op)} - {None}
            if target is not None:
                carried[target] |= {end for end in ends if end is not None}
    open_ends = list(found)
    while open_ends:
        more = carried[open_ends.pop()] - found
        found |= more
        open_ends += more
    return found


def _adds_ones(op: Operation) -> bool:
    """Whether an op gives what it reads in more dimensions, as scans store rows."""
    if op.name != "stablehlo.broadcast_in_dim":
        return False
    return prod(shape_of(op.operands[0].type)) == prod(shape_of(op.results[0].type))


def scatter_preference(
    value: SSAValue, sources: Sequence[Spec], targets: Sequence[Spec]
) -> Floats | float:
    """(sources, targets): by what to multiply the seconds of bringing partial sums of a value to a
    place of `targets`, so that what could be scattered there is not summed everywhere. Small sums
    share one all_reduce, scattered they would wait for a gather each: they keep their price.

    What cannot be scattered keeps its price, and so does every plan without such a sum: the plan
    chosen never takes longer than the cheapest one of all with its gradients scattered.
    """
    if num_bytes(value.type) <= OptimizeCollectivesPass.small_bytes:
        return 1.0
    factors = np.ones((len(sources), len(targets)))
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            summed = source.partial_axes - target.dim_axes
            if summed and _can_scatter(target, summed, targets):
                factors[i, j] = _DEARER
    return factors


def _can_scatter(target: Spec, axes: frozenset[int], others: Iterable[Spec]) -> bool:
    """Whether one of the others is the target, split over the axes as well."""
    return any(
        axes <= other.dim_axes
        and all(
            have[: len(want)] == want for have, want in zip(other.dims, target.dims, strict=True)
        )
        for other in others
    )
