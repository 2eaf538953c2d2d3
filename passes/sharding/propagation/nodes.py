"""Making slots and nodes, and the order in which a change of a slot wakes nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.ir import SSAValue

from autopar.dialects.rules.access import type_of

from .classes import rank_of
from .graph import Graph, Notify


class NodeTable:
    """The slots and nodes of a graph that is being built.

    Nodes are numbered as they are made; `finish` puts them in program order.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._positions: list[int] = []
        """For each node its place in the program."""
        self.types: list[int] = []
        """For each slot the id() of its tensor's type."""
        self.owners: list[int] = []
        """For each slot the node of the op that computes it; -1: none."""
        self.readers: list[list[int]] = []
        """For each slot the nodes that read it, in the order in which they were made. Those that
        read the targets of an edge are in `_edge_readers`."""
        self._edge_readers: dict[int, list[int]] = {}
        """Nodes that read a target of an edge, by id() of the target."""
        self._edge_targets: dict[int, tuple[SSAValue, ...]] = {}
        self._rank_of_type: dict[int, int] = {}

    # Slots

    def define(self, value: SSAValue, owner: int = -1) -> int:
        """A slot for the value, which node `owner` computes."""
        slot = self._graph.slot_of[id(value)] = self.slot_like(value, owner)
        return slot

    def slot_like(self, value: SSAValue, owner: int = -1) -> int:
        """A slot for a tensor of the value's type, which node `owner` computes."""
        type_id = id(type_of(value))
        rank = self._rank_of_type.get(type_id)
        if rank is None:
            rank = self._rank_of_type[type_id] = rank_of(value)
        slot = len(self.types)
        self._graph.ranks.append(rank)
        self.types.append(type_id)
        self.owners.append(owner)
        self.readers.append([])
        return slot

    def define_edge(self, targets: tuple[SSAValue, ...]) -> None:
        """One slot for all targets of a data-flow edge."""
        slot = self.define(targets[0])
        self._graph.edge_slots.add(slot)
        self._edge_targets[slot] = targets
        for target in targets[1:]:
            self._graph.slot_of[id(target)] = slot

    # Nodes

    def add_node(self, position: int, slots: Sequence[int], profile: int) -> int:
        """A node of these slots, at this place in the program; its number until `finish`."""
        self._positions.append(position)
        self._graph.node_slots.append(slots)
        self._graph.node_profiles.append(profile)
        return len(self._positions) - 1

    def add_reader(self, node: int, values: Iterable[SSAValue], slots: Sequence[int]) -> None:
        """Notes that `node` reads these values, which have these slots."""
        readers, edge_slots = self.readers, self._graph.edge_slots
        if not edge_slots or edge_slots.isdisjoint(slots):
            for slot in slots:
                readers[slot].append(node)
            return
        for value, slot in zip(values, slots, strict=True):
            if slot in edge_slots:
                self._edge_readers.setdefault(id(value), []).append(node)
            else:
                readers[slot].append(node)

    # Order

    def finish(self) -> None:
        """Numbers the nodes in program order, and fills in whom each slot notifies."""
        graph, positions = self._graph, self._positions
        numbers = list(range(len(positions)))
        order = sorted(numbers, key=positions.__getitem__)
        if order == numbers:  # only calls and copied expressions are added late
            graph.notify = Notify(None, self.owners, self.readers, self._edge_notify(numbers))
            return
        graph.node_slots = [graph.node_slots[node] for node in order]
        graph.node_profiles = [graph.node_profiles[node] for node in order]
        for number, node in enumerate(order):
            numbers[node] = number
        graph.notify = Notify(numbers, self.owners, self.readers, self._edge_notify(numbers))

    def _edge_notify(self, numbers: list[int]) -> dict[int, list[int]]:
        """What the slots of edges notify: users of the region's arguments, the edge, users of the
        result."""
        number, readers = numbers.__getitem__, self._edge_readers
        notify: dict[int, list[int]] = {}
        for slot, targets in self._edge_targets.items():
            nodes: list[int] = []
            for target in targets[1:]:
                nodes += map(number, reversed(readers.get(id(target), ())))
            if self.owners[slot] >= 0:
                nodes.append(number(self.owners[slot]))
            nodes += map(number, readers.get(id(targets[0]), ()))
            notify[slot] = nodes
        return notify
