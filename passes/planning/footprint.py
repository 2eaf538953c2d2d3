"""The memory that a plan needs on one device: what is alive at each time, by where it lies.

    arguments + results that no donated argument holds + the temporaries of the time

as `passes/cost/liveness.py` counts a partitioned program, here from the program as a whole: a
buffer of a value takes its bytes over the parts of its place (`items`, one node each). What an op
needs of an operand, or gives, otherwise than it lies is a copy at the time of the op (`copies`, two
nodes each); of an op that is computed inside its readers, until they have run. Small arguments that
ops read whole are gathered together, at the first of these, into one buffer that is there until the
last (`optimize-collectives`): each is taken to be among them. What XLA copies of donated arguments,
as their memory is written to while they are still read, is there meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.cost.early import blocks_of, waits_of
from autopar.passes.cost.fusion import Fusion, Fusions
from autopar.passes.cost.liveness import Buffer, Timeline, in_rooms, timeline_of
from autopar.passes.cost.op_kinds import reads_from_memory
from autopar.passes.partition.combining import VIEWS
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.specs import Spec

from .places import slicing
from .plan_graph import PlanGraph, Through

_SWEEPS = 4
"""Over all nodes, to find choices that need little."""

Bytes = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Item:
    """Bytes in use from one time to another (included), by what a node chooses."""

    node: int
    bytes: Bytes
    """(choices,)"""
    first: int
    last: int
    value: SSAValue | None


@dataclass(frozen=True)
class Copy:
    """Bytes in use from one time to another (included), by what two nodes choose together."""

    one: int
    two: int
    bytes: Bytes
    """(choices of one, choices of two): 0 where a value is used as it lies."""
    first: int
    last: int


class _Flat:
    """Items and copies as arrays."""

    def __init__(self, items: Sequence[Item], copies: Sequence[Copy]) -> None:
        tables = {id(copy.bytes): copy.bytes for copy in copies}
        arrays = [item.bytes for item in items] + [table.reshape(-1) for table in tables.values()]
        self.bytes = np.concatenate(arrays or [np.zeros(0)])
        starts = np.cumsum([0, *map(len, arrays)], dtype=np.int64)[:-1]
        place = dict(zip(tables, starts[len(items) :].tolist(), strict=True))
        self.starts = np.array(
            [*starts[: len(items)].tolist(), *(place[id(copy.bytes)] for copy in copies)], np.int64
        )
        # an item is a copy of one choice by its node's
        self.one = np.array([0] * len(items) + [copy.one for copy in copies], np.int64)
        self.two = np.array([i.node for i in items] + [copy.two for copy in copies], np.int64)
        widths = [0] * len(items) + [copy.bytes.shape[1] for copy in copies]
        self.widths = np.array(widths, np.int64)
        both = (*items, *copies)
        self.first = np.array([use.first for use in both], np.int64)
        self.last = np.array([use.last for use in both], np.int64)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All that it is."""
        return self.bytes, self.starts, self.one, self.two, self.widths, self.first, self.last

    def over_time(self, chosen: Ints, end: int) -> Bytes:
        return _over_time(self.first, self.last, self._sizes(chosen, slice(None)), end)

    def change(self, chosen: Ints, other: Ints, nodes: Sequence[int], end: int) -> Bytes:
        """(times,): what is added where these nodes choose otherwise, and no others do."""
        rows = np.unique(np.concatenate([self._rows(node) for node in nodes]))
        added = self._sizes(other, rows) - self._sizes(chosen, rows)
        return _over_time(self.first[rows], self.last[rows], added, end)

    def _sizes(self, chosen: Ints, rows: Ints | slice) -> Bytes:
        one, two = chosen[self.one[rows]], chosen[self.two[rows]]
        return self.bytes[self.starts[rows] + one * self.widths[rows] + two]

    def _rows(self, node: int) -> Ints:
        """The items and copies of a node."""
        ends, rows = self._by_node
        return rows[slice(*np.searchsorted(ends, (node, node + 1)))]

    @cached_property
    def _by_node(self) -> tuple[Ints, Ints]:
        """The node of each end of copies and items, ascending, and which of these it is of."""
        ends = np.concatenate([self.one, self.two])
        order = np.argsort(ends, kind="stable")
        return ends[order], order % max(1, len(self.one))


