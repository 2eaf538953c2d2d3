"""What the nodes and edges of a plan graph are about, for a reader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import item_bytes, shape_of
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.specs import Spec

from .naming import ValueNames, op_label
from .plan_graph import PlanGraph
from .words import listed

_FREE = ("all_slice", "to_partial")
"""Steps of a resharding that move nothing."""


@dataclass(frozen=True, eq=False)
class _Link:
    """One thing that an edge is about: a value goes from a node to a node."""

    source: int
    target: int
    value: SSAValue
    text: str
    operand: int | None = None
    """The target is an op, and takes the value as this operand."""
    result: int | None = None
    """The source is an op, and gives the value as this result."""
    through: bool = False
    """An op lies between that may give another shape."""


class Links:
    """Says what nodes and edges are."""

    def __init__(self, graph: PlanGraph, names: ValueNames) -> None:
        self._graph, self._names = graph, names
        self._planner = ReshardPlanner(graph.table)
        self._op_of = {node: op for op, node in graph.op_nodes}
        self._value_of = {node: value for value, node in graph.place_of.items()}
        self._readers: dict[SSAValue, list[int]] = defaultdict(list)
        for (value, _), node in graph.readers.items():
            self._readers[value].append(node)
        self._links: dict[tuple[int, int], list[_Link]] = defaultdict(list)
        for link in self._every_link():
            ends = min(link.source, link.target), max(link.source, link.target)
            self._links[ends].append(link)

    def _every_link(self) -> Iterator[_Link]:
        graph, names = self._graph, self._names
        for value, nodes in self._readers.items():
            place = graph.node_of(value)
            for node in nodes:
                if place is not None and place != node:
                    yield _Link(place, node, value, f"{names.of(value)} moved for its readers")
        for op, node in graph.op_nodes:
            yield from self._of_choice(op, node)
        for arg, value, op in graph.places.reads:
            text = f"{op_label(op)} computes with {names.of(arg)}"
            yield from self._between(arg, value, text)
        for value, other, op in graph.places.parted:
            text = f"{names.of(value)} goes where {op_label(op)} has it"
            yield from self._between(value, other, text)
        choosers = set(self._op_of.values())
        for op in graph.places.others:
            if op not in choosers and op.results:
                for value in dict.fromkeys(graph.places.inputs(op)):
                    yield from self._between(value, op.results[0], op_label(op), through=True)
        last = graph.func.body.block.last_op
        assert last is not None
        for argument, result in aliases(graph.func):
            arg = graph.func.body.block.args[argument]
            text = f"{names.results[result]} goes where {names.of(arg)} lies"
            yield from self._between(operands_of(last)[result], arg, text)

    def _of_choice(self, op: Operation, node: int) -> Iterator[_Link]:
        label = op_label(op)
        for index, value in enumerate(self._graph.places.inputs(op)):
            place = self._graph.node_of(value)
            sources = [*self._readers.get(value, ()), *([] if place is None else [place])]
            for source in dict.fromkeys(sources):
                if (min(source, node), max(source, node)) in self._graph.edges:
                    text = f"{label} reads {self._names.of(value)}"
                    yield _Link(source, node, value, text, operand=index)
        for index, result in enumerate(op.results):
            target = self._graph.node_of(result)
            if target is not None:
                yield _Link(node, target, result, f"the result of {label}", result=index)

    def _between(
        self, source: SSAValue, target: SSAValue, text: str, *, through: bool = False
    ) -> Iterator[_Link]:
        one, two = self._graph.node_of(source), self._graph.node_of(target)
        if one is not None and two is not None and one != two:
            yield _Link(one, two, source, text, through=through)

    def node_text(self, node: int) -> str:
        """What a choice is about."""
        if node in self._op_of:
            return f"{op_label(self._op_of[node])} computes"
        value = self._value_of.get(node)
        return "a value read in several places" if value is None else self._names.of(value)

    def edge_text(self, ends: tuple[int, int]) -> str:
        """What goes between two nodes."""
        texts = [*dict.fromkeys(link.text for link in self._links.get(ends, ()))]
        return listed(texts, 1) if texts else " and ".join(map(self.node_text, ends))

    def collectives(self, ends: tuple[int, int], chosen: Sequence[int]) -> str:
        """What moves between two nodes under a choice of each, as far as it is plain."""
        found: dict[str, None] = {}
        names = self._graph.table.refined.axis_names
        for link in self._links.get(ends, ()):
            pair = self._specs(link, chosen)
            if pair is None:
                continue
            type = link.value.type
            for step in self._planner.plan(*pair, shape_of(type), max(1, int(item_bytes(type)))):
                if step.kind not in _FREE:
                    axes = ", ".join(names[axis] for axis in step.axes)
                    found[f"{step.kind} over {axes}" if axes else step.kind] = None
        return ", ".join(found)

    def _specs(self, link: _Link, chosen: Sequence[int]) -> tuple[Spec, Spec] | None:
        """From where to where; None where an op lies between."""
        one, two = self._graph.nodes[link.source], self._graph.nodes[link.target]
        if link.operand is not None:
            need = two.strategies[chosen[link.target]].operands[link.operand].with_partial(())
            return one.specs[chosen[link.source]], need
        if link.result is not None:
            gives = one.strategies[chosen[link.source]].results[link.result]
            return gives, two.specs[chosen[link.target]]
        if link.through:
            return None
        return one.specs[chosen[link.source]], two.specs[chosen[link.target]]
