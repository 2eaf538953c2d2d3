"""A plan written into the program: shardings of values, strategies of ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, i64
from xdsl.ir import Attribute, Operation, SSAValue

from autopar.dialects.autopar import (
    AGAIN,
    SHARDING,
    STRATEGY,
    StrategyAttr,
    aliases,
    set_arg_shardings,
    set_result_shardings,
    set_sharding,
)
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.sharding import Sharding

from .places import MOVES
from .plan_graph import PlanGraph


class Attributes:
    """The attributes of all ops of a module as they are now, to be put back. Ops that come later
    (copies of constants) lie nowhere then."""

    def __init__(self, module: ModuleOp) -> None:
        self._module = module
        self._saved: list[tuple[Operation, dict[str, Attribute], dict[str, Attribute]]] = [
            (op, dict(op.attributes), dict(op.properties)) for op in module.walk()
        ]

    def restore(self) -> None:
        for op, attributes, properties in self._saved:
            op.attributes, op.properties = dict(attributes), dict(properties)
        known = {op for op, _, _ in self._saved}
        for op in self._module.walk():
            if op not in known:
                op.attributes.pop(SHARDING, None)


def write_choices(graph: PlanGraph, chosen: Sequence[int]) -> None:
    """Writes what each node of a graph chose."""
    table, func = graph.table, graph.func

    def sharding(value: SSAValue) -> Sharding | None:
        node = graph.node_of(value)
        return None if node is None else table.sharding(graph.nodes[node].specs[chosen[node]])

    for op in graph.places.ops:
        if op.name not in MOVES and op.name != MANUAL:
            for result in op.results:
                own = sharding(result)
                if own is not None:
                    set_sharding(result, own)
    for op, node in graph.op_nodes:
        factors = graph.nodes[node].strategies[chosen[node]].factors
        op.attributes[STRATEGY] = StrategyAttr(tuple(table.axes(axes) for axes in factors))
    arguments = [
        stated if stated is not None and _has_sub_axes(stated) else sharding(argument)
        for argument, stated in zip(func.body.block.args, graph.stated_arguments, strict=True)
    ]
    set_arg_shardings(func, arguments)
    last = func.body.block.last_op
    assert last is not None
    results = [
        sharding(value) if stated is None else stated
        for value, stated in zip(operands_of(last), graph.stated_results, strict=True)
    ]
    for argument, result in aliases(func):
        if graph.stated_results[result] is None:
            results[result] = arguments[argument]
    set_result_shardings(func, results)


def write_again(apart: Mapping[Operation, Sequence[int]]) -> None:
    """Writes which operands are brought to an op once more."""
    for op, operands in apart.items():
        op.attributes[AGAIN] = DenseArrayBase.from_list(i64, sorted(operands))


def _has_sub_axes(sharding: Sharding) -> bool:
    """Whether a sharding names what plans do not."""
    return not all(axis.is_whole for axis in sharding.used_axes())
