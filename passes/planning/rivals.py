"""Plans that the search is held against: one device's, data parallelism and ZeRO, the splits of a
field; all completed by the same search.

What collectives that are made one cost hangs on the choices of all, so that the search knows it
only roughly (`ReshardPrices.seconds`). Where messages take much of a step, plans that are all of a
kind may turn out cheaper than it found them: small programs are partitioned both ways.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.importing.arguments import argument_kinds

from .coarse import Kept
from .demands import Demands, demanded_shardings
from .places import specs_that_keep
from .plan_graph import Node, PlanGraph

_RIVALS = (
    Demands(force_data_parallel=True, zero=0),
    Demands(force_data_parallel=True, zero=2),
    Demands(zero=3),
)


_FEW = 1000
"""Ops up to which every split of a field is tried."""
_LONGEST = 2
"""Dimensions of a field that are split, the longest ones."""


def rivals_of(graph: PlanGraph) -> Iterator[dict[int, Kept]]:
    """For each rival the nodes that it binds, and which choices these have: first for one that
    binds none, and one that splits nothing; data parallelism and ZeRO only where it is known what
    is a batch, the splits of a field only where it is not."""
    yield {}
    yield {index: _splits_nothing(node) for index, node in enumerate(graph.nodes)}
    kinds = argument_kinds(graph.func)
    if "batch" not in kinds or "parameter" not in kinds:
        if len(graph.places.ops) <= _FEW:
            yield from _fields(graph)
        return
    for demands in _RIVALS:
        bound: dict[int, Kept] = {}
        wanted = demanded_shardings(graph.func, graph.table.grid, demands)
        for argument, sharding in zip(graph.func.body.block.args, wanted, strict=True):
            node = graph.node_of(argument)
            if node is None or sharding is None:
                continue
            specs = graph.nodes[node].specs
            kept = set(specs_that_keep(specs, sharding, graph.table))
            may = np.array([spec in kept for spec in specs])
            if may.any():
                bound[node] = may
        yield bound


def _fields(graph: PlanGraph) -> Iterator[dict[int, Kept]]:
    """All that has the shape of the largest argument, as the field of a stencil has: each way to
    split it along its longest dimensions, everywhere alike."""
    arguments = [arg for arg in graph.func.body.block.args if graph.node_of(arg) is not None]
    if not arguments:
        return
    shape = shape_of(max(arguments, key=lambda arg: num_bytes(arg.type)).type)
    longest = sorted(range(len(shape)), key=lambda dim: -shape[dim])[:_LONGEST]
    field = [node for value, node in graph.place_of.items() if shape_of(value.type) == shape]
    field += [node for (value, _), node in graph.readers.items() if shape_of(value.type) == shape]
    nodes = [graph.nodes[node] for node in dict.fromkeys(field)]
    splits = dict.fromkeys(spec for node in nodes for spec in node.specs if spec.dim_axes)
    for split in splits:
        if all(dim in longest for dim, axes in enumerate(split.dims) if axes):
            kept = {node: np.array([s == split for s in graph.nodes[node].specs]) for node in field}
            yield {node: may for node, may in kept.items() if may.any()}


def _splits_nothing(node: Node) -> Kept:
    """The choices of a node that split nothing, or all where there are none."""
    may = [not spec.dim_axes for spec in node.specs] or [
        not any(strategy.factors) for strategy in node.strategies
    ]
    return np.array(may) if any(may) else np.ones(node.size, np.bool_)