def _over_time(first: Ints, last: Ints, sizes: Bytes, end: int) -> Bytes:
    """(times,): the sum of sizes, each from one time to another (included)."""
    begins = np.bincount(first, sizes, end + 1)
    ends = np.bincount(last + 1, sizes, end + 1)
    return np.cumsum((begins - ends)[:-1], dtype=np.float64)


def _last_reads(
    ops: Sequence[Operation], fusions: Fusions, times: Mapping[Operation, int]
) -> dict[SSAValue, int]:
    """Of each value that is computed inside its readers: the last time at which it is."""
    found: dict[SSAValue, int] = {}
    for op in reversed(ops):
        if op.parent is None or op not in times:
            continue
        written = fusions(op.parent).written(op)
        for value in op.results:
            if value not in written:
                readers = [use.operation for use in value.uses]
                last = [times.get(user, 0) for user in readers]
                last += [found.get(result, 0) for user in readers for result in user.results]
                found[value] = max([times[op], *last])
    return found


def _begin(copies: Sequence[Copy]) -> int:
    return min(copy.first for copy in copies)


def _groups(gathers: Mapping[SSAValue, list[Copy]]) -> list[list[list[Copy]]]:
    """The small arguments in the order in which they are read, as many together as may run as one;
    all are taken to be gathered."""
    groups: list[list[list[Copy]]] = []
    left = 0
    for argument, copies in sorted(gathers.items(), key=lambda item: _begin(item[1])):
        size = num_bytes(argument.type)
        if size <= OptimizeCollectivesPass.small_bytes:
            if not groups or size > left:  # an empty tensor needs no room, but a group
                groups.append([])
                left = OptimizeCollectivesPass.group_bytes
            left -= size
            groups[-1].append(copies)
    return [group for group in groups if len(group) > 1]


def _is_apart(
    places: Sequence[Spec], forms: Sequence[Spec], shape: Sequence[int]
) -> NDArray[np.bool_]:
    """(places, forms): whether a form is gathered along a dimension with others before it."""
    behind = next((dim + 1 for dim, size in enumerate(shape) if size > 1), len(shape))
    found = np.zeros((len(places), len(forms)), np.bool_)
    for dim in range(behind, len(shape)):
        split = [len(place.dims[dim]) for place in places]
        wanted = [len(form.dims[dim]) for form in forms]
        found |= np.greater.outer(split, wanted)
    return found


def _viewed(value: SSAValue) -> SSAValue:
    """What a value is another form of."""
    while isinstance(value.owner, Operation) and value.owner.name in VIEWS:
        value = value.owner.operands[0]
    return value


