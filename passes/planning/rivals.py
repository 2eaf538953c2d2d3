"""Plans that the search is held against: one device's, data parallelism and ZeRO, completed by the
same search, and by propagation.

What collectives that are made one cost hangs on the choices of all, so that the search knows it
only roughly (`ReshardPrices.seconds`). Where messages take much of a step, plans that are all of a
kind may turn out cheaper than it found them: small programs are partitioned both ways.
Propagation decides without prices, and so what the search prices wrongly does not mislead it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import sharding_of
from autopar.dialects.diagnostics import collect_remarks
from autopar.dialects.sharding import Sharding
from autopar.passes.importing.annotate_method import AnnotateMethodPass
from autopar.passes.importing.arguments import argument_kinds, main_function
from autopar.passes.importing.methods import MethodName
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import PROPAGATE

from .coarse import Kept
from .demands import Demands, demanded_shardings
from .places import specs_that_keep
from .plan_graph import Node, PlanGraph

_RIVALS = (
    Demands(force_data_parallel=True, zero=0),
    Demands(force_data_parallel=True, zero=2),
    Demands(zero=3),
)


def rivals_of(graph: PlanGraph) -> Iterator[dict[int, Kept]]:
    """For each rival the nodes that it binds, and which choices these have: first for one that
    binds none, and one that splits nothing; the others only where it is known what is a batch."""
    yield {}
    yield {index: _splits_nothing(node) for index, node in enumerate(graph.nodes)}
    if not is_trained(graph):
        return
    grid = graph.table.grid
    for demands in _RIVALS:
        yield _bound_arguments(graph, demanded_shardings(graph.func, grid, demands))


def hybrids_of(graph: PlanGraph) -> Iterator[dict[int, Kept]]:
    """The same for ZeRO-3 over one axis of several, the batch over all: inside a machine, say."""
    grid = graph.table.grid
    axes = [name for name, size in grid.axes if size > 1]
    if len(axes) < 2 or not is_trained(graph):
        return
    everywhere = demanded_shardings(graph.func, grid, Demands(force_data_parallel=True))
    kinds = argument_kinds(graph.func)
    for axis in axes:
        state = demanded_shardings(graph.func, grid, Demands(zero=3, batch_axis=axis))
        wanted = [
            there if kind == "batch" else own
            for kind, there, own in zip(kinds, everywhere, state, strict=True)
        ]
        yield _bound_arguments(graph, wanted)


def _bound_arguments(graph: PlanGraph, wanted: Sequence[Sharding | None]) -> dict[int, Kept]:
    bound: dict[int, Kept] = {}
    for argument, sharding in zip(graph.func.body.block.args, wanted, strict=True):
        node = graph.node_of(argument)
        if node is None or sharding is None:
            continue
        specs = graph.nodes[node].specs
        kept = set(specs_that_keep(specs, sharding, graph.table))
        may = np.array([spec in kept for spec in specs])
        if may.any():
            bound[node] = may
    return bound


def is_trained(graph: PlanGraph) -> bool:
    """Whether it is known what is a batch, and what a parameter: methods say something then."""
    return {"batch", "parameter"} <= set(argument_kinds(graph.func))


@dataclass(frozen=True)
class Propagated:
    """A copy of a program, laid out by a method and by propagation."""

    module: ModuleOp
    bound: Mapping[int, Kept]
    """For each node of the plan's graph the choices that lie so."""


def propagated(
    module: ModuleOp, context: Context, graph: PlanGraph, method: MethodName
) -> Propagated:
    """What a method makes of the program that `graph` was read from; `module` holds no plan."""
    copy = module.clone()
    pairs = list(zip(graph.func.walk(), main_function(copy).walk(), strict=True))
    with collect_remarks():  # of a plan that is only compared
        run_passes(copy, [AnnotateMethodPass(method), *PROPAGATE], context)
    bound: dict[int, Kept] = {}
    for op, twin in pairs:
        values = zip(_values_of(op), _values_of(twin), strict=True)
        for value, theirs in values if twin.parent is not None else ():
            node, sharding = graph.node_of(value), sharding_of(theirs)
            if node is None or sharding is None:
                continue
            specs = graph.nodes[node].specs
            kept = set(specs_that_keep(specs, sharding, graph.table))
            may = np.array([spec in kept for spec in specs])
            if may.any():
                bound[node] = bound[node] & may if node in bound else may
    return Propagated(copy, {node: may for node, may in bound.items() if may.any()})


def _values_of(op: Operation) -> Sequence[SSAValue]:
    return op.body.block.args if isinstance(op, FuncOp) else op.results


def _splits_nothing(node: Node) -> Kept:
    """The choices of a node that split nothing, or all where there are none."""
    may = [not spec.dim_axes for spec in node.specs] or [
        not any(strategy.factors) for strategy in node.strategies
    ]
    return np.array(may) if any(may) else np.ones(node.size, np.bool_)
