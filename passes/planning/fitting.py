"""The cheapest plan whose program fits into a limit, with memory freed late or early."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.solver.problem import FORBIDDEN

from .coarse import coarse_choices
from .descent import COSTLY, STEP, Met, at_once, descend
from .refusals import too_large
from .road import Found, Road
from .search import Choices

_FAR_LATE = 2.0
"""Where the cheapest plan of all is that much above the limit, memory is freed early at once."""
_DEARER = 1.01
"""Plans that cost so much more than the cheapest of all, because of memory, are held against those
that free it early;"""
_LESS = 0.95
"""if they are small, or that lowers what the cheapest needs to this share."""
_OVER = 1.5
"""By how much footprints are taken to be above what programs need, at most,"""
_NEAR = 1.1
"""and how far above the least footprint, where nothing was found to fit,"""
_RIGHT = 0.97
"""the share of a footprint from which it is taken to be right,"""
_RAISES = 3
"""and how many plans are sought above the limit for that, in small programs."""
_LOWERED = 3
"""Plans on a coarser grid that are tried, each sought within less."""


def fitting(road: Road, limit: int) -> Found:
    """Writes the cheapest plan whose partitioned program fits; it is found on the given road, where
    memory is freed late, or on that where it is freed early.

    Late is not tried where the cheapest plan of all is far above the limit. Elsewhere early is
    tried first where that plan fits so, but not late; and it is where nothing fits late, or only
    what is dearer.

    DiagnosticError where nothing fits.
    """
    met: list[Met] = []
    found = _fitting_below(road, limit, met)
    if road.is_small and road.may_rival and _is_costly(road, found):
        found = _fitting_above(road, limit, met, found)
        if road.is_short(road.searched(sys.maxsize) if found is None else found.choices):
            found = _fitting_coarser(road, limit, met, found)
    if found is None:
        raise _too_large(road.early, limit, met)
    return found.written()


def _fitting_below(road: Road, limit: int, met: list[Met]) -> Found | None:
    """As `fitting`, of plans whose footprint fits, or is met where nothing else does."""
    if _is_hopeless_late(road, limit):
        return descend(road.early, limit, met)
    cheapest = road.searched(sys.maxsize)
    is_low = cheapest.bytes <= limit
    late = at_once(road, limit, met) if is_low else None
    if late is not None:
        return late
    bytes_early = road.early.search.footprint.peak(cheapest.of_node)
    is_low_early = bytes_early <= limit
    early = descend(road.early, limit, met) if is_low or is_low_early else None
    if early is not None and (is_low or not _is_dearer(early.choices, cheapest)):
        # What is freed early may take longer than the search says.
        late = descend(road, limit, met) if road.is_small and early.is_off else None
        return _shorter(late, early)
    # Far above the limit there is no use in searching a plan that fits late.
    if not is_low and (road.is_small or cheapest.bytes <= _FAR_LATE * limit):
        late = at_once(road, limit, met)
    if not (is_low or is_low_early):
        is_better = road.is_small or bytes_early < _LESS * cheapest.bytes
        if late is None or (is_better and _is_dearer(late.choices, cheapest)):
            early = descend(road.early, limit, met)
    if late is None and early is None and road.is_small:
        late = descend(road, limit, met)
    return _shorter(late, early)


def _is_hopeless_late(road: Road, limit: int) -> bool:
    """Whether the arguments of the cheapest plan alone are far above a limit; not asked of a
    plug-in, which would have to solve for it, nor in small programs, which try everything."""
    if road.is_small or not road.may_rival:
        return False
    with road.clock("search", "searching"):
        return road.search.held_by_cheapest() > _FAR_LATE * limit


def _is_dearer(found: Choices, cheapest: Choices) -> bool:
    return found.solution.cost > _DEARER * cheapest.solution.cost


def _shorter(late: Found | None, early: Found | None) -> Found | None:
    """Of two plans the one that takes less time."""
    if late is None or early is None:
        return late or early
    late, early = late.partitioned(), early.partitioned()
    return early if early.seconds < late.seconds else late


def _is_costly(road: Road, found: Found | None) -> bool:
    """Whether nothing was found, or what the cheapest plan of all is far below."""
    if found is None:
        return True
    cheapest = road.searched(sys.maxsize)
    return found.choices.solution.cost > COSTLY * cheapest.solution.cost


def _fitting_above(road: Road, limit: int, met: list[Met], found: Found | None) -> Found | None:
    """What was found, or what fits though its footprint does not, if that takes less time; what
    does not is added to `met`. The cheapest plan of all is tried, then plans between; each as it
    frees memory late, then early."""
    early, most = road.early, _OVER * limit
    cheapest = early.searched(sys.maxsize)
    if found is None:  # what needs least is to be said, then
        footprint = early.search.footprint
        most = max(most, _NEAR * footprint.peak(footprint.least()))
    low, high = limit, min(cheapest.bytes, math.floor(most))
    tried = [] if found is None else [found.choices.of_node]
    for turn in range(_RAISES + 1):
        if high - low <= STEP * limit or not _is_costly(road, found):
            break
        target = (low + high) // 2 if turn or cheapest.bytes > high else high
        choices = replace(early.searched(target), limit=target)
        if choices.bytes > target or choices.of_node in tried:
            low = max(target, choices.bytes if choices.bytes < high else 0)
            continue
        tried.append(choices.of_node)
        fit = _fit_of(road, choices, limit, met)
        if fit is None:
            high, needed = target, min(peak for peak, _ in met[-2:])
            if found is not None and needed > _RIGHT * choices.bytes:
                break  # as the footprint says
            continue
        low = target
        if found is not None:
            found = found.partitioned()
        if found is None or fit.seconds < found.seconds:
            found = fit
    return found


def _fitting_coarser(road: Road, limit: int, met: list[Met], found: Found | None) -> Found | None:
    """What was found, or what fits on a coarser grid, if that takes less time: collectives are of
    fewer kinds there, so that more of them are made one, as the search takes them to be. What does
    not fit is added to `met`."""
    early = road.early
    for kept in coarse_choices(road.search.graph, fewest=2):
        coarser = early.search.on_coarser_grid(kept)
        target = limit
        for _ in range(_LOWERED):
            with road.clock("search", "searching on a coarser grid"):
                choices = replace(coarser.run(target), limit=target)
            if choices.bytes > target or choices.solution.cost >= FORBIDDEN:
                break
            fit = _fit_of(road, choices, limit, met)
            if fit is not None:
                found = _shorter(found, _of_all(fit, found))
                break
            target = math.floor((1 - STEP) * min(target, choices.bytes) * limit / met[-1][0])
    return found


def _of_all(fit: Found, found: Found | None) -> Found:
    """What fits, with the bound on all plans rather than on those of its kind."""
    solution = fit.choices.solution
    known = 0 if found is None else found.choices.solution.lower_bound
    solution = replace(solution, lower_bound=min(solution.lower_bound, known))
    return replace(fit, choices=replace(fit.choices, solution=solution))


def _fit_of(road: Road, choices: Choices, limit: int, met: list[Met]) -> Found | None:
    """Choices that free memory late, or early, if they fit so."""
    for way in road.both_ways():
        written, trial = way.write(choices), way.tried()
        if trial.memory.peak <= limit:
            return Found(way, written, trial)
        met.append((trial.memory.peak, written))
    return None


def _too_large(road: Road, limit: int, met: Sequence[Met]) -> DiagnosticError:
    needed, thriftiest = min(met, key=lambda tried: tried[0])
    return too_large(road.module, road.search, thriftiest.of_node, needed, limit)
