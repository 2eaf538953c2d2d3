"""The memory that a plan needs on one device: what is alive at each time, by where it lies.

    arguments + results that no donated argument holds + the temporaries of the time

as `passes/cost/liveness.py` counts a partitioned program, here from the program as a whole: a
buffer of a value takes its bytes over the parts of its place. What an op needs of an operand, or
gives before it is reduced, counts at the time of the op as if it were always another buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import num_bytes
from autopar.passes.cost.liveness import timeline_of

from .plan_graph import PlanGraph

Bytes = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """Bytes in use from one time to another (included), by what a node chooses."""

    node: int
    bytes: Bytes
    """(choices,)"""
    first: int
    last: int
    value: SSAValue | None


class _Flat:
    """Items as arrays."""

    def __init__(self, items: Sequence[Item]) -> None:
        counts = [len(item.bytes) for item in items]
        self.bytes = np.concatenate([item.bytes for item in items] or [np.zeros(0)])
        self.starts = np.cumsum([0, *counts], dtype=np.int64)[:-1]
        self.nodes = np.array([item.node for item in items], np.int64)
        self.first = np.array([item.first for item in items], np.int64)
        self.last = np.array([item.last for item in items], np.int64)


class Footprint:
    """What is in memory of a device, by the choices of a graph."""

    def __init__(self, graph: PlanGraph) -> None:
        self._graph = graph
        func = graph.func
        timeline = timeline_of(func.body.block, graph.fusion)
        self._end = max(1, timeline.end)
        self.items: list[Item] = []
        self._flat: _Flat | None = None
        self._at: dict[int, dict[int, Bytes]] = {}
        last = func.body.block.last_op
        assert last is not None
        held = {result for _, result in aliases(func)}
        for argument in func.body.block.args:
            self._add([argument], num_bytes(argument.type), 0, self._end - 1)
        for index, value in enumerate(operands_of(last)):
            if index not in held:
                self._add([value], num_bytes(value.type), 0, self._end - 1)
        for buffer in timeline.buffers:
            self._add(buffer.values, buffer.size, buffer.first, buffer.last)
        for op, node in graph.op_nodes:
            if op in timeline.times:
                self._add_passing(op, node, timeline.times[op])

    def _add(self, values: Sequence[SSAValue], size: int, first: int, last: int) -> None:
        """A buffer lies where the first of its values that has a place does. What is free is made
        as its readers want it: its parts are not known, and not counted."""
        placed = ((value, self._graph.node_of(value)) for value in values)
        value, node = next((item for item in placed if item[1] is not None), (None, None))
        if value is None or node is None:
            return
        self.items.append(Item(node, size / self._graph.parts(node), first, last, value))

    def _add_passing(self, op: Operation, node: int, time: int) -> None:
        """What an op has in memory in forms that may be its own."""
        table = self._graph.table
        sizes: list[float] = []
        for strategy in self._graph.nodes[node].strategies:
            size = 0.0
            for value, spec in zip(operands_of(op), strategy.operands, strict=True):
                size += num_bytes(value.type) / table.parts(spec.dim_axes)
            for value, spec in zip(op.results, strategy.results, strict=True):
                if spec.partial:
                    size += num_bytes(value.type) / table.parts(spec.dim_axes)
            sizes.append(size)
        self.items.append(Item(node, np.array(sizes), time, time, None))

    def over_time(self, chosen: Sequence[int]) -> Bytes:
        """(times,): bytes in use under a choice of each node."""
        if self._flat is None:
            self._flat = _Flat(self.items)
        flat = self._flat
        sizes = flat.bytes[flat.starts + np.asarray(chosen, np.int64)[flat.nodes]]
        begins = np.bincount(flat.first, sizes, self._end + 1)
        ends = np.bincount(flat.last + 1, sizes, self._end + 1)
        change = begins - ends
        return np.cumsum(change[:-1], dtype=np.float64)

    def peak(self, chosen: Sequence[int]) -> int:
        """The most bytes in use at any time."""
        return ceil(self.over_time(chosen).max())

    def at(self, time: int) -> dict[int, Bytes]:
        """The bytes in use at a time: per node (choices,)."""
        if time in self._at:
            return self._at[time]
        found = self._at[time] = {}
        for item in self.items:
            if item.first <= time <= item.last:
                found[item.node] = found.get(item.node, 0.0) + item.bytes
        return found

    def heaviest(self, chosen: Sequence[int], count: int) -> list[tuple[SSAValue, int]]:
        """The values that take most when most is in use, and their bytes."""
        time = int(self.over_time(chosen).argmax())
        sizes = [
            (item.value, int(item.bytes[chosen[item.node]]))
            for item in self.items
            if item.value is not None and item.first <= time <= item.last
        ]
        return sorted(sizes, key=lambda found: -found[1])[:count]

    def least(self) -> list[int]:
        """The choices that take least memory, at every time."""
        chosen = [0] * len(self._graph.nodes)
        total: dict[int, Bytes] = {}
        for item in self.items:
            total[item.node] = total.get(item.node, 0.0) + item.bytes
        for node, sizes in total.items():
            chosen[node] = int(sizes.argmin())
        return chosen
