"""Plans that the search is held against: one device's, data parallelism and ZeRO, completed by the
same search; and data parallelism completed by propagation.

What collectives that are made one cost hangs on the choices of all, so that the search knows it
only roughly (`ReshardPrices.seconds`). Where messages take much of a step, plans that are all of a
kind may turn out cheaper than it found them: small programs are partitioned both ways. What the
search prices wrongly it also completes wrongly; propagation asks for no prices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.autopar import arg_shardings, set_arg_shardings, sharding_of
from autopar.dialects.tensors import shape_of
from autopar.passes.importing.arguments import argument_kinds
from autopar.passes.partition.specs import Spec
from autopar.passes.sharding.propagation import propagate_shardings

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
    kinds = argument_kinds(graph.func)
    if "batch" not in kinds or "parameter" not in kinds:
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


def propagated_rival(graph: PlanGraph, module: ModuleOp) -> dict[int, Kept]:
    """As those of `rivals_of`: data parallelism with every place as propagation puts it, which does
    not hang on prices. Writes its shardings into the module, which is to have no plan."""
    func, bound = graph.func, dict[int, Kept]()
    kinds = argument_kinds(func)
    if "batch" not in kinds or "parameter" not in kinds:
        return bound
    wanted = demanded_shardings(func, graph.table.grid, _RIVALS[0])
    stated = arg_shardings(func)
    set_arg_shardings(func, [own or other for own, other in zip(stated, wanted, strict=True)])
    propagate_shardings(module)
    found: dict[int, set[Spec]] = defaultdict(set)
    lies = [*zip(func.body.block.args, arg_shardings(func), strict=True)]
    lies += [(value, sharding_of(value)) for op in graph.places.ops for value in op.results]
    for value, sharding in lies:
        node = graph.node_of(value)
        if node is not None:
            whole = graph.table.replicated(len(shape_of(value.type)))
            found[node].add(whole if sharding is None else graph.table.spec(sharding))
    for node, specs in found.items():
        may = np.array([spec in specs for spec in graph.nodes[node].specs])
        if may.any():
            bound[node] = may
    return bound


def _splits_nothing(node: Node) -> Kept:
    """The choices of a node that split nothing, or all where there are none."""
    may = [not spec.dim_axes for spec in node.specs] or [
        not any(strategy.factors) for strategy in node.strategies
    ]
    return np.array(may) if any(may) else np.ones(node.size, np.bool_)
