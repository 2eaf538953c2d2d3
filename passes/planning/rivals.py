"""Plans that the search is held against: one device's, data parallelism and ZeRO, the splits of a
field, all completed by the same search; and the methods completed by propagation.

What collectives that are made one cost hangs on the choices of all, so that the search knows it
only roughly (`ReshardPrices.seconds`). Where messages take much of a step, plans that are all of a
kind may turn out cheaper than it found them: small programs are partitioned both ways. What the
search prices wrongly it also completes wrongly; propagation asks for no prices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import (
    arg_shardings,
    set_arg_shardings,
    set_sharding,
    sharding_of,
)
from autopar.dialects.sharding import Sharding
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.importing.arguments import STATE_KINDS, argument_kinds
from autopar.passes.partition.combining import VIEWS
from autopar.passes.partition.specs import Spec
from autopar.passes.partition.strategy import Strategy
from autopar.passes.sharding.propagation import propagate_shardings

from .coarse import Kept
from .demands import Demands, demanded_shardings
from .places import specs_that_keep
from .plan_graph import Node, PlanGraph
from .writing import Unplanned

Zero = Literal[0, 2, 3]
Method = tuple[Zero, str | None] | None
"""A level of ZeRO, and the axis that state is split over (None: all); or what the program itself
says of where values lie, and no more."""
_NOTHING: Mapping[SSAValue, Sharding] = {}
_LONGEST = 2
"""Dimensions of a field that are split, the longest ones."""
_FEW_AXES = 2
"""Of a field that more can split, only splits over as many as can are tried."""


def rivals_of(graph: PlanGraph, *, many: bool = False) -> Iterator[dict[int, Kept]]:
    """For each rival the nodes that it binds, and which choices these have: first for one that
    binds none, and one that splits nothing. Data parallelism and ZeRO only where it is known what
    is a batch. `many`: also one that splits no dimension over several axes, of which the search has
    fewer choices; ZeRO-3 over one axis of several, as inside a machine, with the batch over all
    axes or over that one alone, so that the others split the work on an example; the batch whole,
    which the search gathers where it is read whole (the partitioner reads the argument); and where
    it is not known what is a batch, the splits of a field."""
    yield {}
    yield {index: _splits_nothing(node) for index, node in enumerate(graph.nodes)}
    if many and _single_axes(graph):
        yield {index: _by_single_axes(node) for index, node in enumerate(graph.nodes)}
    if not is_trained(graph):
        yield from _fields(graph) if many else ()
        return
    grid = graph.table.grid
    for demands in (
        Demands(force_data_parallel=True, zero=0),
        Demands(force_data_parallel=True, zero=2),
        Demands(zero=3),
    ):
        yield _bound_arguments(graph, demanded_shardings(graph.func, grid, demands))
    for axis in _single_axes(graph) if many else ():
        yield _bound_arguments(graph, _laid_out(graph, 3, axis))
        yield _bound_arguments(graph, _laid_out(graph, 3, axis, batch_alone=True))
    if many:
        yield _with_whole_batch(graph)


def hybrids_of(graph: PlanGraph) -> Iterator[dict[int, Kept]]:
    """As `rivals_of`: the batch over one axis of several alone, over which no state is split, so
    that the others split the work on an example, as tensor parallelism does."""
    if not is_trained(graph):
        return
    kinds, arguments = argument_kinds(graph.func), graph.func.body.block.args
    for axis in _single_axes(graph):
        index = graph.table.grid.axis_names.index(axis)
        bound = _bound_arguments(graph, _laid_out(graph, 0, axis, batch_alone=True))
        for kind, argument in zip(kinds, arguments, strict=True):
            node = graph.node_of(argument)
            if node is not None and kind in STATE_KINDS:
                specs = graph.nodes[node].specs
                bound[node] = np.array([index not in spec.dim_axes for spec in specs])
        yield bound


def methods_of(graph: PlanGraph, *, many: bool = False) -> list[Method]:
    """The methods that `propagated_rivals` completes: the program's own words, where it says
    anything; data parallelism; with `many` ZeRO as well, over all axes and over one of several."""
    found: list[Method] = [None] if any(graph.stated.arguments) else []
    if is_trained(graph):
        found.append((0, None))
    if is_trained(graph) and many:
        found.extend([(2, None), (3, None), *((3, axis) for axis in _single_axes(graph))])
    return found


def _single_axes(graph: PlanGraph) -> list[str]:
    """The axes, if there are several."""
    axes = [name for name, size in graph.table.grid.axes if size > 1]
    return axes if len(axes) > 1 else []


def is_trained(graph: PlanGraph) -> bool:
    """Whether it is known what is a batch, and what a parameter: methods say something then."""
    return {"batch", "parameter"} <= set(argument_kinds(graph.func))


def propagated_rivals(graph: PlanGraph, before: Unplanned, method: Method) -> list[dict[int, Kept]]:
    """As those of `rivals_of`: a method with every place as propagation puts it, which does not
    hang on prices; under ZeRO what data parallelism splits stays so, as one has to tell XLA. Under
    ZeRO-3 parameters may be read whole, and what is a transposed one is whole; where scatters, the
    gradients of lookups, are left to the search, a second one has them as their results lie. The
    module stands without a plan before and behind."""
    if method is None:
        return [_bound_as(graph, _propagated(graph, before, [None] * len(graph.stated.arguments)))]
    wanted, held = _laid_out(graph, *method), {}
    if method[0]:
        held = {
            value: sharding
            for value, sharding in _propagated(graph, before, _laid_out(graph, 0)).items()
            if isinstance(value.owner, Operation) and any(graph.table.spec(sharding).dims)
        }
    forms = _forms_of_parameters(graph) if method[0] == 3 else set[SSAValue]()
    for value in forms:
        if isinstance(value.owner, Operation) and value.owner.name == "stablehlo.transpose":
            whole = graph.table.replicated(len(shape_of(value.type)))
            held[value] = graph.table.sharding(whole).closed()
    lies_as = _propagated(graph, before, wanted, held)
    bound = _bound_as(graph, lies_as, forms)
    scatters = _scatters(graph, lies_as, bound) if method[0] == 3 else {}
    return [bound, {**bound, **scatters}] if scatters else [bound]


def _scatters(
    graph: PlanGraph, lies_as: Mapping[SSAValue, Sharding], bound: Mapping[int, Kept]
) -> dict[int, Kept]:
    """Scatters that are not bound, as their results lie, if those are split."""
    found: dict[int, Kept] = {}
    for op, node in graph.op_nodes:
        sharding = lies_as.get(op.results[0])
        if op.name != "stablehlo.scatter" or node in bound or sharding is None:
            continue
        dims = graph.table.spec(sharding).dims
        may = np.array([one.results[0].dims == dims for one in graph.nodes[node].strategies])
        if any(dims) and may.any():
            found[node] = may
    return found


def propagated_arguments(
    graph: PlanGraph, before: Unplanned, layout: Mapping[SSAValue, Spec]
) -> dict[int, Kept]:
    """As `propagated_rivals`, with arguments where they are put."""
    wanted = [
        None if (spec := layout.get(argument)) is None else graph.table.sharding(spec)
        for argument in graph.func.body.block.args
    ]
    return _bound_as(graph, _propagated(graph, before, wanted))


def _propagated(
    graph: PlanGraph,
    before: Unplanned,
    wanted: Sequence[Sharding | None],
    held: Mapping[SSAValue, Sharding] = _NOTHING,
) -> dict[SSAValue, Sharding]:
    """Where propagation puts the values that have a place, from arguments and from what is held."""
    func = graph.func
    before.restore()
    set_arg_shardings(func, _as_may_be(graph, wanted))
    for value, sharding in held.items():
        set_sharding(value, sharding)
    propagate_shardings(before.module)
    lies = [*zip(func.body.block.args, arg_shardings(func), strict=True)]
    lies += [(value, sharding_of(value)) for op in graph.places.ops for value in op.results]
    found: dict[SSAValue, Sharding] = {}
    for value, sharding in lies:
        if graph.node_of(value) is not None:
            whole = graph.table.replicated(len(shape_of(value.type)))
            found[value] = graph.table.sharding(whole) if sharding is None else sharding
    before.restore()  # ops read constants again that the graph knows, not copies of them
    return found


def _as_may_be(graph: PlanGraph, wanted: Sequence[Sharding | None]) -> list[Sharding | None]:
    """Where arguments lie by a method, as far as the program and options leave it to that; else as
    these say, a batch not split further."""
    func, stated = graph.func, graph.stated
    found: list[Sharding | None] = []
    args, kinds = func.body.block.args, argument_kinds(func)
    said = zip(args, kinds, stated.arguments, stated.of_argument, strict=True)
    for (arg, kind, own, other), by_method in zip(said, wanted, strict=True):
        if own is not None or other is None:
            found.append(own if own is not None else by_method)
        elif by_method is not None and _may_lie(graph, arg, by_method):
            found.append(by_method)
        else:
            found.append(other.sharding.closed() if kind == "batch" else other.sharding)
    return found


def _may_lie(graph: PlanGraph, argument: SSAValue, sharding: Sharding) -> bool:
    node = graph.node_of(argument)
    return node is None or bool(_kept(graph, node, sharding).any())


def _kept(graph: PlanGraph, node: int, sharding: Sharding) -> Kept:
    """The choices of a node that a sharding allows."""
    specs = graph.nodes[node].specs
    kept = set(specs_that_keep(specs, sharding, graph.table))
    return np.array([spec in kept for spec in specs])


def _forms_of_parameters(graph: PlanGraph) -> set[SSAValue]:
    """The parameters that have a place, and what only converts, reshapes or transposes them."""
    func = graph.func
    kinds = argument_kinds(func)
    found: set[SSAValue] = {
        arg
        for arg, kind in zip(func.body.block.args, kinds, strict=True)
        if kind == "parameter" and graph.node_of(arg) is not None
    }
    for op in graph.places.ops:
        if op.name in VIEWS and op.operands[0] in found:
            found.update(op.results)
    return found


def _bound_as(
    graph: PlanGraph,
    lies_as: Mapping[SSAValue, Sharding],
    gathered: Container[SSAValue] = (),
) -> dict[int, Kept]:
    """Places where their values were found to be; what several ops read is read there, and ops
    compute as their operands and results lie, where they can."""
    found: dict[int, set[Spec]] = defaultdict(set)
    for value, sharding in lies_as.items():
        place = graph.node_of(value)
        assert place is not None
        found[place].add(graph.table.spec(sharding))

    def lies(value: SSAValue, spec: Spec) -> bool:
        place = graph.node_of(value)
        return place is None or place not in found or spec.with_partial(()) in found[place]

    def gathers(value: SSAValue, spec: Spec) -> bool:
        return value in gathered and not spec.dim_axes

    def computes(op: Operation, strategy: Strategy) -> bool:
        reads = zip(graph.places.inputs(op), strategy.operands, strict=True)
        gives = zip(op.results, strategy.results, strict=True)
        return all(lies(*end) for end in gives) and all(
            lies(*end) or gathers(*end) for end in reads
        )

    kept = {
        node: [spec in specs for spec in graph.nodes[node].specs] for node, specs in found.items()
    }
    for (value, _), node in graph.readers.items():
        specs = graph.nodes[node].specs
        kept.setdefault(node, [lies(value, spec) or gathers(value, spec) for spec in specs])
    for op, node in graph.op_nodes:
        kept[node] = [computes(op, strategy) for strategy in graph.nodes[node].strategies]
    return {node: np.array(may) for node, may in kept.items() if any(may)}


def _laid_out(
    graph: PlanGraph, zero: Zero, axis: str | None = None, *, batch_alone: bool = False
) -> list[Sharding | None]:
    """Where a method puts the arguments: state over `axis` or all, the batch over all axes or, with
    `batch_alone`, over `axis` alone."""
    func, grid = graph.func, graph.table.grid
    over = axis if batch_alone else None
    batch = demanded_shardings(func, grid, Demands(force_data_parallel=True, batch_axis=over))
    state = demanded_shardings(func, grid, Demands(zero=zero, batch_axis=axis))
    return [
        there.closed() if there is not None and kind == "batch" else own
        for kind, there, own in zip(argument_kinds(func), batch, state, strict=True)
    ]


def _bound_arguments(graph: PlanGraph, wanted: Sequence[Sharding | None]) -> dict[int, Kept]:
    bound: dict[int, Kept] = {}
    for argument, sharding in zip(graph.func.body.block.args, wanted, strict=True):
        node = graph.node_of(argument)
        if node is None or sharding is None:
            continue
        may = _kept(graph, node, sharding)
        if may.any():
            bound[node] = may
    return bound


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
    specs = dict.fromkeys(spec for node in nodes for spec in node.specs if spec.dim_axes)
    splits = [s for s in specs if all(d in longest for d, axes in enumerate(s.dims) if axes)]
    most = max((len(split.dim_axes) for split in splits), default=0)
    for split in splits:
        if len(split.dim_axes) == most or most <= _FEW_AXES:
            kept = {node: np.array([s == split for s in graph.nodes[node].specs]) for node in field}
            yield {node: may for node, may in kept.items() if may.any()}


def _with_whole_batch(graph: PlanGraph) -> dict[int, Kept]:
    kinds = argument_kinds(graph.func)
    batch = [arg for arg in graph.func.body.block.args if kinds[arg.index] == "batch"]
    nodes = [node for node in map(graph.node_of, batch) if node is not None]
    return {node: _splits_nothing(graph.nodes[node]) for node in nodes}


def _splits_nothing(node: Node) -> Kept:
    """The choices of a node that split nothing, or all where there are none."""
    return _where(node, lambda axes: not any(axes))


def _by_single_axes(node: Node) -> Kept:
    """The choices of a node that split nothing over several axes, or all where there are none."""
    return _where(node, lambda axes: all(len(own) < 2 for own in axes))


def _where(node: Node, keeps: Callable[[Sequence[tuple[int, ...]]], bool]) -> Kept:
    """The choices of a node by the axes of each dimension, or factor; all where none is kept."""
    may = [keeps(spec.dims) for spec in node.specs] or [
        keeps(strategy.factors) for strategy in node.strategies
    ]
    return np.array(may) if any(may) else np.ones(node.size, np.bool_)
