"""The program as propagation sees it: slots that hold a sharding, nodes that spread shardings.

A slot is what one sharding belongs to: an SSA value, all targets of a data-flow edge, a function's
result, or one use of a constant expression. Constants (and scalars that are broadcast) are cheap,
so each use decides for itself, as if every user had its own copy; `write_back` makes the copies
that turn out different. Nodes and slots are small integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.autopar import SHARDING
from autopar.dialects.rules.access import integer, operands_of, type_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.regions import (
    BARRIER,
    MANUAL,
    NAMED,
    REGION_OPS,
    DataFlowEdge,
    data_flow_edges,
)
from autopar.dialects.rules.registry import OpClass, get_rule, op_classes

from .classes import BARRIER_OP, CONSTRAINTS, RESHARDS, ConstantFinder, rank_of
from .factors import Direction, Step
from .levels import LEVELS, identity_rule, level_directions
from .manual import Manual

GROUP_OP = "sdy.sharding_group"
_SPECIAL = (
    REGION_OPS
    | CONSTRAINTS
    | RESHARDS
    | {MANUAL, NAMED, BARRIER, "func.call", GROUP_OP, BARRIER_OP}
)
_BY_USES = frozenset({"elementwise", "pass_through", "forward"})
"""Kinds of ops whose first level depends on how often their operands are used."""


@dataclass(eq=False, slots=True)
class Variant:
    """How a node propagates at one level."""

    step: Step
    manual: Manual | None = None


@dataclass(eq=False, slots=True)
class Instance:
    """One use's own copy of an op of a constant expression."""

    op: Operation
    operands: tuple[Instance | None, ...]
    """The instances that the operands come from; None where the operand is a plain value."""
    slots: tuple[int, ...]


@dataclass(eq=False)
class Graph:
    """Slots and nodes of a module."""

    module: ModuleOp
    ranks: list[int] = field(default_factory=list[int])
    """For each slot the rank of its tensor."""
    node_slots: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    """For each node the slots of its operands, then of its results."""
    node_variants: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    """For each node and level the index of a variant; -1: nothing to do."""
    variants: list[Variant] = field(default_factory=list[Variant])
    slot_of: dict[int, int] = field(default_factory=dict[int, int])
    """Slots of SSA values by id(); constant expressions are not in here."""
    functions: list[tuple[FuncOp, list[tuple[int, int]]]] = field(
        default_factory=list[tuple[FuncOp, list[tuple[int, int]]]]
    )
    """Functions with (slot of the returned value, slot of the result) of each result."""
    result_variants: dict[int, int] = field(default_factory=dict[int, int])
    """For each rank the variant that joins a returned value and the function's result."""
    ops: list[Operation] = field(default_factory=list[Operation])
    """All ops whose results carry shardings, in program order."""
    annotated: list[Operation] = field(default_factory=list[Operation])
    """Those of them that the user annotated."""
    instances: dict[int, list[Instance]] = field(default_factory=dict[int, list[Instance]])
    """Instances of each op of constant expressions, by id() of the op."""
    use_instances: list[tuple[Operation, int, Instance, int]] = field(
        default_factory=list[tuple[Operation, int, Instance, int]]
    )
    """Uses of constant expressions: user, operand index, instance, result index."""
    manual_slots: list[tuple[Manual, int]] = field(default_factory=list[tuple[Manual, int]])
    groups: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """For each slot in a sharding group all slots of the group."""
    notify: list[list[int]] = field(default_factory=list[list[int]])
    """For each slot the nodes to visit when it changes, the last one to visit first."""
    edge_slots: set[int] = field(default_factory=set[int])


