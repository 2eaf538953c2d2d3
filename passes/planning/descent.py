"""The cheapest plan that fits into a limit, with memory freed one way: sought lower and lower."""

from __future__ import annotations

import math
from dataclasses import replace

from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.solver.problem import FORBIDDEN

from .completed import FAR, completed_rivals
from .road import Found, Road
from .search import Choices

STEP = 0.005
"""The least share by which the next plan is sought lower."""
COSTLY = 1.03
"""Where what fits takes that much longer than what does not, plans between them are sought."""
_TRIALS = 8
"""How many plans are tried before that of the least footprint."""
_SURE = 0.6
"""A plan whose footprint is below this share of the limit is not partitioned to see if it fits;"""
_JOINED = 4 * OptimizeCollectivesPass.small_bytes
"""beside what small collectives that are made one may have in their buffers."""
_HALVINGS = 2
"""How often plans between one that fits and one that does not are sought, in small programs."""

Met = tuple[int, Choices]
"""The bytes that a plan needs, and the plan."""


def at_once(road: Road, limit: int, met: list[Met]) -> Found | None:
    """Writes the cheapest plan whose footprint fits, if its program does, too."""
    choices = road.written(limit)
    if _is_sure(road, choices, limit):
        return Found(road, choices)
    if choices.bytes > limit:
        return None  # not worth a trial
    trial = road.tried()
    if trial.memory.peak <= limit:
        return Found(road, choices, trial)
    met.append((trial.memory.peak, choices))
    return None


def descend(road: Road, limit: int, met: list[Met]) -> Found | None:
    """Writes the cheapest plan that is found to fit, if one is; what was tried and does not is
    added to `met`, with what it needs.

    The footprint is an estimate: where the program is above it, the next plan is sought by as much
    lower, and at last that of the least footprint. Where that is met, plans between it and the last
    that did not fit may be cheaper. Rivals may fit where nothing does that the footprint lets the
    search find, and be cheaper than what fits by it: in tiny programs they are tried at once, in
    others where all else failed.
    """
    footprint = road.search.footprint
    least = min(limit, footprint.peak(footprint.least()))
    rival: Found | None = None
    refuted = target = limit
    dearest, bound = math.inf, 0
    for turn in range(1, _TRIALS + 2):
        choices = road.written(target)
        if _is_sure(road, choices, limit):
            return Found(road, choices)
        if turn == 1:
            bound = choices.solution.lower_bound
        trial = road.tried()
        with road.clock("try", "counting what the partitioned plan takes"):
            peak = trial.memory.peak
        if peak <= limit:
            return _between((target, refuted), dearest, Found(road, choices, trial), limit)
        met.append((peak, choices))
        if road.is_small:
            dearest = trial.price.total
        if turn == 1 and road.is_tiny:
            rival = _fitting_rival(road, limit, bound, met)
        # What is sought lower is dearer still.
        if rival is not None and rival.seconds <= trial.price.total:
            break
        if choices.bytes > target:
            break
        refuted = min(target, choices.bytes)
        lower = math.floor((1 - STEP) * min(limit * choices.bytes / peak, choices.bytes))
        target = lower if turn < _TRIALS else min(lower, least)
    if rival is None and not road.is_tiny:
        rival = _fitting_rival(road, limit, bound, met)
    return None if rival is None else rival.written()


def _is_sure(road: Road, choices: Choices, limit: int) -> bool:
    """Whether a plan need not be partitioned to see if it fits. One that is held against rivals is
    partitioned in any case."""
    return not road.is_judged and choices.bytes <= _SURE * limit - _JOINED


def _between(ends: tuple[int, int], seconds: float, found: Found, limit: int) -> Found:
    """Writes the cheapest plan that fits of those sought between two footprints, of which the lower
    gave what was found, and the higher what does not fit and takes so many seconds."""
    low, high = ends
    road, best = found.road, found
    for _ in range(_HALVINGS if road.is_small else 0):
        if high - low <= STEP * limit or best.seconds <= COSTLY * seconds:
            break
        target = (low + high) // 2
        choices = road.written(target)
        if choices.of_node == best.choices.of_node:
            break
        trial = road.tried()
        if trial.memory.peak > limit:
            high = min(target, choices.bytes)
            continue
        low = target
        if trial.price.total < best.seconds:
            best = Found(road, choices, trial)
    return best.written()


def _fitting_rival(road: Road, limit: int, bound: int, met: list[Met]) -> Found | None:
    """The cheapest of the rivals that fit, if one does; the others are added to what was met.
    `bound`: no plan within the limit costs less.

    The first of them is the cheapest plan of all: its footprint is above the limit, but that is an
    estimate.
    """
    found: Found | None = None
    if not road.may_rival:
        return found
    tried: list[list[int]] = []
    for rival, _ in completed_rivals(road, road.search, many=True):
        choices = replace(rival, limit=limit)
        if choices.bytes > FAR[not road.is_tiny] * limit or choices.of_node in tried:
            continue
        if choices.solution.cost >= FORBIDDEN:
            continue
        # That of the kind alone says nothing of all plans within the limit.
        lowest = min(choices.solution.cost, bound)
        choices = replace(choices, solution=replace(choices.solution, lower_bound=lowest))
        tried.append(choices.of_node)
        choices = road.write(choices)
        trial = road.tried()
        peak = trial.memory.peak
        fit = Found(road, choices, trial)
        road.judged[road.key(choices)] = math.inf if peak > limit else fit.judged
        if peak > limit:
            met.append((peak, choices))
        elif fit.judged < (math.inf if found is None else found.judged):
            found = fit
    return found
