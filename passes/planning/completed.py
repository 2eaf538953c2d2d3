"""Rivals as a search completes them."""

from __future__ import annotations

from collections.abc import Iterator

from .rearranged import arranged, completed_layout
from .rivals import hybrids_of, methods_of, propagated_rivals, rivals_of
from .road import Road
from .search import Choices, Search

FAR = 2.0, 1.25
"""Rivals that the search finds that much dearer than the best plan so far, or to need that much
more than the limit, are not partitioned: in tiny programs, where the search may be far off, and in
others."""


def completed_rivals(road: Road, search: Search, *, many: bool) -> Iterator[tuple[Choices, bool]]:
    """Rivals, and whether little hangs on what the search thinks of them, which may be what is
    wrong: those of methods have every place as propagation puts it. `many`: more of them."""
    graph = search.graph
    for bound in rivals_of(graph, many=many):
        yield road.completed(bound, search), False
    for method in methods_of(graph, many=many):
        with road.clock("search", "propagating a method"):
            bounds = propagated_rivals(graph, road.before, method)
        for bound in bounds:
            yield road.completed(bound, search), True
    for bound in hybrids_of(graph) if many else ():
        hybrid = road.completed(bound, search)
        yield hybrid, False
        yield completed_layout(road, search, arranged(graph, hybrid.of_node)), True
