"""Constant expressions in the graph: each use has instances of their ops, with slots of its own."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import TypeIs
from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.registry import get_rule, op_classes

from .classes import BARRIER_OP
from .graph import CopiedOp, Graph, Instance
from .nodes import NodeTable
from .profiles import NO_PROFILE


class ConstantCopies:
    """Makes the instances of constant expressions."""

    def __init__(self, graph: Graph, table: NodeTable) -> None:
        self._graph = graph
        self._table = table
        self._copied = graph.copied
        self._classes = op_classes()

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

    def use(self, value: OpResult, user: Operation, index: int) -> int:
        """The slot of operand `index` of `user`, a result of a copied op."""
        copied, result = self._copied[id(value.op)], value.index
        instance = self._leaf(copied, value) if copied.is_leaf else self._instantiate(copied, {})
        self._graph.constant_uses.append((user, index, instance, result))
        return instance.slots[result]

    def _leaf(self, copied: CopiedOp, result: OpResult) -> Instance:
        instance = Instance(copied, (), (self._table.slot_like(result),))
        copied.instances.append(instance)
        return instance

    def _instantiate(self, copied: CopiedOp, made: dict[int, Instance]) -> Instance:
        """A copy for one use, which has made these instances so far (by id() of the op)."""
        op = copied.op
        instance = made.get(id(op))
        if instance is None:
            if copied.is_leaf:
                instance = self._leaf(copied, op.results[0])
            else:
                instance = self._instantiate_with_operands(copied, made)
                copied.instances.append(instance)
            made[id(op)] = instance
        return instance

    def _instantiate_with_operands(self, copied: CopiedOp, made: dict[int, Instance]) -> Instance:
        op, table, ranks = copied.op, self._table, self._graph.ranks
        sources: list[Instance | None] = []
        operand_slots: list[int] = []
        for value in operands_of(op):
            slot = self._graph.slot_of.get(id(value))
            source = None
            if slot is None:
                assert isinstance(value, OpResult), "constant expressions have no block arguments"
                source = self._instantiate(self._copied[id(value.op)], made)
                slot = source.slots[value.index]
            sources.append(source)
            operand_slots.append(slot)
        slots = tuple([table.slot_like(result) for result in op.results])
        if any([ranks[slot] for slot in operand_slots]):
            self._add_node(copied, operand_slots, slots)
        return Instance(copied, tuple(sources), slots)

    def _add_node(self, copied: CopiedOp, operand_slots: list[int], slots: Iterable[int]) -> None:
        """The node of an instance, in the place of the op that it is a copy of."""
        op, table, profiles = copied.op, self._table, self._graph.profiles
        rule = get_rule(op)
        if rule is None:
            return
        if op.name == BARRIER_OP:
            profile = profiles.of_barrier(op)
        else:
            profile = profiles.of_rule(rule, self._classes.get(op.name), True)
        if profile == NO_PROFILE:
            return
        node = table.add_node(copied.position, (*operand_slots, *slots), profile)
        for slot in operand_slots:
            table.readers[slot].append(node)
        for slot in slots:
            table.owners[slot] = node