class Footprint:
    """What is in memory of a device, by the choices of a graph."""

    def __init__(self, graph: PlanGraph, other: Footprint | None = None) -> None:
        """`other`: of the same graph, where things run at other times."""
        self._graph = graph
        func = graph.func
        timeline = timeline_of(func.body.block, graph.fusion)
        self._end = max(1, timeline.end)
        self.times = timeline.times
        self.orders = timeline.orders
        self._handed_on = timeline.handed_on
        self.items: list[Item] = []
        self._at: dict[int, dict[int, Bytes]] = {}
        self._copies_at: dict[int, dict[tuple[int, int], Bytes]] = {}
        last = func.body.block.last_op
        assert last is not None
        held = {result for _, result in aliases(func)}
        for argument in func.body.block.args:
            self._add([argument], num_bytes(argument.type), 0, self._end - 1)
        for index, value in enumerate(operands_of(last)):
            if index not in held:
                self._add([value], num_bytes(value.type), 0, self._end - 1)
        chosen = dict(graph.op_nodes)
        self.copies: list[Copy] = []
        self._matrices: dict[tuple[Hashable, ...], Bytes] = other._matrices if other else {}
        """What copies take, by the identities of what the graph has of their ends."""
        rooms = dict(in_rooms(timeline))
        copied = {value for buffer in timeline.copies for value in buffer.values}
        for buffer in timeline.buffers:
            room = rooms[buffer]
            if room is None or not self._add_in_room(buffer, room, copied):
                self._add(buffer.values, buffer.size, buffer.first, buffer.last)
            if buffer.operand is not None and buffer.operand[0] in chosen:
                self._add_operand(chosen[buffer.operand[0]], buffer, buffer.operand[1])
        self._gathers: dict[SSAValue, list[Copy]] = defaultdict(list)
        """What is copied of each argument."""
        readers: dict[tuple[SSAValue, int], list[Operation]] = defaultdict(list)
        for op, node in graph.op_nodes:
            if op in timeline.times:
                self._add_copies(op, node, timeline.times[op], readers)
        for (value, node), ops in readers.items():
            times = [timeline.times[op] for op in ops]
            place = graph.node_of(value)
            assert place is not None
            ends = graph.nodes[place].specs, graph.nodes[node].specs
            copied = self._copied(*ends, value)
            self._copy(value, Copy(place, node, copied, min(times), max(times)))
            first = min(ops, key=timeline.times.__getitem__)
            given = sum(num_bytes(result.type) for result in first.results)
            self._add_apart(first, value, (place, node), ends, given / prod(graph.table.sizes))
        reads = _last_reads(graph.places.ops, graph.fusion, timeline.times)
        for through in graph.throughs:
            if through.op in timeline.times:
                self._add_through(through, timeline.times[through.op], reads)
        self._add_arguments(timeline.times, reads)
        self._add_joined()
        self._add_waiting(timeline)
        for buffer in timeline.copies:
            if rooms[buffer] is None:
                self._add_donated(buffer)

    def _add(self, values: Sequence[SSAValue], size: int, first: int, last: int) -> None:
        """A buffer lies where the first of its values that has a place does. What is free is made
        as its readers want it: its parts are not known, and not counted."""
        placed = ((value, self._graph.node_of(value)) for value in values)
        value, node = next((item for item in placed if item[1] is not None), (None, None))
        if value is None or node is None:
            return
        self.items.append(Item(node, size / self._graph.parts(node), first, last, value))

    def _place(self, values: Sequence[SSAValue]) -> int | None:
        places = (self._graph.node_of(value) for value in values)
        return next((place for place in places if place is not None), None)

    def _is_updated_alone(self, argument: SSAValue, place: int) -> Bytes:
        """(choices,): whether an argument that lies so is updated without waiting for others. One
        that is whole over an axis has its gradient summed over that, and XLA makes one of all these
        all_reduces: all readers of the argument run before its update then. What is handed on has
        no gradient."""
        parts = self._graph.parts(place)
        return (
            np.ones_like(parts)
            if argument in self._handed_on
            else parts == prod(self._graph.table.sizes)
        )

    def _add_in_room(self, buffer: Buffer, room: Buffer, copied: Container[SSAValue]) -> bool:
        """A buffer that lies in the memory of a donated argument where that has room for its part;
        whether both have a place."""
        (argument,) = room.values
        place, other = self._place(buffer.values), self._graph.node_of(argument)
        if place is None or other is None:
            return False
        sizes = buffer.size / self._graph.parts(place)
        rooms = room.size / self._graph.parts(other)
        if argument in copied:
            rooms = rooms * self._is_updated_alone(argument, other)
        if place == other:
            left = sizes * (sizes > rooms)
            self.items.append(Item(place, left, buffer.first, buffer.last, buffer.values[0]))
        else:
            beside = sizes[None, :] * (sizes[None, :] > rooms[:, None])
            self.copies.append(Copy(other, place, beside, buffer.first, buffer.last))
        return True

    def _add_donated(self, buffer: Buffer) -> None:
        """A copy of a donated argument, for an op that reads it where it lies while its update may
        be written there; one that reads what is gathered of it has its own."""
        (argument,) = buffer.values
        place = self._graph.node_of(argument)
        if place is None:
            return
        sizes = buffer.size / self._graph.parts(place) * self._is_updated_alone(argument, place)
        readers = [copy for copy in self._gathers.get(argument, ()) if copy.one == place]
        readers = [copy for copy in readers if copy.last <= buffer.last]
        if readers:
            last = max(readers, key=lambda copy: copy.last)
            held = sizes[:, None] * (last.bytes == 0)
            self.copies.append(Copy(place, last.two, held, buffer.first, buffer.last))
        else:
            self.items.append(Item(place, sizes, buffer.first, buffer.last, argument))

    def _add_operand(self, node: int, buffer: Buffer, operand: int) -> None:
        """A copy that an op makes of what it reads, whatever that lies in."""
        parts = self._graph.table.parts
        splits = [parts(s.operands[operand].dim_axes) for s in self._graph.nodes[node].strategies]
        sizes = buffer.size / np.array(splits, np.float64)
        self.items.append(Item(node, sizes, buffer.first, buffer.last, None))

    def _add_copies(
        self,
        op: Operation,
        node: int,
        time: int,
        readers: dict[tuple[SSAValue, int], list[Operation]],
    ) -> None:
        """What an op has in memory in forms of its own; notes the copies that it shares."""
        graph = self._graph
        strategies = graph.nodes[node].strategies
        for index, value in enumerate(graph.places.inputs(op)):
            place = graph.node_of(value)
            source = graph.read_by(value, op)
            if place is None or source is None:
                continue
            if source != place:
                readers[value, source].append(op)
            needs = graph.read_forms(strategies, index)
            ends = graph.nodes[source].specs, needs
            copied = self._copied(*ends, value)
            self._copy(value, Copy(source, node, copied, time, time))
            self._add_apart(op, value, (source, node), ends, self._given(op, node))
        for index, value in enumerate(op.results):
            target = graph.node_of(value)
            if target is not None:
                gives = graph.given_forms(strategies, index)
                copied = self._copied(graph.nodes[target].specs, gives, value)
                self.copies.append(Copy(target, node, copied, time, time))

    def _given(self, op: Operation, node: int) -> Bytes:
        """(strategies,): the bytes of an op's results."""
        parts, strategies = self._graph.table.parts, self._graph.nodes[node].strategies
        given = [[parts(result.dim_axes) for result in s.results] for s in strategies]
        sizes = np.array([num_bytes(result.type) for result in op.results], np.float64)
        return (sizes / np.array(given, np.float64)).sum(axis=1)

    def _add_apart(
        self,
        op: Operation,
        value: SSAValue,
        nodes: tuple[int, int],
        ends: tuple[Sequence[Spec], Sequence[Spec]],
        given: Bytes | float,
    ) -> None:
        """What is gathered along another dimension than the first comes device by device: an op
        that reads it from memory has it copied in order first (`passes/cost/schedule.py`). It is
        gone before the op's results are there, of `given` bytes."""
        if reads_from_memory(op):
            gathered = self._copied(*ends, value) * _is_apart(*ends, shape_of(value.type))
            beyond = np.maximum(0.0, gathered - given)
            time = self.times[op]
            if beyond.any():
                self.copies.append(Copy(*nodes, beyond, time, time))

    def _add_joined(self) -> None:
        """Gathers of small arguments that run as one: what the first op that reads an argument has
        of it is a part of a buffer with that of others, until all of these are copied out. (What a
        plan does not gather lies as it is read, and takes nothing here. What is gathered of moments
        to be joined with gradients is left out: where that runs hangs on what else is gathered.)"""
        readers = frozenset(self._graph.readers.values())
        firsts: dict[SSAValue, list[Copy]] = {}
        for argument, copies in self._gathers.items():
            parts = [copy for copy in copies if copy.first == _begin(copies)]
            if all(self._graph.nodes[copy.two].strategies or copy.two in readers for copy in parts):
                firsts[argument] = parts
        for group in _groups(firsts):
            parts = [copy for copies in group for copy in copies]
            first, last = (end(copy.first for copy in parts) for end in (min, max))
            self.copies += [replace(copy, first=first, last=last) for copy in parts]

    def _add_waiting(self, timeline: Timeline) -> None:
        """Sums that are reduced everywhere wait for the last of them, as XLA makes one all_reduce
        of all: up to then each device has its part, and then the whole beside it. What the last
        sum was computed from is gone by then."""
        graph = self._graph
        held = {value: buffer.last for buffer in timeline.buffers for value in buffer.values}
        sums = {
            (node, place): (total, axes, timeline.times[total.owner])
            for total, axes, node, place in graph.waiting_sums()
            if isinstance(total.owner, Operation) and total.owner in timeline.times
        }
        last = max((time for *_, time in sums.values()), default=0)
        reduced_at = min(last + 1, self._end - 1)
        for (node, place), (total, axes, time) in sums.items():
            split = [spec.dim_axes for spec in graph.nodes[place].specs]
            is_reduced = np.array([[bool(over - own) for own in split] for over in axes])
            part = is_reduced * (num_bytes(total.type) / graph.parts(place))
            until = held.get(total, time)
            if until < reduced_at:
                self.copies.append(Copy(node, place, part, until + 1, reduced_at))
            self.copies.append(Copy(node, place, part, reduced_at, reduced_at))

    def _add_through(self, through: Through, time: int, reads: Mapping[SSAValue, int]) -> None:
        """What an op between two places has in memory in forms of its own, by its best strategy. If
        it is computed inside its readers, what it reads, or gives, is there as long as they are."""
        (result,) = through.op.results
        last = reads.get(result)
        types = id(through.operand.type), id(result.type)
        key = "through", id(through.best), *types, last is None
        copied = self._matrices.get(key)
        if copied is None:
            specs = self._graph.nodes[through.source].specs, self._graph.nodes[through.target].specs
            gives = self._copied(specs[1], through.gives, result)
            needs = self._beside(specs[0], through.needs, through.operand)
            read = np.take_along_axis(needs, through.best, axis=1)
            if last is None:
                copied = read + np.take_along_axis(gives.T, through.best, axis=0)
            else:
                sizes = num_bytes(result.type) / self._graph.parts(through.target)
                moved = (gives > 0) & ~slicing(through.gives, specs[1]).T
                moved = np.take_along_axis(moved.T, through.best, axis=0)
                copied = np.where(moved, sizes[None, :], read)
            self._matrices[key] = copied
        if copied.any() and through.source != through.target:
            end = time if last is None else last
            copy = Copy(through.source, through.target, copied, time, end)
            self._copy(through.operand, copy)

    def _add_arguments(self, times: Mapping[Operation, int], reads: Mapping[SSAValue, int]) -> None:
        """Arguments, and values that the program parts, that lie otherwise than what they are
        joined with: there as long as this is computed inside its readers. What is written instead
        takes their memory."""
        graph = self._graph
        spans: dict[tuple[SSAValue, int], list[int]] = defaultdict(list)
        for arg, value, op in (*graph.places.reads, *graph.places.parted):
            last = reads.get(value) if op in times and value.owner is op else None
            target = graph.node_of(value)
            if last is not None and target is not None:
                spans[arg, target] += (times[op], last)
        for (arg, target), span in spans.items():
            place = graph.node_of(arg)
            if place is not None and place != target:
                specs = graph.nodes[place].specs, graph.nodes[target].specs
                copied = self._beside(*specs, arg)
                self._copy(arg, Copy(place, target, copied, min(span), max(span)))

    def _copy(self, value: SSAValue, copy: Copy) -> None:
        """Adds a copy of a value."""
        self.copies.append(copy)
        source = _viewed(value)
        is_argument = source.owner is self._graph.func.body.block
        if is_argument:
            self._gathers[source].append(copy)

    def _copied(self, places: Sequence[Spec], forms: Sequence[Spec], value: SSAValue) -> Bytes:
        """(places, forms): the bytes of a form that is not where the value lies."""
        key = "copied", id(places), id(forms), id(value.type)
        found = self._matrices.get(key)
        if found is None:
            parts = self._graph.table.parts
            sizes = [num_bytes(value.type) / parts(form.dim_axes) for form in forms]
            other = [[place != form for form in forms] for place in places]
            found = self._matrices[key] = np.array(other) * np.array(sizes)
        return found

    def _beside(self, places: Sequence[Spec], forms: Sequence[Spec], value: SSAValue) -> Bytes:
        """(places, forms): the same where a form is no slice of what lies there."""
        key = "beside", id(places), id(forms), id(value.type)
        found = self._matrices.get(key)
        if found is None:
            copied = self._copied(places, forms, value)
            found = self._matrices[key] = copied * ~slicing(places, forms)
        return found

    def over_time(self, chosen: Sequence[int]) -> Bytes:
        """(times,): bytes in use under a choice of each node."""
        return self._flat.over_time(np.asarray(chosen, np.int64), self._end)

    def over_time_instead(
        self, used: Bytes, chosen: Ints, other: Ints, nodes: Sequence[int]
    ) -> Bytes:
        """(times,): the bytes in use where some nodes choose otherwise than in a plan that uses
        so many; but for rounding, as sums are made in another order."""
        return used + self._flat.change(chosen, other, nodes, self._end)

    @cached_property
    def _flat(self) -> _Flat:
        return _Flat(self.items, self.copies)

    def is_same(self, other: Footprint) -> bool:
        """Whether the same is in use at every time, whatever is chosen."""
        ours, theirs = (footprint._flat.arrays for footprint in (self, other))
        return all(map(np.array_equal, ours, theirs))

    def peak(self, chosen: Sequence[int]) -> int:
        """The most bytes in use at any time."""
        return ceil(self.over_time(chosen).max())

    def at(self, time: int) -> dict[int, Bytes]:
        """The bytes in use at a time without copies: per node (choices,)."""
        if time in self._at:
            return self._at[time]
        found = self._at[time] = {}
        for item in self.items:
            if item.first <= time <= item.last:
                found[item.node] = found.get(item.node, 0.0) + item.bytes
        return found

    def copies_at(self, time: int) -> dict[tuple[int, int], Bytes]:
        """The bytes of the copies in use at a time: per pair of nodes, the lower one first,
        (choices of one, choices of the other)."""
        if time in self._copies_at:
            return self._copies_at[time]
        found = self._copies_at[time] = {}
        for copy in self.copies:
            if copy.first <= time <= copy.last:
                ends, table = (copy.one, copy.two), copy.bytes
                if copy.one > copy.two:
                    ends, table = (copy.two, copy.one), copy.bytes.T
                found[ends] = found.get(ends, 0.0) + table
        return found

    def when_most(self, chosen: Sequence[int]) -> list[tuple[SSAValue, int]]:
        """The values that are there when most is in use, and their bytes."""
        time = int(self.over_time(chosen).argmax())
        return [
            (item.value, int(item.bytes[chosen[item.node]]))
            for item in self.items
            if item.value is not None and item.first <= time <= item.last
        ]

    @cached_property
    def _least(self) -> list[int]:
        own = [np.zeros(node.size) for node in self._graph.nodes]
        for item in self.items:
            own[item.node] = own[item.node] + item.bytes
        around: dict[int, list[tuple[int, Bytes]]] = defaultdict(list)
        for copy in self.copies:
            around[copy.one].append((copy.two, copy.bytes.T))
            around[copy.two].append((copy.one, copy.bytes))
        chosen = [int(sizes.argmin()) for sizes in own]
        tried: list[list[int]] = []
        for sweep in range(_SWEEPS):
            for node, sizes in enumerate(own):
                if sweep or not sizes.any():
                    totals = sum((table[chosen[other]] for other, table in around[node]), sizes)
                    if totals[chosen[node]] > totals.min():
                        chosen[node] = int(totals.argmin())
            tried.append(list(chosen))
        return min(tried, key=self.peak)

    def least(self) -> list[int]:
        """Choices that take little memory at every time: each place its least, and each op what
        copies least; or each node in turn what takes least beside the others."""
        return list(self._least)


def freed_early(graph: PlanGraph, late: Footprint | None = None) -> Footprint:
    """That of the same program where memory is freed early (the pass `free-early`); `late`: where
    it is not, if that is known."""
    fusions: list[Fusion] = []
    for block in blocks_of(graph.func):
        fusion = graph.fusion(block)
        waits = waits_of(fusion, late and late.orders.get(block))
        fusion.waits = {wait.op: wait.values for wait in waits}
        fusions.append(fusion)
    found = Footprint(graph, late)
    for fusion in fusions:
        fusion.waits = {}
    return found