class GraphBuilder:
    """Builds the graph of a module in one walk."""

    def __init__(self, module: ModuleOp) -> None:
        self.graph = Graph(module)
        self._position = 0
        self._positions: list[int] = []
        """For each node its place in the program; nodes are numbered as made until the end."""
        self._users: dict[int, list[int]] = {}
        """Nodes that read an SSA value, in program order, by id() of the value."""
        self._slot_users: dict[int, list[int]] = {}
        self._owner: dict[int, int] = {}
        self._edge_targets: dict[int, tuple[SSAValue, ...]] = {}
        self._rank_of_type: dict[int, int] = {}
        self._constants = ConstantFinder()
        self._classes = op_classes()
        self._scalars: dict[int, Instance] = {}
        """Instances of scalar constant expressions, by id() of the op: one serves all uses."""
        self._copied: dict[int, int] = {}
        """Ops (by id()) that each use has a copy of, with their position."""
        self._calls: list[tuple[Operation, int]] = []
        self._call_slots: dict[tuple[int, int], int] = {}
        """Slots of the operands of calls and of what functions return, by id() of the op."""
        self._variant_sets: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._group_ids: dict[int, list[int]] = {}
        self._grouped: dict[int, bool] = {}
        """Whether a sharding group names a constant expression, by id() of the value."""
        self._constant_groups: list[tuple[OpResult, list[int]]] = []
        """Constant expressions in groups: each copy is a member."""

    def build(self) -> Graph:
        graph = self.graph
        for op in graph.module.body.block.ops:
            if isinstance(op, FuncOp) and not op.is_declaration:
                block = op.body.block
                for argument in block.args:
                    self._define(argument)
                self._visit_block(block)
                self._add_function(op, block)
        for call, position in self._calls:
            self._add_call(call, position)
        self._fill_notify(self._order_nodes())
        for value, group in self._constant_groups:
            group += [i.slots[value.index] for i in graph.instances.get(id(value.op), ())]
        for slots in _merged(self._group_ids.values()):
            for slot in slots:
                graph.groups[slot] = slots
        return graph

    def _add_function(self, func: FuncOp, block: Block) -> None:
        joined: list[tuple[int, int]] = []
        last = block.last_op
        if last is not None:
            for index, value in enumerate(last.operands):
                slot = self._use(value, last, index)
                self._call_slots[id(last), index] = slot
                rank = self.graph.ranks[slot]
                joined.append((slot, self._new_slot(rank)))
                if rank not in self.graph.result_variants:
                    self.graph.result_variants[rank] = self._variant(
                        Step(identity_rule(rank, 1), (Direction.BOTH,) * rank, False)
                    )
        self.graph.functions.append((func, joined))

    # Slots

    def _new_slot(self, rank: int) -> int:
        self.graph.ranks.append(rank)
        return len(self.graph.ranks) - 1

    def _define(self, value: SSAValue) -> int:
        slot = self._new_slot(rank_of(value))
        self.graph.slot_of[id(value)] = slot
        return slot

    def _use(self, value: SSAValue, user: Operation, index: int) -> int:
        """The slot of operand `index` of `user`."""
        slot = self.graph.slot_of.get(id(value))
        if slot is not None:
            return slot
        owner = value.owner
        if not isinstance(owner, Operation) or id(owner) not in self._copied:
            return self._define(value)  # of a region that is not looked into
        instance = self._instantiate(owner, {})
        result = owner.results.index(value)
        self.graph.use_instances.append((user, index, instance, result))
        return instance.slots[result]

    def _instantiate(self, op: Operation, made: dict[int, Instance]) -> Instance:
        """A copy of the constant expression `op` for one use."""
        known = made.get(id(op)) or self._scalars.get(id(op))
        if known is not None:
            return known
        operands: list[Instance | None] = []
        operand_slots: list[int] = []
        for value in op.operands:
            slot = self.graph.slot_of.get(id(value))
            if slot is None:
                owner = value.owner
                assert isinstance(owner, Operation), "constant expressions have no block arguments"
                source = self._instantiate(owner, made)
                operands.append(source)
                operand_slots.append(source.slots[owner.results.index(value)])
            else:
                operands.append(None)
                operand_slots.append(slot)
        slots = tuple([self._new_slot(rank_of(result)) for result in op.results])
        ranks = self.graph.ranks
        made[id(op)] = instance = Instance(op, tuple(operands), slots)
        self.graph.instances.setdefault(id(op), []).append(instance)
        if not any([ranks[slot] for slot in slots]):
            self._scalars[id(op)] = instance
        rule = get_rule(op) if any([ranks[slot] for slot in operand_slots]) else None
        if rule is not None:
            if op.name == BARRIER_OP:
                variants = self._barrier_variants(op, slots[0])
            else:
                variants = self._variants_of(rule, self._classes.get(op.name), True)
            node = self._add_node(self._copied[id(op)], (*operand_slots, *slots), variants)
            for slot in operand_slots:
                self._slot_users.setdefault(slot, []).append(node)
            for slot in slots:
                self._owner[slot] = node
        return instance

    # Nodes

    def _variant(self, step: Step, manual: Manual | None = None) -> int:
        self.graph.variants.append(Variant(step, manual))
        return len(self.graph.variants) - 1

    def _variants_of(
        self, rule: ShardingRule, kind: OpClass | None, single_use: bool
    ) -> tuple[int, ...]:
        key = (id(rule), kind, single_use)
        found = self._variant_sets.get(key)
        if found is None:
            directions = [
                level_directions(rule, kind, single_use, level) for level in range(LEVELS)
            ]
            made: dict[tuple[Direction, ...], int] = {}
            indices: list[int] = []
            for dirs in directions:
                if not any(dirs):
                    indices.append(-1)
                    continue
                if dirs not in made:
                    made[dirs] = self._variant(Step(rule, dirs, kind == "elementwise"))
                indices.append(made[dirs])
            found = self._variant_sets[key] = tuple(indices)
        return found

    def _add_node(self, position: int, slots: tuple[int, ...], variants: tuple[int, ...]) -> int:
        self._positions.append(position)
        self.graph.node_slots.append(slots)
        self.graph.node_variants.append(variants)
        return len(self._positions) - 1

    def _visit_block(self, block: Block) -> None:
        graph = self.graph
        slot_of, users, owner_of = graph.slot_of, self._users, self._owner
        is_copied, annotated = self._constants.is_copied, graph.annotated
        ranks, rank_of_type = graph.ranks, self._rank_of_type
        following = block.first_op
        while following is not None:
            op = following
            following = op.next_op
            self._position += 1
            name = op.name
            if op.attributes and SHARDING in op.attributes:
                annotated.append(op)
            if is_copied(op, name):
                self._copied[id(op)] = self._position
                graph.ops.append(op)
                continue
            if name in _SPECIAL:
                if name == GROUP_OP:
                    self._visit_group(op)
                    continue
                if name in CONSTRAINTS or name in RESHARDS:
                    if not op.attributes or SHARDING not in op.attributes:
                        annotated.append(op)
                elif name != BARRIER_OP:
                    self._visit_data_flow(op, name)
                    continue
            operands = operands_of(op)
            slots = [slot_of.get(value, -1) for value in map(id, operands)]
            if -1 in slots:
                for index, slot in enumerate(slots):
                    if slot < 0:
                        slots[index] = self._use(operands[index], op, index)
            results = op.results
            if not results:
                continue
            graph.ops.append(op)
            count = len(slots)
            is_dead = name not in CONSTRAINTS
            for result in results:
                slot_of[id(result)] = slot = len(ranks)
                rank = rank_of_type.get(id(type_of(result)))
                if rank is None:
                    rank = rank_of_type[id(type_of(result))] = rank_of(result)
                ranks.append(rank)
                slots.append(slot)
                is_dead = is_dead and result.first_use is None
            if is_dead or name in RESHARDS:
                continue
            if name == BARRIER_OP:
                variants = self._barrier_variants(op, slots[0])
            else:
                rule = get_rule(op)
                if rule is None or not rule.factor_sizes:
                    continue
                kind = self._classes.get(name)
                single_use = kind not in _BY_USES or self._single_uses(operands)
                variants = self._variants_of(rule, kind, single_use)
            node = self._add_node(self._position, tuple(slots), variants)
            for index, value in enumerate(operands):
                if id(value) in slot_of:
                    reading = users.get(id(value))
                    if reading is None:
                        users[id(value)] = [node]
                    elif reading[-1] != node:
                        reading.append(node)
                else:
                    self._slot_users.setdefault(slots[index], []).append(node)
            for slot in slots[count:]:
                owner_of[slot] = node

    def _single_uses(self, operands: Iterable[SSAValue]) -> bool:
        """Whether every operand that is no scalar has one use.

        A copy of a constant has, unless a sharding group names it.
        """
        for value in operands:
            if value.has_one_use():
                continue
            if id(value) in self.graph.slot_of:
                if rank_of(value):
                    return False
            elif self._is_grouped(value):
                return False
        return True

    def _is_grouped(self, constant: SSAValue) -> bool:
        found = self._grouped.get(id(constant))
        if found is None:
            found = any(use.operation.name == GROUP_OP for use in constant.uses)
            self._grouped[id(constant)] = found
        return found

    def _barrier_variants(self, op: Operation, slot: int) -> tuple[int, ...]:
        """A propagation barrier lets through its direction, at every level."""
        direction = Direction(integer(op, "allowed_direction"))
        rank = self.graph.ranks[slot]
        if direction is Direction.NONE or rank == 0:
            return (-1,) * LEVELS
        return (self._variant(Step(identity_rule(rank, 1), (direction,) * rank, True)),) * LEVELS

    def _visit_group(self, op: Operation) -> None:
        value = op.operands[0]
        group = self._group_ids.setdefault(integer(op, "group_id"), [])
        if id(value.owner) in self._copied and isinstance(value, OpResult):
            self._constant_groups.append((value, group))
        else:
            group.append(self._use(value, op, 0))

    # Regions and calls

    def _visit_data_flow(self, op: Operation, name: str) -> None:
        edges = data_flow_edges(op)
        is_manual = name == MANUAL
        if name == "func.call":
            self.graph.ops.append(op)
            for index, value in enumerate(op.operands):
                self._call_slots[id(op), index] = self._use(value, op, index)
            for result in op.results:
                self._define(result)
            self._calls.append((op, self._position))
            return
        entries = [edge for edge in edges if edge.is_entry]
        exits = [edge for edge in edges if not edge.is_entry]
        self.graph.ops.append(op)
        for edge in edges:
            slot = self._define(edge.targets[0])
            self.graph.edge_slots.add(slot)
            self._edge_targets[slot] = edge.targets
            for target in edge.targets[1:]:
                self.graph.slot_of[id(target)] = slot
        for index, edge in enumerate(entries):
            self._position += 1
            self._add_edge(op, edge, Manual(op, index, True) if is_manual else None)
        if name != BARRIER:
            for region in op.regions:
                for block in region.blocks:
                    self._visit_block(block)
        for index, edge in enumerate(exits):
            self._position += 1
            self._add_edge(op, edge, Manual(op, index, False) if is_manual else None)

    def _add_edge(self, op: Operation, edge: DataFlowEdge, manual: Manual | None) -> None:
        graph = self.graph
        slot = graph.slot_of[id(edge.targets[0])]
        rank = graph.ranks[slot]
        sources = [self._use(user.operands[index], user, index) for user, index in edge.sources]
        if manual is not None:
            graph.manual_slots.append((manual, slot))
        if rank:
            node = self._identity_node(self._position, (*sources, slot), edge.targets[0], manual)
            self._register(edge.source_values, sources, node)
            self._owner[slot] = node

    def _add_call(self, call: Operation, position: int) -> None:
        """Joins the operands and results of a call with the callee's arguments and results."""
        for edge in data_flow_edges(call):
            sources = [self._call_slots[id(user), index] for user, index in edge.sources]
            slot = self.graph.slot_of[id(edge.targets[0])]
            if self.graph.ranks[slot]:
                node = self._identity_node(position, (*sources, slot), edge.targets[0], None)
                self._register(edge.source_values, sources, node)
                self._register(edge.targets, [slot], node)

    def _identity_node(
        self, position: int, slots: tuple[int, ...], like: SSAValue, manual: Manual | None
    ) -> int:
        key = ("edge", len(slots), like.type)
        variants = None if manual else self._variant_sets.get(key)
        if variants is None:
            rank = rank_of(like)
            step = Step(identity_rule(rank, len(slots) - 1, like), (Direction.BOTH,) * rank, False)
            variants = (self._variant(step, manual),) * LEVELS
            if manual is None:
                self._variant_sets[key] = variants
        return self._add_node(position, slots, variants)

    def _register(self, values: Iterable[SSAValue], slots: Iterable[int], node: int) -> None:
        """Notes that `node` reads these values."""
        for value, slot in zip(values, slots, strict=True):
            if self.graph.slot_of.get(id(value)) == slot:
                self._users.setdefault(id(value), []).append(node)
            else:
                self._slot_users.setdefault(slot, []).append(node)

    # Order

    def _order_nodes(self) -> list[int]:
        """Puts the nodes in program order; gives the new number of each."""
        graph = self.graph
        order = sorted(range(len(self._positions)), key=self._positions.__getitem__)
        graph.node_slots = [graph.node_slots[node] for node in order]
        graph.node_variants = [graph.node_variants[node] for node in order]
        new = [0] * len(order)
        for index, node in enumerate(order):
            new[node] = index
        return new

    def _fill_notify(self, new: list[int]) -> None:
        """Lists for each slot the nodes that its change concerns.

        They are pushed on a stack in this order: owner, then users from last to first, so that the
        first user is visited first. This is the order of Shardy's driver, and decides conflicts.
        """
        graph = self.graph
        notify: list[list[int]] = [[] for _ in graph.ranks]
        for slot, node in self._owner.items():
            notify[slot].append(new[node])
        edge_targets = self._edge_targets
        for value_id, nodes in self._users.items():
            slot = graph.slot_of[value_id]
            if slot not in edge_targets:
                nodes.reverse()
                notify[slot] += [new[node] for node in nodes]
        for slot, targets in edge_targets.items():
            # Users of the region's arguments, the edge, users of the result.
            before: list[int] = []
            for target in targets[1:]:
                before += [new[node] for node in reversed(self._users.get(id(target), ()))]
            after = [new[node] for node in self._users.get(id(targets[0]), ())]
            notify[slot] = before + notify[slot] + after
        for slot, nodes in self._slot_users.items():
            notify[slot] += [new[node] for node in reversed(nodes)]
        graph.notify = notify


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
