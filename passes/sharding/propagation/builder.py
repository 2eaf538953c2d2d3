"""Building the graph of a module in one walk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.autopar import SHARDING
from autopar.dialects.rules.access import integer, operands_of, type_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.regions import BARRIER, MANUAL, DataFlowEdge, data_flow_edges
from autopar.dialects.rules.registry import get_rule, rule_key
from autopar.passes.walk import ops_in

from .classes import OpKind, OpKinds, Treatment, is_copied
from .copies import ConstantCopies
from .graph import Graph
from .manual import Manual
from .nodes import NodeTable
from .profiles import NO_PROFILE

_NO_SLOT = repeat(-1)
_OP = Treatment.OP


class GraphBuilder:
    """Builds the graph of a module in one walk."""

    def __init__(self, module: ModuleOp) -> None:
        self.graph = Graph(module)
        self._table = NodeTable(self.graph)
        self._copies = ConstantCopies(self.graph, self._table)
        self._expressions: set[int] = set()
        """Values (by id()) that are computed from constants alone."""
        self._kinds = OpKinds()
        self._profiles: dict[tuple[object, ...], tuple[int, int]] = {}
        """For each rule key the profiles of ops whose operands have no other use, and have."""
        self._position = 0
        self._calls: list[tuple[Operation, int]] = []
        self._call_slots: dict[tuple[int, int], int] = {}
        """Slots of the operands of calls and of what functions return, by id() of the op."""
        self._group_ids: dict[int, list[int]] = {}
        self._constant_groups: list[tuple[OpResult, list[int]]] = []
        """Constant expressions in groups: each copy is a member."""

    def build(self) -> Graph:
        graph = self.graph
        for op in graph.module.body.block.ops:
            if isinstance(op, FuncOp) and not op.is_declaration:
                block = op.body.block
                for argument in block.args:
                    self._table.define(argument)
                self._visit_block(block)
                self._add_function(op, block)
        for call, position in self._calls:
            self._add_call(call, position)
        self._table.finish()
        for value, group in self._constant_groups:
            group += [i.slots[value.index] for i in graph.copied[id(value.op)].instances]
        for slots in _merged(self._group_ids.values()):
            for slot in slots:
                graph.groups[slot] = slots
        return graph

    def _add_function(self, func: FuncOp, block: Block) -> None:
        joined: list[tuple[int, int]] = []
        last = block.last_op
        if last is not None:
            for index, value in enumerate(operands_of(last)):
                slot = self._use(value, last, index)
                self._call_slots[id(last), index] = slot
                joined.append((slot, self._table.slot_like(value)))
        self.graph.functions.append((func, joined))

    def _use(self, value: SSAValue, user: Operation, index: int) -> int:
        """The slot of operand `index` of `user`."""
        slot = self.graph.slot_of.get(id(value))
        return self._first_use(value, user, index) if slot is None else slot

    def _first_use(self, value: SSAValue, user: Operation, index: int) -> int:
        """A slot for an operand that has none yet."""
        if self._copies.is_copied(value):
            return self._copies.use(value, user, index)
        return self._table.define(value)  # of a region that is not looked into

    # Ops

    def _visit_block(self, block: Block) -> None:
        kinds, annotated, expressions = self._kinds, self.graph.annotated, self._expressions
        for op in ops_in(block):
            self._position += 1
            kind = kinds[op.__class__]
            if kind.states_sharding or (op.attributes and SHARDING in op.attributes):
                annotated.append(op)
            if kind.may_be_copied and is_copied(op, kind, expressions):
                self._copies.add(op, self._position)
            elif kind.treatment is _OP:
                self._add_op(op, kind)
            elif kind.treatment is Treatment.GROUP:
                self._visit_group(op)
            else:
                self._visit_data_flow(op, kind.name)

    def _add_op(self, op: Operation, kind: OpKind) -> None:
        """Slots for the results of an op, and the node that joins them with the operands."""
        graph, table = self.graph, self._table
        operands, results = operands_of(op), op.results
        if not results and op._next_op is None:  # pyright: ignore[reportPrivateUsage]
            return  # what a terminator hands on is used by the edge, or the function's result
        slots = list(map(graph.slot_of.get, map(id, operands), _NO_SLOT))
        if -1 in slots:
            for index, slot in enumerate(slots):
                if slot < 0:
                    # An operand that stands twice may have got its slot just now.
                    slots[index] = self._use(operands[index], op, index)
        if not results:
            return
        node = -1
        for result in results:
            if result.first_use is not None or kind.is_constraint:
                # What nothing uses propagates nothing.
                profile = self._profile_of(op, kind, operands, slots)
                if profile != NO_PROFILE:
                    node = table.add_node(self._position, slots, profile)
                    table.add_reader(node, operands, slots)
                break
        graph.ops.append(op)
        graph.result_slots.append(len(graph.ranks))
        own = [table.define(result, node) for result in results]
        if node >= 0:
            graph.node_slots[node] = (*slots, *own)

    def _profile_of(
        self, op: Operation, kind: OpKind, operands: Sequence[SSAValue], slots: Sequence[int]
    ) -> int:
        """How an op whose operands have these slots propagates."""
        if kind.is_reshard:
            return NO_PROFILE
        if kind.is_barrier:
            return self.graph.profiles.of_barrier(op)
        if op.properties or op.attributes or op.regions:
            key = rule_key(op)
        else:
            # The same, in short: most ops of a program say nothing but their name.
            types = map(self._table.types.__getitem__, slots)
            key = (kind.name, *types, None, *map(id, map(type_of, op.results)))
        found = self._profiles.get(key)
        if found is None:
            found = self._profiles[key] = self._profiles_of(get_rule(op), kind)
        alone, shared = found
        return alone if alone == shared or self._single_uses(operands) else shared

    def _profiles_of(self, rule: ShardingRule | None, kind: OpKind) -> tuple[int, int]:
        if rule is None or not rule.factor_sizes:
            return NO_PROFILE, NO_PROFILE
        profiles = self.graph.profiles
        alone = profiles.of_rule(rule, kind.op_class, True)
        if not kind.depends_on_uses:
            return alone, alone
        return alone, profiles.of_rule(rule, kind.op_class, False)

    def _single_uses(self, operands: Iterable[SSAValue]) -> bool:
        """Whether every operand that is no scalar has one use.

        A copy of a constant has, unless a sharding group names it.
        """
        slot_of, ranks = self.graph.slot_of, self.graph.ranks
        for value in operands:
            use = value.first_use
            if use is not None and use._next_use is None:  # pyright: ignore[reportPrivateUsage]
                continue
            slot = slot_of.get(id(value))
            if ranks[slot] if slot is not None else self._copies.is_grouped(value):
                return False
        return True

    def _visit_group(self, op: Operation) -> None:
        (value,) = operands_of(op)
        group = self._group_ids.setdefault(integer(op, "group_id"), [])
        if self._copies.is_copied(value):
            self._constant_groups.append((value, group))
        else:
            group.append(self._use(value, op, 0))

    # Regions and calls

    def _visit_data_flow(self, op: Operation, name: str) -> None:
        graph = self.graph
        graph.ops.append(op)
        if name == "func.call":
            for index, value in enumerate(operands_of(op)):
                self._call_slots[id(op), index] = self._use(value, op, index)
            graph.result_slots.append(len(graph.ranks))
            for result in op.results:
                self._table.define(result)
            self._calls.append((op, self._position))
            return
        edges = data_flow_edges(op)
        entries = [edge for edge in edges if edge.is_entry]
        exits = [edge for edge in edges if not edge.is_entry]
        graph.result_slots.append(len(graph.ranks) + len(entries))
        for edge in edges:
            self._table.define_edge(edge.targets)
        self._add_edges(op, entries, is_manual=name == MANUAL)
        if name != BARRIER:
            for region in op.regions:
                for block in region.blocks:
                    self._visit_block(block)
        self._add_edges(op, exits, is_manual=name == MANUAL)

    def _add_edges(self, op: Operation, edges: Iterable[DataFlowEdge], *, is_manual: bool) -> None:
        for index, edge in enumerate(edges):
            self._position += 1
            self._add_edge(edge, Manual(op, index, edge.is_entry) if is_manual else None)

    def _add_edge(self, edge: DataFlowEdge, manual: Manual | None) -> None:
        slot = self.graph.slot_of[id(edge.targets[0])]
        sources = [self._use(user.operands[index], user, index) for user, index in edge.sources]
        if manual is not None:
            self.graph.manual_slots.append((manual, slot))
        if self.graph.ranks[slot]:
            node = self._join(self._position, edge, sources, slot, manual)
            self._table.owners[slot] = node

    def _add_call(self, call: Operation, position: int) -> None:
        """Joins the operands and results of a call with the callee's arguments and results."""
        for edge in data_flow_edges(call):
            sources = [self._call_slots[id(user), index] for user, index in edge.sources]
            slot = self.graph.slot_of[id(edge.targets[0])]
            if self.graph.ranks[slot]:
                node = self._join(position, edge, sources, slot, None)
                self._table.add_reader(node, edge.targets, [slot])

    def _join(
        self,
        position: int,
        edge: DataFlowEdge,
        sources: Sequence[int],
        slot: int,
        manual: Manual | None,
    ) -> int:
        """The node of an edge, which reads its sources."""
        profile = self.graph.profiles.of_edge(len(sources), edge.targets[0], manual)
        node = self._table.add_node(position, (*sources, slot), profile)
        self._table.add_reader(node, edge.source_values, sources)
        return node


def _merged(groups: Iterable[list[int]]) -> list[list[int]]:
    """Groups that share a member, merged."""
    result: list[list[int]] = []
    for group in groups:
        joined = list(dict.fromkeys(group))
        apart: list[list[int]] = []
        for other in result:
            if set(other) & set(joined):
                joined = list(dict.fromkeys(other + joined))
            else:
                apart.append(other)
        result = [*apart, joined]
    return result
