"""A plan that was found, held against its rivals by the time that partitioned programs take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from autopar.passes.solver.problem import FORBIDDEN

from .completed import FAR, completed_rivals
from .problems import UNIT_S
from .rearranged import (
    argument_groups,
    arranged,
    cheapest_of,
    completed_layout,
    elsewhere,
    most_layouts,
)
from .reshard_prices import Meets
from .road import Found, Road
from .search import Choices, Search

_FAR_SURE = math.inf, 16.0
"""As `FAR`, of methods as propagation completes them, where messages make much of a step."""
_WORTH = 0.3
"""The share of a step's time that all of its memory is worth to leaner rivals."""


def best_of_rivals(found: Found, limit: int | None) -> Found:
    """Of the plan that was found and its rivals the one whose partitioned program takes least time,
    of those that keep to the options; it stands in the module then."""
    road = found.road
    if not road.is_judged:
        return found
    best = found.partitioned()
    tried = [found.choices.of_node]
    many = road.is_tiny or (road.is_small and road.is_short(found.choices))
    within = limit if best.is_off else None
    for rival, is_sure in _rivals(found, within, many=many):
        far = (_FAR_SURE if is_sure and (many or road.has_loops) else FAR)[not road.is_tiny]
        if rival.solution.cost * UNIT_S > far * best.judged or rival.of_node in tried:
            continue
        tried.append(rival.of_node)
        best = _best_of(best, [rival], limit)
    best = _freed_late(_rearranged(best, limit), limit)
    best.road.write(best.choices)
    return best


def _rearranged(best: Found, limit: int | None) -> Found:
    """A plan, or one that takes less time: that which propagation makes of its arguments, and in
    tiny programs those whose arguments lie elsewhere, one group after the other."""
    graph = best.road.search.graph
    road, layout = best.road, arranged(graph, best.choices.of_node)
    best = _best_of(best, [completed_layout(road, road.search, layout)], limit)
    left = most_layouts(graph) if road.is_tiny else 0
    for group in argument_groups(graph) if left else ():
        layouts = elsewhere(graph, arranged(graph, best.choices.of_node), group)[:left]
        left -= len(layouts)
        best = _best_of(best, cheapest_of(road, layouts), limit)
    return best


def _best_of(best: Found, rivals: Sequence[Choices], limit: int | None) -> Found:
    """Of a plan and others that of which the partitioned program takes least time, and keeps to the
    options."""
    best = best.partitioned()
    prefers_scatters = best.road.search.graph.prefers_scatters
    for rival in rivals:
        if rival.solution.cost >= FORBIDDEN or rival.of_node == best.choices.of_node:
            continue
        better = _better(best.road, replace(rival, limit=limit), best.judged, limit)
        if better is None or (prefers_scatters and better.all_reduced > best.all_reduced):
            continue
        best = replace(better, choices=_priced_as_partitioned(better, best))
    return best


def _freed_late(best: Found, limit: int | None) -> Found:
    """The same plan with memory that is freed late, where it fits so, too: nothing has to wait."""
    late = best.road.late
    if late is None or limit is None:
        return best
    written, trial = late.write(best.choices), late.tried()
    freed = Found(late, replace(best.choices, bytes=written.bytes), trial)
    return freed if trial.memory.peak <= limit and freed.judged < best.judged else best


def _better(road: Road, rival: Choices, seconds: float, limit: int | None) -> Found | None:
    """A rival that fits and takes less than so many seconds; where it is near the limit, both with
    memory freed late and early."""
    for way in road.both_ways():
        if way.judged.get(way.key(rival), 0.0) >= seconds:
            continue
        written, trial = way.write(rival), way.tried()
        better = Found(way, written, trial)
        if better.judged >= seconds:
            return None
        if limit is None or trial.memory.peak <= limit:
            return better
        if trial.memory.peak > FAR[1] * limit:
            return None
    return None


def _priced_as_partitioned(rival: Found, found: Found) -> Choices:
    """A rival at the price of its partitioned program: the search knows it roughly."""
    searched, cost = rival.choices.solution, round(rival.seconds / UNIT_S)
    before = found.choices.searched or found.choices.solution  # as the search has bounded it
    least = min(before.lower_bound, searched.cost)
    return replace(
        rival.choices,
        solution=replace(searched, cost=cost, lower_bound=min(least, cost)),
        searched=replace(searched, lower_bound=least),
    )


def _rivals(found: Found, limit: int | None, *, many: bool) -> Iterator[tuple[Choices, bool]]:
    """As `completed_rivals`. `limit`: one of them is sought within it, where collectives are taken
    to meet no others."""
    road = found.road
    search = _where_collectives_meet(road, Meets.MANY) if many else road.search
    yield from completed_rivals(road, search, many=many)
    if many:
        for rival in _leaner(found):
            yield rival, False
        search = _where_collectives_meet(road, Meets.ALONE)
        yield road.completed({}, search), False
        if limit is not None:
            with road.clock("search", "searching a plan of one kind"):
                search = search.freeing_early() if road.search.frees_early else search
                rival = search.run(limit)
            yield rival, False


def _leaner(found: Found) -> Iterator[Choices]:
    """What needs less memory reads and writes less of it, which the search prices roughly."""
    leaner = found.road.search.leaner(found.choices, _WORTH)
    while True:
        with found.road.clock("search", "searching a plan that needs less memory"):
            choices = next(leaner, None)
        if choices is None:
            return
        yield choices


def _where_collectives_meet(road: Road, meets: Meets) -> Search:
    """A search that prices collectives as in plans where they meet others so."""
    with road.clock("graph", "reading the program for plans of one kind"):
        road.before.restore()
        graph = road.search.graph.where_collectives_meet(meets)
        return road.search if graph is road.search.graph else Search(graph, road.options)
