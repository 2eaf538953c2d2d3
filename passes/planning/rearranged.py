"""Plans whose arguments lie elsewhere than those of the best one, completed by propagation.

The search knows what messages cost only roughly, as that hangs on which of them meet, and so it
does of every choice behind an argument. Propagation asks for no prices: in tiny programs arguments
are put elsewhere, one group after the other, and what that comes to is partitioned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod

from xdsl.ir import SSAValue

from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.partition.specs import Spec

from .plan_graph import PlanGraph
from .rivals import propagated_arguments
from .road import Road
from .search import Choices, Search

_GROUPS = 6
"""Of arguments that are put elsewhere."""
_PROPAGATED = 6000
"""Ops that are propagated through in all, one layout after another,"""
_MOST = 40
"""and the most layouts."""
_PARTITIONED = 2
"""Of each group, those that are cheapest by the search's prices."""

Layout = dict[SSAValue, Spec]


def arranged(graph: PlanGraph, chosen: Sequence[int]) -> Layout:
    """Where a plan has the arguments."""
    found: Layout = {}
    for argument in graph.func.body.block.args:
        node = graph.node_of(argument)
        if node is not None:
            found[argument] = graph.nodes[node].specs[chosen[node]]
    return found


def completed_layout(road: Road, search: Search, layout: Layout) -> Choices:
    """The plan whose arguments lie so, as propagation completes it."""
    with road.clock("search", "propagating where arguments lie"):
        bound = propagated_arguments(search.graph, road.before, layout)
    return road.completed(bound, search)


def cheapest_of(road: Road, layouts: Sequence[Layout]) -> list[Choices]:
    """The plans of which it is worth to see what they come to."""
    plans = [completed_layout(road, road.search, layout) for layout in layouts]
    return sorted(plans, key=lambda plan: plan.solution.cost)[:_PARTITIONED]


def most_layouts(graph: PlanGraph) -> int:
    """How many are completed, by the size of a program."""
    return min(_MOST, _PROPAGATED // max(1, len(graph.places.ops)))


def argument_groups(graph: PlanGraph) -> list[list[SSAValue]]:
    """Arguments that are updated as one place, as a parameter with its momentum, or each alone: the
    largest groups."""
    joined: dict[int, list[SSAValue]] = defaultdict(list)
    alone: list[list[SSAValue]] = []
    updated: dict[SSAValue, int] = {}
    for argument, value, _ in graph.places.reads:
        node = graph.node_of(value)
        if node is not None and shape_of(value.type) == shape_of(argument.type):
            updated.setdefault(argument, node)
    for argument in graph.func.body.block.args:
        if graph.node_of(argument) is None or not shape_of(argument.type):
            continue
        if argument in updated:
            joined[updated[argument]].append(argument)
        else:
            alone.append([argument])
    groups = [*joined.values(), *alone]
    groups.sort(key=lambda group: -sum(num_bytes(value.type) for value in group))
    return groups[:_GROUPS]


def elsewhere(graph: PlanGraph, layout: Layout, group: Sequence[SSAValue]) -> list[Layout]:
    """The layouts in which a group lies otherwise, all of it alike: first what is split most."""
    node = graph.node_of(group[0])
    assert node is not None
    specs = dict.fromkeys(spec for spec in graph.nodes[node].specs if not spec.partial)
    return [
        layout | dict.fromkeys(group, spec)
        for spec in sorted(specs, key=lambda spec: -prod(map(graph.table.parts, spec.dims)))
        if any(layout[argument] != spec for argument in group)
    ]
