"""Constant expressions in the graph: each use has instances of their ops, with slots of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from typing_extensions import TypeIs
from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.registry import get_rule, op_classes

from .classes import BARRIER_OP, GROUP_OP
from .graph import CopiedOp, Graph, Instance
from .nodes import NodeTable
from .profiles import NO_PROFILE


@dataclass(slots=True)
class _Expression:
    """The copy of a constant expression that one use has."""

    made: dict[int, Instance] = field(default_factory=dict[int, Instance])
    """The instances by id() of the op: what reads an op twice shares its copy."""
    reads: Counter[int] = field(default_factory=Counter[int])
    """How often each slot is read in it."""
    nodes: list[tuple[CopiedOp, list[int], tuple[int, ...]]] = field(
        default_factory=list[tuple[CopiedOp, list[int], tuple[int, ...]]]
    )
    """What gets a node once all reads are known: ops with the slots of operands and results."""


class ConstantCopies:
    """Makes the instances of constant expressions."""

    def __init__(self, graph: Graph, table: NodeTable) -> None:
        self._graph = graph
        self._table = table
        self._copied = graph.copied
        self._classes = op_classes()
        self._grouped: dict[int, bool] = {}

    def add(self, op: Operation, position: int) -> None:
        """From now on each use of `op` has its own copy."""
        slot_of, ranks = self._graph.slot_of, self._graph.ranks
        is_leaf = len(op.results) == 1
        for value in operands_of(op):
            slot = slot_of.get(id(value))
            is_leaf = is_leaf and slot is not None and not ranks[slot]
        self._copied[id(op)] = CopiedOp(op, position, is_leaf)

    def is_copied(self, value: SSAValue) -> TypeIs[OpResult]:
        """Whether the value is computed by an op that each use has a copy of."""
        return type(value) is OpResult and id(value.op) in self._copied

    def is_grouped(self, value: SSAValue) -> bool:
        """Whether a sharding group names the value: its op uses every copy."""
        found = self._grouped.get(id(value))
        if found is None:
            found = any(use.operation.name == GROUP_OP for use in value.uses)
            self._grouped[id(value)] = found
        return found

    def use(self, value: OpResult, user: Operation, index: int) -> int:
        """The slot of operand `index` of `user`, a result of a copied op."""
        copied, result = self._copied[id(value.op)], value.index
        if copied.is_leaf:
            instance = self._leaf(copied, value)
        else:
            expression = _Expression()
            instance = self._instantiate(copied, expression)
            for node in expression.nodes:
                self._add_node(*node, expression.reads)
        self._graph.constant_uses.append((user, index, instance, result))
        return instance.slots[result]

    def _leaf(self, copied: CopiedOp, result: OpResult) -> Instance:
        instance = Instance(copied, (), (self._table.slot_like(result),))
        copied.instances.append(instance)
        return instance

    def _instantiate(self, copied: CopiedOp, expression: _Expression) -> Instance:
        op = copied.op
        instance = expression.made.get(id(op))
        if instance is None:
            if copied.is_leaf:
                instance = self._leaf(copied, op.results[0])
            else:
                instance = self._instantiate_with_operands(copied, expression)
                copied.instances.append(instance)
            expression.made[id(op)] = instance
        return instance

    def _instantiate_with_operands(self, copied: CopiedOp, expression: _Expression) -> Instance:
        op, table, ranks = copied.op, self._table, self._graph.ranks
        sources: list[Instance | None] = []
        operand_slots: list[int] = []
        for value in operands_of(op):
            slot = self._graph.slot_of.get(id(value))
            source = None
            if slot is None:
                assert isinstance(value, OpResult), "constant expressions have no block arguments"
                source = self._instantiate(self._copied[id(value.op)], expression)
                slot = source.slots[value.index]
            sources.append(source)
            operand_slots.append(slot)
        expression.reads.update(operand_slots)
        slots = tuple([table.slot_like(result) for result in op.results])
        if any([ranks[slot] for slot in operand_slots]):
            expression.nodes.append((copied, operand_slots, slots))
        return Instance(copied, tuple(sources), slots)

    def _add_node(
        self,
        copied: CopiedOp,
        operand_slots: list[int],
        slots: Sequence[int],
        reads: Counter[int],
    ) -> None:
        """The node of an instance, in the place of the op that it is a copy of."""
        op, table, profiles = copied.op, self._table, self._graph.profiles
        rule = get_rule(op)
        if rule is None:
            return
        if op.name == BARRIER_OP:
            profile = profiles.of_barrier(op)
        else:
            single_use = all(
                not self._graph.ranks[slot] or (reads[slot] == 1 and not self.is_grouped(value))
                for value, slot in zip(operands_of(op), operand_slots, strict=True)
            )
            profile = profiles.of_rule(rule, self._classes.get(op.name), single_use)
        if profile == NO_PROFILE:
            return
        node = table.add_node(copied.position, (*operand_slots, *slots), profile)
        for slot in operand_slots:
            table.readers[slot].append(node)
        for slot in slots:
            table.owners[slot] = node
