"""From a search to a plan that stands in the module, fits, and is the cheapest of its rivals."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr

from autopar.dialects.autopar import FREE_EARLY
from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.problem import FORBIDDEN
from autopar.passes.solver.solve import SolveOptions

from .again import made_again
from .clock import Clock
from .coarse import Kept
from .plan_graph import PlanGraph
from .problems import UNIT_S
from .refusals import too_large
from .reshard_prices import Meets
from .rivals import methods_of, propagated_rival, rivals_of
from .search import Choices, Search
from .trial import Trial
from .writing import Unplanned, write_again, write_choices

_TRIALS = 8
"""How many plans are tried before that of the least footprint."""
_SURE = 0.6
"""A plan whose footprint is below this share of the limit is not partitioned to see if it fits;"""
_JOINED = 4 * OptimizeCollectivesPass.small_bytes
"""beside what small collectives that are made one may have in their buffers."""
_STEP = 0.005
"""The least share by which the next plan is sought lower."""
_HALVINGS = 2
"""How often plans between one that fits and one that does not are sought, in small programs."""
_OVER = 1.5
"""By how much footprints are taken to be above what programs need, at most,"""
_NEAR = 1.1
"""and how far above the least footprint, where nothing was found to fit,"""
_RIGHT = 0.97
"""the share of a footprint from which it is taken to be right,"""
_RAISES = 3
"""and how many plans are sought above the limit for that, in small programs."""
_SMALL = 4000
"""Ops up to which a plan is held against its rivals, up to a second each, and under a limit more
plans are tried."""
_FEW_MESSAGES = 100
"""A step that takes no longer than so many messages of no bytes is short."""
_TINY = 1000
"""Ops up to which the search is run twice for rivals, and these are more, as for short steps."""
_FAR = 2.0, 1.25
"""Rivals that the search finds that much dearer than the best plan so far, or to need that much
more than the limit, are not partitioned: in tiny programs, where the search may be far off, and in
others."""
_FAR_SURE = math.inf, 4.0
"""The same of methods as propagation completes them, where messages make much of a step."""
_FAR_LATE = 2.0
"""Where the cheapest plan of all is that much above the limit, memory is freed early at once."""
_OFF = 1.1
"""Where the partitioned program takes that much longer than the search found, a plan is also sought
within the limit where collectives are taken to meet no others."""
_COSTLY = 1.03
"""Where what fits takes that much longer than what does not, plans between them are sought."""
_WORTH = 0.3
"""The share of a step's time that all of its memory is worth to leaner rivals."""
_DEARER = 1.01
"""Plans that cost so much more than the cheapest of all, because of memory, are held against those
that free it early;"""
_LESS = 0.95
"""if they are small, or that lowers what the cheapest needs to this share."""


_Met = tuple[int, Choices]
"""The bytes that a plan needs, and the plan."""
_Key = tuple[tuple[int, ...], int | None, bool]
"""A plan: the choices, the limit that they were sought within, whether memory is freed early."""
_Fit = tuple[Choices, Trial | None]
"""A plan that fits, and its trial where one was needed."""


