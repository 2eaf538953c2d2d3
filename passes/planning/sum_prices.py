"""What a loop adds up costs: a partial sum stays one until the loop ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product
from typing import TYPE_CHECKING

import numpy as np
from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.tensors import num_bytes
from autopar.passes.cost.loops import times_planned
from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.specs import Spec, axes_of_partial, merge_partial, without_axes

from .loop_sums import LoopSums, SinkOf, SumGroup
from .places import searched_axes
from .reshard_prices import Floats
from .waiting import Waiting

if TYPE_CHECKING:
    from .plan_graph import PlanGraph

_ADDING = 3
"""An addition reads twice what it writes."""


class SumPrices:
    """Prices of what loops add up, and the nodes of the graph for what is added up together.

    `loops`: the trips of each loop, as far as they were counted.
    """

    def __init__(
        self,
        graph: PlanGraph,
        sums: LoopSums,
        prices: CostModel,
        loops: dict[Operation, int],
        waiting: Waiting,
    ) -> None:
        self._graph, self._sums, self._prices, self._loops = graph, sums, prices, loops
        self._waiting = waiting
        self._nodes: dict[SumGroup, int] = {}
        """Over which axes those of a group are partial."""

    def passes(self, op: Operation, chosen: Sequence[int]) -> bool:
        """Whether an op is handed what loops add up, a partial sum up to their end."""
        return any(
            self._graph.nodes[node].specs[chosen[node]].partial
            for group, node in self._nodes.items()
            if op in group.passed
        )

    def alone(
        self, gives: Sequence[Spec], target: int, result: SSAValue, each: Floats, trips: int
    ) -> Floats:
        """Of what a loop adds up, with `each` the seconds of bringing it to where it lies once. A
        partial sum stays so to the loop's end: it is added up as the place has it without its
        axes."""
        graph = self._graph
        loop = self._sums.loop_of(result)
        once = trips if loop is None else times_planned(loop, self._loops)
        added = self._prices.memory_seconds(_ADDING * num_bytes(result.type))
        combined = self._waiting.shares(once, target)
        found = trips * each
        for i, given in enumerate(gives):
            for j, spec in enumerate(graph.nodes[target].specs if given.partial else ()):
                form = without_axes(spec, given.partial_axes).with_partial(given.partial)
                inside = graph.matrix([given], [form], result)[0, 0]
                after = graph.matrix([form], [spec], result, combined=combined)[0, 0]
                found[i, j] = trips * (inside + added * self._kept(form, spec)) + once * after
        return found

    def jointly(
        self,
        group: SumGroup,
        node: int,
        gives: Sequence[Spec],
        target: int,
        result: SSAValue,
        each: Floats,
    ) -> Floats:
        """As `alone`, of one that a loop adds up with others: seconds in each trip. What they
        are partial over is a node of its own, which pays for the end of the loop: they are so over
        the same axes, or reduced in each trip."""
        graph = self._graph
        total = self.node_of(group)
        sums = [over.partial for over in graph.nodes[total].specs]
        matches = np.full((len(gives), len(sums)), np.inf)
        found = each.copy()
        may_move = self._sums.take(result)
        read = self._prices.memory_seconds(num_bytes(result.type))
        for i, given in enumerate(gives):
            for k, partial in enumerate(sums):
                if given.partial == partial:
                    matches[i, k] = 0
                elif not partial:
                    matches[i, k] = graph.matrix([given], [given.with_partial(())], result)[0, 0]
                elif not given.partial and not group.all_partial:
                    # the others' axes do not split it: it is added on one device
                    if given.dim_axes.isdisjoint(axes_of_partial(partial)):
                        matches[i, k] = 0
            for j, spec in enumerate(graph.nodes[target].specs if given.partial else ()):
                form = without_axes(spec, given.partial_axes).with_partial(given.partial)
                if may_move or given.dims == form.dims:
                    found[i, j] = graph.matrix([given], [form], result)[0, 0]
                    found[i, j] += read * self._kept(form, spec)
        trips = times_planned(group.makers[0], self._loops)
        graph.add_edge(node, total, matches, trips)
        return found

    def node_of(self, group: SumGroup) -> int:
        """The node of what the sums of a group are partial over, and its edges to where they lie
        when they are reduced."""
        graph = self._graph
        found = self._nodes.get(group)
        if found is None:
            axes = [
                tuple(chain.from_iterable(chosen))
                for chosen in product(*(((), own) for own in searched_axes(graph.table)))
            ]
            specs = [Spec((), merge_partial([("sum", own)])) for own in axes]
            found = graph.add_place(specs)
            self._nodes[group] = found
            for sink in group.sinks:
                self._reduce_after(sink, found)
            for sink, adds in group.adds.items():
                self._keep_whole(sink, adds, found)
        return found

    def _reduce_after(self, sink: SinkOf, total: int) -> None:
        """What a loop has added up is reduced to where it lies."""
        graph = self._graph
        value, place = sink.total, graph.node_of(sink.total)
        if place is None:
            return
        sums, specs = graph.nodes[total].specs, graph.nodes[place].specs
        trips = times_planned(sink.maker, self._loops)
        combined = self._waiting.shares(trips, place)
        found = np.zeros((len(sums), len(specs)))
        for k, over in enumerate(sums):
            for j, spec in enumerate(specs if over.partial else ()):
                form = without_axes(spec, over.partial_axes).with_partial(over.partial)
                found[k, j] = graph.matrix([form], [spec], value, combined=combined)[0, 0]
        found = found * graph.preference(sums, place, value)
        graph.add_edge(total, place, found, trips)

    def _keep_whole(self, sink: SinkOf, adds: Sequence[Operation], total: int) -> None:
        """Up to the end of the loop a sum is whole along the axes that it is partial over: seconds
        of adding to it, or storing rows in it, beyond those of doing so as it lies afterwards."""
        graph = self._graph
        place = graph.node_of(sink.total)
        if place is None:
            return
        rows = [num_bytes(op.operands[1].type) for op in adds if len(op.operands) > 2]
        totals = [v for op in adds for v in op.operands if isinstance(v, OpResult) and v.op.regions]
        size = sum(rows) or (_ADDING - 1 + len(totals)) * num_bytes(sink.total.type)
        specs = graph.nodes[place].specs
        kept = [
            [self._kept(without_axes(spec, over.partial_axes), spec) for spec in specs]
            for over in graph.nodes[total].specs
        ]
        seconds = self._prices.memory_seconds(size) * np.array(kept)
        graph.add_edge(total, place, seconds, times_planned(adds[0], self._loops))

    def _kept(self, form: Spec, spec: Spec) -> float:
        """How much more of a value lies on a device in one form than in another."""
        graph = self._graph
        return 1 / graph.table.parts(form.dim_axes) - 1 / graph.table.parts(spec.dim_axes)

    def kept_whole(self, source: int, target: int, result: SSAValue) -> Floats:
        """(choices, choices): seconds of adding up what would only have to be sliced: it is a
        partial sum over these axes, and sliced when it is reduced after the loop."""
        graph = self._graph
        more = 1 / graph.parts(source)[:, None] - 1 / graph.parts(target)[None, :]
        added = self._prices.memory_seconds((_ADDING - 1) * num_bytes(result.type))
        return added * np.maximum(more, 0)
