"""What reading and writing memory costs, by where values lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from xdsl.ir import Operation, SSAValue

from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.cost.flops import op_flops
from autopar.passes.cost.loops import times_planned
from autopar.passes.cost.op_kinds import BODIES, is_elementwise
from autopar.passes.cost.prices import CostModel, Operations

from .places import slicing

if TYPE_CHECKING:
    from .plan_graph import PlanGraph

_COMPUTED = 1e-3
"""The share of writing it that an element costs which is computed inside another op: less than it
takes, only that of plans that take the same time it is the one which splits it."""


class Traffic:
    """Adds the seconds of a graph's reads and writes to it.

    `loops`: the trips of each loop, as far as they were counted.
    """

    def __init__(self, graph: PlanGraph, prices: CostModel, loops: dict[Operation, int]) -> None:
        self._graph, self._prices, self._loops = graph, prices, loops
        self._node_over: dict[SSAValue, int | None] = {}
        self._argument_reads: dict[int, float] = {}
        """Seconds of reading the whole of each argument, by its node."""
        self._computed: dict[int, float] = {}
        """Seconds of computing all that is computed inside others, by the node where it lies."""

    def add(self, op: Operation, *, whole: bool = False) -> None:
        """What an op that has no node of its own reads from memory and writes to it; `whole`: on
        every device, wherever its operands and results lie."""
        assert op.parent is not None
        fusion = self._graph.fusion(op.parent)
        written = fusion.writes(op)
        if op.name in BODIES or op.name == MANUAL:
            return
        trips = times_planned(op, self._loops)
        if not written:
            self._compute(op, trips)
            return
        moved = (*fusion.reads(op).items(), *written.items())
        for value, size in moved:
            self._add_bytes(value, trips * size, whole=whole)
        self._add_operations(op, sum(size for _, size in moved), whole=whole)

    def moved(self, op: Operation, values: Sequence[SSAValue]) -> list[float]:
        """The bytes of each operand and result that an op with a node moves. What one that computes
        nothing reads from beyond them counts where that lies."""
        assert op.parent is not None
        fusion = self._graph.fusion(op.parent)
        written = fusion.writes(op)
        if not written:
            return [0.0] * len(values)
        if op_flops(op):
            return [float(num_bytes(value.type)) for value in values]
        left = dict(fusion.reads(op))
        self._add_operations(op, sum(left.values()) + sum(written.values()))
        sizes: list[float] = []
        for value in values:
            name = fusion.name(value)
            read = 0.0 if name is None else left.pop(name, 0.0)
            sizes.append(read + written.get(value, 0.0))
        for value, size in left.items():
            self._add_bytes(value, times_planned(op, self._loops) * size)
        return sizes

    def _add_operations(self, op: Operation, moved: float, *, whole: bool = False) -> None:
        """What an op and those that are computed inside it take beyond the bytes that are moved:
        counted where each of them lies."""
        assert op.parent is not None
        prices, computed = self._prices, self._graph.fusion(op.parent).computes(op)
        every = prices.elementwise_seconds(Operations.total(computed.values()))
        more = every - prices.memory_seconds(moved)
        if more <= 0.0:
            return
        trips = times_planned(op, self._loops)
        for value, operations in computed.items():
            node = self._graph.node_of(value)
            if node is None:
                continue
            seconds = trips * more * prices.elementwise_seconds(operations) / every
            if whole:
                self._graph.nodes[node].seconds = self._graph.nodes[node].seconds + seconds
            else:
                self._computed[node] = self._computed.get(node, 0.0) + seconds

    def _compute(self, op: Operation, trips: int) -> None:
        """Next to nothing for an op that is computed inside others, and less where it is split,
        rather than what is made of it."""
        if not is_elementwise(op):
            return
        for value in op.results:
            node = self._graph.node_of(value)
            if node is not None:
                seconds = _COMPUTED * self._prices.memory_seconds(trips * num_bytes(value.type))
                self._computed[node] = self._computed.get(node, 0.0) + seconds

    def add_sums(self) -> None:
        """Once all edges are there: what adds up over the ops of a place."""
        for node, seconds in self._computed.items():
            choice = self._graph.nodes[node]
            choice.seconds = choice.seconds + seconds / self._graph.parts(node)
        self._add_arguments()

    def _add_arguments(self) -> None:
        """Arguments that one place alone is computed from are read as it needs them, no more than a
        device's part where they are only sliced for it."""
        graph = self._graph
        others: dict[int, set[int]] = {node: set() for node in self._argument_reads}
        for one, two in graph.edges:
            for node, other in ((one, two), (two, one)):
                if node in others:
                    others[node].add(other)
        values = {node: value for value, node in graph.place_of.items()}
        for node, seconds in self._argument_reads.items():
            argument, parts = values[node], graph.parts(node)
            reader = others[node].pop() if len(others[node]) == 1 else None
            read = None if reader is None else values.get(reader)
            if reader is None or read is None or shape_of(read.type) != shape_of(argument.type):
                graph.nodes[node].seconds = graph.nodes[node].seconds + seconds / parts
                continue
            is_sliced = slicing(graph.nodes[node].specs, graph.nodes[reader].specs)
            least = np.where(is_sliced, graph.parts(reader)[None, :], parts[:, None])
            graph.add_edge(node, reader, seconds / least, 1)

    def _add_bytes(self, value: SSAValue, size: float, *, whole: bool = False) -> None:
        graph, node = self._graph, self._lies_as(value)
        if node is None:
            return
        seconds = self._prices.memory_seconds(size)
        if whole:
            graph.nodes[node].seconds = graph.nodes[node].seconds + seconds
        elif graph.places.is_argument(value):
            self._argument_reads[node] = self._argument_reads.get(node, 0.0) + seconds
        else:
            graph.nodes[node].seconds = graph.nodes[node].seconds + seconds / graph.parts(node)

    def _lies_as(self, value: SSAValue) -> int | None:
        """The node that says where a value lies in memory; what is free, as what loops carry from
        it (zeros that they add to)."""
        node = self._graph.node_of(value)
        if node is None and value not in self._node_over:
            results = (
                use.operation.results[use.index : use.index + 1]
                for use in value.uses
                if use.operation.name in BODIES
            )
            over = (self._graph.node_of(result) for found in results for result in found)
            self._node_over[value] = next((found for found in over if found is not None), None)
        return self._node_over[value] if node is None else node