@dataclass(frozen=True)
class Road:
    """From a search to a plan that stands in the module."""

    module: ModuleOp
    context: Context
    prices: CostModel
    search: Search
    options: SolveOptions
    clock: Clock
    before: Unplanned
    """Of the module without a plan."""
    may_rival: bool
    """Whether plans of one kind, which our own solver completes, may be taken: not where a plug-in
    solves."""
    judged: dict[_Key, float] = field(default_factory=dict[_Key, float])
    """The seconds of a step of rivals that were partitioned; inf where they do not fit."""
    late: Road | None = None
    """Where memory is freed late, of a road on which it is freed early."""

    def cheapest(self) -> tuple[Choices, None]:
        """Writes the cheapest plan of all."""
        return self._written(None), None

    def fitting(self, limit: int) -> tuple[Road, Choices, Trial | None]:
        """Writes the cheapest plan whose partitioned program fits; the road on which it was found
        counts memory as late or early freed (the pass `free-early`).

        Late is not tried where the cheapest plan of all is far above the limit. Elsewhere early is
        tried first where that plan fits so, but not late; and it is where nothing fits late, or
        only what is dearer.

        DiagnosticError where nothing fits.
        """
        met: list[_Met] = []
        found = self._found_fitting(limit, met)
        if self._is_small and self.may_rival and self._is_costly(found):
            found = self._fitting_above(limit, met, found)
        if found is None:
            raise self._early._too_large(met, limit)
        road, (choices, trial) = found
        return road, road._write(choices), trial

    def _found_fitting(self, limit: int, met: list[_Met]) -> tuple[Road, _Fit] | None:
        """As `fitting`, of plans whose footprint fits, or is met where nothing else does."""
        if self._is_hopeless_late(limit):
            early = self._early
            fit = early._fitting(limit, met)
            return None if fit is None else (early, fit)
        cheapest = self._searched(sys.maxsize)
        is_low = cheapest.bytes <= limit
        late_fit = self._fitting_at_once(limit, met) if is_low else None
        if late_fit is not None:
            return self, late_fit
        early = self._early
        bytes_early = early.search.footprint.peak(cheapest.of_node)
        is_low_early = bytes_early <= limit
        early_fit = early._fitting(limit, met) if is_low or is_low_early else None
        if early_fit is not None and (is_low or not _is_dearer(early_fit[0], cheapest)):
            # What is freed early may take longer than the search says.
            is_off = self._is_small and _is_off(*early_fit)
            late_fit = self._fitting(limit, met) if is_off else None
            return self._shorter(late_fit, early_fit)
        # Far above the limit there is no use in searching a plan that fits late.
        if not is_low and (self._is_small or cheapest.bytes <= _FAR_LATE * limit):
            late_fit = self._fitting_at_once(limit, met)
        if not (is_low or is_low_early):
            is_better = self._is_small or bytes_early < _LESS * cheapest.bytes
            if late_fit is None or (is_better and _is_dearer(late_fit[0], cheapest)):
                early_fit = early._fitting(limit, met)
        if late_fit is None and early_fit is None and self._is_small:
            late_fit = self._fitting(limit, met)
        return self._shorter(late_fit, early_fit)

    def _shorter(self, late: _Fit | None, early: _Fit | None) -> tuple[Road, _Fit] | None:
        """Of two plans, with memory freed late and early, the one that takes less time."""
        if late is not None and early is not None:
            late, early = self._partitioned(late), self._early._partitioned(early)
        if late is None or (early is not None and _seconds(*early) < _seconds(*late)):
            return None if early is None else (self._early, early)
        return self, late

    def _fitting_above(
        self, limit: int, met: list[_Met], found: tuple[Road, _Fit] | None
    ) -> tuple[Road, _Fit] | None:
        """What was found, or what fits though its footprint does not, if that takes less time; what
        does not is added to `met`. The cheapest plan of all is tried, then plans between; each as
        it frees memory late, then early."""
        early, most = self._early, _OVER * limit
        cheapest = early._searched(sys.maxsize)
        if found is None:  # what needs least is to be said, then
            footprint = early.search.footprint
            most = max(most, _NEAR * footprint.peak(footprint.least()))
        low, high = limit, min(cheapest.bytes, math.floor(most))
        tried = [] if found is None else [found[1][0].of_node]
        for turn in range(_RAISES + 1):
            if high - low <= _STEP * limit or not self._is_costly(found):
                break
            target = (low + high) // 2 if turn or cheapest.bytes > high else high
            choices = replace(early._searched(target), limit=target)
            if choices.bytes > target or choices.of_node in tried:
                low = max(target, choices.bytes if choices.bytes < high else 0)
                continue
            tried.append(choices.of_node)
            fit = self._fit_of(choices, limit, met)
            if fit is None:
                high, needed = target, min(peak for peak, _ in met[-2:])
                if found is not None and needed > _RIGHT * choices.bytes:
                    break  # as the footprint says
                continue
            low = target
            if found is not None:
                found = found[0], found[0]._partitioned(found[1])
            if found is None or _seconds(*fit[1]) < _seconds(*found[1]):
                found = fit
        return found

    def _fit_of(self, choices: Choices, limit: int, met: list[_Met]) -> tuple[Road, _Fit] | None:
        """Choices that free memory late, or early, if they fit so."""
        for road in (self, self._early):
            written = road._write(choices)
            trial = road._tried()
            if trial.memory.peak <= limit:
                return road, (written, trial)
            met.append((trial.memory.peak, written))
        return None

    def _is_costly(self, found: tuple[Road, _Fit] | None) -> bool:
        """Whether nothing was found, or what the cheapest plan of all is far below."""
        if found is None:
            return True
        cheapest = self._searched(sys.maxsize)
        return found[1][0].solution.cost > _COSTLY * cheapest.solution.cost

    def _is_hopeless_late(self, limit: int) -> bool:
        """Whether the arguments of the cheapest plan alone are far above a limit; not asked of a
        plug-in, which would have to solve for it, nor in small programs, which try everything."""
        if self._is_small or not self.may_rival:
            return False
        with self.clock("search", "searching"):
            return self.search.held_by_cheapest() > _FAR_LATE * limit

    def _too_large(self, met: Sequence[_Met], limit: int) -> DiagnosticError:
        needed, thriftiest = min(met, key=lambda tried: tried[0])
        return too_large(self.module, self.search, thriftiest.of_node, needed, limit)

    def _partitioned(self, fit: _Fit) -> _Fit:
        """The same with a trial, in small programs, so that two compare alike."""
        if fit[1] is not None or not self._is_small:
            return fit
        choices = self._write(fit[0])
        return choices, self._tried()

    @property
    def _is_small(self) -> bool:
        return len(self.search.graph.places.ops) <= _SMALL

    @property
    def _is_tiny(self) -> bool:
        return len(self.search.graph.places.ops) <= _TINY

    @property
    def _far(self) -> float:
        return _FAR[not self._is_tiny]

    @property
    def _far_sure(self) -> float:
        return _FAR_SURE[not self._is_tiny]

    @cached_property
    def _early(self) -> Road:
        """Where memory is freed early."""
        with self.clock("search", "counting memory that is freed early"):
            return replace(self, search=self.search.freeing_early(), late=self)

    def _fitting_at_once(self, limit: int, met: list[_Met]) -> _Fit | None:
        """Writes the cheapest plan whose footprint fits, if its program does, too."""
        choices = self._written(limit)
        if _is_sure(choices, limit):
            return choices, None
        if choices.bytes > limit:
            return None  # not worth a trial
        trial = self._tried()
        if trial.memory.peak <= limit:
            return choices, trial
        met.append((trial.memory.peak, choices))
        return None

    def _fitting(self, limit: int, met: list[_Met]) -> _Fit | None:
        """Writes the cheapest plan that is found to fit, if one is; what was tried and does not is
        added to `met`, with what it needs.

        The footprint is an estimate: where the program is above it, the next plan is sought by as
        much lower, and at last that of the least footprint. Where that is met, plans between it and
        the last that did not fit may be cheaper. Rivals may fit where nothing does that the
        footprint lets the search find, and be cheaper than what fits by it: in tiny programs they
        are tried at once, in others where all else failed.
        """
        footprint = self.search.footprint
        least = min(limit, footprint.peak(footprint.least()))
        rival: tuple[Choices, Trial] | None = None
        refuted = target = limit
        dearest, bound = math.inf, 0
        for turn in range(1, _TRIALS + 2):
            choices = self._written(target)
            if _is_sure(choices, limit):
                return choices, None
            if turn == 1:
                bound = choices.solution.lower_bound
            trial = self._tried()
            with self.clock("try", "counting what the partitioned plan takes"):
                peak = trial.memory.peak
            if peak <= limit:
                return self._between((target, refuted), dearest, (choices, trial), limit)
            met.append((peak, choices))
            if self._is_small:
                dearest = trial.price.total
            if turn == 1 and self._is_tiny:
                rival = self._fitting_rival(limit, bound, met)
            # What is sought lower is dearer still.
            if rival is not None and rival[1].price.total <= trial.price.total:
                break
            if choices.bytes > target:
                break
            refuted = min(target, choices.bytes)
            lower = math.floor((1 - _STEP) * min(limit * choices.bytes / peak, choices.bytes))
            target = lower if turn < _TRIALS else min(lower, least)
        if rival is None and not self._is_tiny:
            rival = self._fitting_rival(limit, bound, met)
        return None if rival is None else (self._write(rival[0]), rival[1])

    def _between(
        self, ends: tuple[int, int], seconds: float, found: tuple[Choices, Trial], limit: int
    ) -> _Fit:
        """Writes the cheapest plan that fits of those sought between two footprints, of which the
        lower gave what was found, and the higher what does not fit and takes so many seconds."""
        low, high = ends
        best: tuple[Choices, Trial] = found
        written: _Fit = found
        for _ in range(_HALVINGS if self._is_small else 0):
            if high - low <= _STEP * limit or best[1].price.total <= _COSTLY * seconds:
                break
            target = (low + high) // 2
            choices = self._written(target)
            if choices.of_node == best[0].of_node:
                written = choices, best[1]  # within another limit
                break
            trial = self._tried()
            written = choices, trial
            if trial.memory.peak > limit:
                high = min(target, choices.bytes)
                continue
            low = target
            if trial.price.total < best[1].price.total:
                written = best = choices, trial
        return best if best is written else (self._write(best[0]), best[1])

    def _fitting_rival(
        self, limit: int, bound: int, met: list[_Met]
    ) -> tuple[Choices, Trial] | None:
        """The cheapest of the rivals that fit, if one does; the others are added to what was met.
        `bound`: no plan within the limit costs less.

        The first of them is the cheapest plan of all: its footprint is above the limit, but that is
        an estimate. They are plans of the same graph, so that they keep to what options demand.
        """
        found: tuple[Choices, Trial] | None = None
        if not self.may_rival:
            return found
        tried: list[list[int]] = []
        graph = self.search.graph
        for kept in chain(rivals_of(graph, many=True), self._propagated(graph, many=True)):
            choices = replace(self._within(self.search, kept), limit=limit)
            if choices.bytes > self._far * limit or choices.of_node in tried:
                continue
            if choices.solution.cost >= FORBIDDEN:
                continue
            # That of the kind alone says nothing of all plans within the limit.
            lowest = min(choices.solution.cost, bound)
            choices = replace(choices, solution=replace(choices.solution, lower_bound=lowest))
            tried.append(choices.of_node)
            choices = self._write(choices)
            trial = self._tried()
            peak = trial.memory.peak
            self.judged[self._key(choices)] = math.inf if peak > limit else trial.price.total
            if peak > limit:
                met.append((peak, choices))
            elif found is None or trial.price.total < found[1].price.total:
                found = choices, trial
        return found

    def _key(self, choices: Choices) -> _Key:
        return tuple(choices.of_node), choices.limit, self.search.frees_early

    def best(
        self, found: Choices, trial: Trial | None, limit: int | None
    ) -> tuple[Choices, Trial | None]:
        """Of the plan that was found and its rivals the one whose partitioned program takes least
        time; it stands in the module then."""
        if not self._is_small:
            return found, trial
        road, best, best_trial = self, found, trial or self._tried()
        tried = [found.of_node]
        many = self._is_tiny or self._is_short(found)
        within = limit if _is_off(found, best_trial) else None
        for rival, is_sure in self._rivals(found, within, many=many):
            seconds = best_trial.price.total
            far = self._far_sure if is_sure and many else self._far
            if rival.solution.cost * UNIT_S > far * seconds or rival.of_node in tried:
                continue
            tried.append(rival.of_node)
            better = self._better(replace(rival, limit=limit), seconds, limit)
            if better is not None:
                road, best, best_trial = better
                best = _priced_as(best, best_trial, found)
        road._write(best)
        return best, best_trial

    def _better(
        self, rival: Choices, seconds: float, limit: int | None
    ) -> tuple[Road, Choices, Trial] | None:
        """A rival that fits and takes less than so many seconds; where it is near the limit, both
        with memory freed late and early."""
        for other in (False, True):
            road = self._other if other else self
            if road.judged.get(road._key(rival), 0.0) >= seconds:
                continue
            written = road._write(rival)
            trial = road._tried()
            if trial.price.total >= seconds:
                return None
            if limit is None or trial.memory.peak <= limit:
                return road, written, trial
            if trial.memory.peak > _FAR[1] * limit:
                return None
        return None

    @property
    def _other(self) -> Road:
        return self.late or self._early

    def _rivals(
        self, found: Choices, limit: int | None, *, many: bool
    ) -> Iterator[tuple[Choices, bool]]:
        """Rivals, and whether little hangs on what the search thinks of them, which may be what is
        wrong. `limit`: one of them is sought within it."""
        search = self._where_collectives_meet(Meets.MANY) if many else self.search
        for bound in rivals_of(search.graph, many=many):
            yield self._within(search, bound), False
        for bound in self._propagated(search.graph, many=many):
            yield self._within(search, bound), True
        if many:
            for rival in self._leaner(found):
                yield rival, False
            search = self._where_collectives_meet(Meets.ALONE)
            yield self._within(search, {}), False
            if limit is not None:
                with self.clock("search", "searching a plan of one kind"):
                    search = search.freeing_early() if self.search.frees_early else search
                    yield search.run(limit), False

    def _leaner(self, found: Choices) -> Iterator[Choices]:
        """What needs less memory reads and writes less of it, which the search prices roughly."""
        leaner = self.search.leaner(found, _WORTH)
        while True:
            with self.clock("search", "searching a plan that needs less memory"):
                choices = next(leaner, None)
            if choices is None:
                return
            yield choices

    def _within(self, search: Search, bound: dict[int, Kept]) -> Choices:
        with self.clock("search", "searching a plan of one kind"):
            return search.within(bound)

    def _propagated(self, graph: PlanGraph, *, many: bool) -> Iterator[dict[int, Kept]]:
        """What binds methods as propagation has them, where they are rivals."""
        for method in methods_of(graph, many=many):
            with self.clock("search", "propagating a method"):
                bound = propagated_rival(graph, self.before, method)
            yield bound

    def _is_short(self, found: Choices) -> bool:
        """Whether messages make much of a step, whatever their bytes."""
        table = self.search.graph.table
        axes = table.axes(range(len(table.sizes)))
        message = self.prices.collective_seconds("all_reduce", 0.0, axes)
        return found.solution.cost * UNIT_S < _FEW_MESSAGES * message

    def _where_collectives_meet(self, meets: Meets) -> Search:
        """A search that prices collectives as in plans where they meet others so."""
        with self.clock("graph", "reading the program for plans of one kind"):
            self.before.restore()
            graph = self.search.graph.where_collectives_meet(meets)
            return self.search if graph is self.search.graph else Search(graph, self.options)

    def _tried(self) -> Trial:
        with self.clock("try", "partitioning a plan, to see what it takes"):
            return Trial(self.module.clone(), self.context, self.prices)

    def _written(self, limit: int | None) -> Choices:
        return self._write(replace(self._searched(limit), limit=limit))

    def _searched(self, limit: int | None) -> Choices:
        with self.clock("search", "searching"):
            return self.search.run(limit)

    def _write(self, choices: Choices) -> Choices:
        """Writes choices; gives them with the memory that what is shared takes, too."""
        if choices is self.before.standing:
            return choices
        graph = self.search.graph
        with self.clock("write", "writing the plan"):
            self.before.restore()
            write_choices(graph, choices.of_node)
            if self.search.frees_early:
                graph.func.attributes[FREE_EARLY] = UnitAttr()
            if choices.limit is not None:
                footprint = self.search.footprint
                apart, most = made_again(graph, footprint, choices.of_node, choices.limit)
                write_again(apart)
                choices = replace(choices, bytes=most)
            propagate_shardings(self.module)  # constants, and what lies anyhow
        self.before.standing = choices
        return choices


def _is_sure(choices: Choices, limit: int) -> bool:
    """Whether a plan need not be partitioned to see if it fits."""
    return choices.bytes <= _SURE * limit - _JOINED


def _is_off(choices: Choices, trial: Trial | None) -> bool:
    """Whether a partitioned program takes longer than the search found."""
    return _seconds(choices, trial) > _OFF * choices.solution.cost * UNIT_S


def _is_dearer(found: Choices, cheapest: Choices) -> bool:
    return found.solution.cost > _DEARER * cheapest.solution.cost


def _seconds(choices: Choices, trial: Trial | None) -> float:
    """Of a step: those of the partitioned program, where there is one."""
    return choices.solution.cost * UNIT_S if trial is None else trial.price.total


def _priced_as(rival: Choices, trial: Trial, found: Choices) -> Choices:
    """A rival at the price of its partitioned program: the search knows it roughly."""
    searched, cost = rival.solution, round(trial.price.total / UNIT_S)
    least = min(found.solution.lower_bound, searched.cost)
    return replace(
        rival,
        solution=replace(searched, cost=cost, lower_bound=min(least, cost)),
        searched=replace(searched, lower_bound=least),
    )
