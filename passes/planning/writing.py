"""A plan written into the program: shardings of values, strategies of ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, i64
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import (
    AGAIN,
    STRATEGY,
    StrategyAttr,
    aliases,
    forbid_collectives,
    set_arg_shardings,
    set_result_shardings,
    set_sharding,
)
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.sharding import Sharding
from autopar.passes.partition.strategy import Strategy
from autopar.passes.walk import inner_ops

from .plan_graph import PlanGraph


class Unplanned:
    """A module as it is now, to be brought back to that. A plan gives its ops attributes, and some
    readers of constants copies of their own."""

    def __init__(self, module: ModuleOp) -> None:
        self.module = module
        self._saved = {
            op: (operands_of(op), dict(op.attributes), dict(op.properties))
            for op in (module, *inner_ops(module))
        }
        self.standing: object = None
        """The plan that stands in the module, noted by who writes it."""

    def restore(self) -> None:
        self.standing = None
        for op, (operands, attributes, properties) in self._saved.items():
            op.attributes, op.properties = dict(attributes), dict(properties)
            if operands_of(op) != operands:
                op.operands = operands
        for op in reversed([op for op in inner_ops(self.module) if op not in self._saved]):
            Rewriter.erase_op(op)


def write_choices(graph: PlanGraph, chosen: Sequence[int]) -> None:
    """Writes what each node of a graph chose."""
    table, func = graph.table, graph.func
    forbid_collectives(func, graph.forbidden)

    def sharding(value: SSAValue) -> Sharding | None:
        node = graph.node_of(value)
        return None if node is None else table.sharding(graph.nodes[node].specs[chosen[node]])

    for op in graph.places.ops:
        if op.name != MANUAL:
            for result in op.results:
                own, stated = sharding(result), graph.stated.of_values.get(result)
                if own is not None and (stated is None or not _is_more(stated)):
                    set_sharding(result, own)
    for op, strategy in _strategies(graph, chosen):
        for cut, spec in zip(graph.places.joined.get(op, ()), strategy.operands, strict=False):
            for view in cut.views:  # as the op needs it
                set_sharding(view.results[0], table.sharding(spec))
                axes = tuple(table.axes(axes) for axes in spec.dims)
                view.attributes[STRATEGY] = StrategyAttr(axes)
        factors = strategy.factors
        op.attributes[STRATEGY] = StrategyAttr(tuple(table.axes(axes) for axes in factors))
    arguments = [
        stated if stated is not None and _is_more(stated) else sharding(argument)
        for argument, stated in zip(func.body.block.args, graph.stated.arguments, strict=True)
    ]
    set_arg_shardings(func, arguments)
    last = func.body.block.last_op
    assert last is not None
    results = list(map(sharding, operands_of(last)))
    for argument, result in aliases(func):
        results[result] = arguments[argument]
    for result, node in graph.returned.items():
        results[result] = table.sharding(graph.nodes[node].specs[chosen[node]])
    for result, stated in enumerate(graph.stated.results):
        if stated is not None and (results[result] is None or _is_more(stated)):
            results[result] = stated
    set_result_shardings(func, results)


def _strategies(graph: PlanGraph, chosen: Sequence[int]) -> Iterator[tuple[Operation, Strategy]]:
    """How ops are split under a choice of each node: those that have one, and those of one
    operand around which anything moves. Where nothing moves, an op is split as its operand and
    its result lie; and one that may be handed a partial sum, which is reduced where that costs
    least (`passes/partition/partials.py`), as it comes."""
    nodes, throughs = dict(graph.op_nodes), {through.op: through for through in graph.throughs}
    partial: set[SSAValue] = set()
    for op in graph.places.ops:
        through = throughs.get(op)
        if op in nodes and not graph.passes_sum(op, chosen):
            strategy = graph.nodes[nodes[op]].strategies[chosen[nodes[op]]]
            yield op, strategy
        elif through is not None and through.operand not in partial:
            read, given = chosen[through.source], chosen[through.target]
            best = int(through.best[read, given])
            strategy = through.strategies[best]
            lie = (
                graph.nodes[through.source].specs[read],
                graph.nodes[through.target].specs[given],
            )
            is_moved = (through.needs[best], through.gives[best]) != lie
            if is_moved or through.fetched[best] or op in graph.places.joined:
                yield op, strategy
        else:
            partial.update(op.results if not partial.isdisjoint(op.operands) else ())
            continue
        results = zip(op.results, strategy.results, strict=True)
        partial.update(result for result, spec in results if spec.partial)


def write_again(apart: Mapping[Operation, Sequence[int]]) -> None:
    """Writes which operands are brought to an op once more."""
    for op, operands in apart.items():
        op.attributes[AGAIN] = DenseArrayBase.from_list(i64, sorted(operands))


def _is_more(sharding: Sharding) -> bool:
    """Whether a sharding says what plans do not: sub-axes, or a sum that is to stay partial."""
    return bool(sharding.partial) or not all(axis.is_whole for axis in sharding.used_axes())
