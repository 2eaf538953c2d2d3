"""The cheapest choices of a plan graph, within the memory of a device.

Memory is a constraint at every time of the program. It binds at few: so the problem is solved
without it first, then with a price on the times at which plans need most (`memory_prices`). Where
that leaves a gap and the problem is small, it is solved with these times as constraints, one more
as long as the plan is above the limit at another (constraint generation; Dantzig, Fulkerson,
Johnson 1954).
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from autopar.dialects.tensors import num_bytes
from autopar.passes.progress import tell
from autopar.passes.solver.budget import UNITS_PER_SECOND
from autopar.passes.solver.problem import FORBIDDEN, Ints, Problem
from autopar.passes.solver.solve import InfeasibleError, Plugin, Solution, SolveOptions, solve

from .coarse import Kept, coarse_choices
from .footprint import Bytes, Copy, Footprint, freed_early
from .memory_prices import MemoryPrices, Priced, cost_of
from .plan_graph import PlanGraph
from .problems import ProblemBuilder, multiplied, whole_costs
from .repeats import Repeater, Repeats

_GAP = 3e-4
"""Share of a step's time that is not searched for."""
_SMALL = 1000
"""Nodes up to which memory is also tried as a constraint,"""
_ROUNDS = 4
"""at most so often, each time at one time more."""
_CALLS = 6
"""and, over all limits that are tried, so often in all."""
_WORK = 1.5e8
"""Units of work for one call of the solver: about 3 seconds."""
_PRICED_WORK, _PRICED_GAP = 1e8, 2e-3
"""Of one call, and the share that is not searched for, where memory has a price."""
_LEANER = 4
"""Choices that need less memory, which are sought so often."""
_KNOWN = 3
"""The plans before, so many of them, that one at other prices is sought from."""
_Key = int | tuple[int, int]
"""Of what takes memory: a node, or the ends of copies."""
_NONE: Mapping[tuple[int, int], Ints] = {}
_NEGLIGIBLE = 1e-3, 0.1
"""Nodes whose choices change memory least are taken at their most, together no more than these
shares of the limit, and of what the thriftiest choices leave of it."""


@dataclass(frozen=True)
class Choices:
    """A choice for each node of a plan graph."""

    of_node: list[int]
    solution: Solution
    """As the solver gave it, parts that repeat taken together; costs in 1e-12 seconds. See
    `searched` for a rival."""
    bytes: int
    """In use at most, by the footprint."""
    limit: int | None = None
    """The bytes that they were sought within, and that what is read again is shared within."""
    searched: Solution | None = None
    """Where the partitioned program was found to be cheaper than that of the cheapest choices: what
    the search says of these ones. `solution` has the cost of the partitioned program then."""

    @property
    def by_search(self) -> Solution:
        """At the search's own prices."""
        return self.searched or self.solution

    @property
    def is_rival(self) -> bool:
        """Whether they were found among rivals, and taken for their partitioned program."""
        return self.searched is not None

    @property
    def gap(self) -> float:
        """The share of the cost, by the search's own prices, that may be saved."""
        return self.by_search.gap

    @property
    def is_optimal(self) -> bool:
        """Whether nothing is cheaper, by the search's own prices."""
        return self.by_search.optimal


class Search:
    """Solves one graph, under one limit or several."""

    def __init__(
        self,
        graph: PlanGraph,
        options: SolveOptions,
        plugin: Plugin | None = None,
        footprint: Footprint | None = None,
    ) -> None:
        """`footprint`: where it is known."""
        self.graph = graph
        self._known_footprint = footprint
        self.frees_early = False
        """Whether memory is counted as where what frees it runs early (the pass `free-early`)."""
        work = min(options.work or options.time_limit_s * UNITS_PER_SECOND, _WORK)
        self._work = work
        self._options = replace(options, gap=max(options.gap, _GAP), work=work)
        self._plugin = plugin
        self._costs = [whole_costs(node.seconds) for node in graph.nodes]
        self._edges = {ends: whole_costs(seconds) for ends, seconds in graph.edges.items()}
        self._repeater = Repeater(len(graph.nodes), self._edges)
        self._kinds = [own.tobytes() for own in self._costs]
        self._coarse = coarse_choices(graph)
        self._found: dict[int | None, Choices] = {}
        """By the limit."""
        self._known: list[list[int]] = []
        self._constrained_calls = [0]
        """Shared with the search that frees memory early."""
        self._solved_prices: dict[tuple[tuple[int, float], ...], Priced] = {}

    @property
    def footprint(self) -> Footprint:
        """What choices take, counted when it is first asked for."""
        if self._known_footprint is None:
            self._known_footprint = Footprint(self.graph)
        return self._known_footprint

    def freeing_early(self) -> Search:
        """The same, where memory is counted as in a program that frees it early."""
        found = copy(self)
        found.frees_early = True
        late = self._known_footprint
        found._known_footprint = early = freed_early(self.graph, late)
        if late is None or not early.is_same(late):
            found._found = {}
            # whatever the memory is: what is solved without a price on it
            found._solved_prices = {
                prices: solved for prices, solved in self._solved_prices.items() if not prices
            }
        return found

    def on_coarser_grid(self, kept: Sequence[Kept]) -> Search:
        """The same, where nodes have but these choices, if they have one of them (`coarse`)."""
        found = copy(self)
        found._costs = [_of_kept(*own) for own in zip(self._costs, kept, strict=True)]
        found._kinds = [own.tobytes() for own in found._costs]
        found._coarse, found._known = [], []
        found._found, found._solved_prices = {}, {}
        return found

    def held_by_cheapest(self) -> int:
        """The bytes of the arguments in the cheapest choices of all: these need no less memory,
        whenever anything runs."""
        chosen = self._priced({}).choices
        placed = ((arg, self.graph.node_of(arg)) for arg in self.graph.func.body.block.args)
        return sum(
            int(num_bytes(arg.type) / self.graph.parts(node)[chosen[node]])
            for arg, node in placed
            if node is not None
        )

    def run(self, limit: int | None) -> Choices:
        """The cheapest choices that need no more than a limit (bytes); where none are found, those
        that need least."""
        if limit in self._found:
            return self._found[limit]
        cheapest = self._found.get(sys.maxsize)
        if limit is None:
            found = self._run(None)
        elif cheapest is not None and cheapest.bytes <= limit:
            found = cheapest
        else:
            found = self._cheapest_within(limit, self._run(limit))
        self._found[limit] = found
        return found

    def _cheapest_within(self, limit: int, found: Choices) -> Choices:
        """What was found, or what was within less memory if that is cheaper: searches end early."""
        fitting = [other for other in self._found.values() if other.bytes <= limit]
        if found.bytes <= limit or not fitting:
            fitting.append(found)
        best = min(fitting, key=lambda choices: choices.solution.cost)
        bound = min(found.solution.lower_bound, best.solution.cost)
        return replace(best, solution=replace(best.solution, lower_bound=bound))

    def _run(self, limit: int | None) -> Choices:
        if limit is None or self._plugin is not None:
            return self._constrained(limit)
        start = time.perf_counter()
        prices = MemoryPrices(self._priced, self.footprint, self._costs, self._edges, limit)
        priced = prices.run(_GAP)
        seconds = time.perf_counter() - start
        solution = Solution(
            priced.choices, priced.cost, priced.lower_bound, seconds, priced.reproducible
        )
        found = Choices(priced.choices, solution, self.footprint.peak(priced.choices))
        is_small = len(self._costs) <= _SMALL and self._constrained_calls[0] < _CALLS
        if priced.times and solution.gap > _GAP and is_small:
            with suppress(InfeasibleError):  # known in the trials: then what needs least is tried
                exact = self._constrained(limit, priced.times)
                bound = max(priced.lower_bound, exact.solution.lower_bound)
                if exact.bytes <= limit and exact.solution.cost < priced.cost:
                    found, solution = exact, exact.solution
                bound = min(bound, solution.cost)
                return replace(found, solution=replace(solution, lower_bound=bound))
        return found

    def within(self, bound: Mapping[int, Kept]) -> Choices:
        """The cheapest choices where some nodes have but these, whatever memory they need."""
        costs = list(self._costs)
        for node, may in bound.items():
            costs[node] = np.where(may, costs[node], FORBIDDEN)
        repeats = self._repeater.find([own.tobytes() for own in costs])
        solution, choices = self._solve(self._builder(repeats, costs), repeats)
        return Choices(choices, solution, self.footprint.peak(choices))

    def leaner(self, than: Choices, worth: float) -> Iterator[Choices]:
        """The cheapest choices where memory has a price at the times when others, and those before,
        need most: all that others need then costs the share `worth` of what they cost."""
        price = worth * than.solution.cost / max(1, than.bytes)
        times: list[int] = []
        last = than.of_node
        while len(times) < _LEANER:
            now = int(self.footprint.over_time(last).argmax())
            if now in times:
                return
            times.append(now)
            priced = self._priced(dict.fromkeys(times, price / len(times)))
            last = priced.choices
            cost = cost_of(last, self._costs, self._edges)
            bound = min(cost, than.solution.lower_bound)
            solution = Solution(last, cost, bound, 0.0, priced.reproducible)
            yield Choices(last, solution, self.footprint.peak(last))

    def problem(self, limit: int | None) -> Problem:
        """All of it, with memory at every time: Alpa's integer program, for other solvers."""
        builder = ProblemBuilder()
        for costs in self._costs:
            builder.add(costs)
        for (one, two), costs in self._edges.items():
            builder.join(one, two, costs)
        if limit is not None:
            for item in self.footprint.items:
                usage = np.ceil(item.bytes).astype(np.int64)
                builder.occupy(item.node, (item.first, item.last + 1), usage)
            copies: dict[tuple[int, int], list[Copy]] = defaultdict(list)
            for held in self.footprint.copies:
                copies[held.one, held.two].append(held)
            for ends, own in copies.items():
                usage = np.ceil([held.bytes for held in own]).astype(np.int64)
                builder.hold(*ends, [(held.first, held.last + 1) for held in own], usage)
        return builder.problem(limit)

    def _priced(self, prices: Mapping[int, float]) -> Priced:
        """Solves with prices; the next limit meets many of the same."""
        key = tuple(prices.items())
        found = self._solved_prices.get(key)
        if found is None:
            found = self._solved_prices[key] = self._solve_priced(prices)
        return found

    def _solve_priced(self, prices: Mapping[int, float]) -> Priced:
        costs, kinds = list(self._costs), list(self._kinds)
        for now, price in prices.items():
            for node, used in self.footprint.at(now).items():
                dearer = costs[node] + _whole(price * used)
                costs[node] = np.where(costs[node] < FORBIDDEN, dearer, FORBIDDEN)
                kinds[node] = costs[node].tobytes()
        dearer = self._copies(prices)
        marks = {ends: table.tobytes() for ends, table in dearer.items()}
        repeats = self._repeater.find(kinds, dearer=marks)
        starts = self._known or self.starts(repeats, costs, dearer)
        options = self._options
        if prices:  # of which there are many, each of use for a bound
            work = min(_PRICED_WORK, self._work)
            options = replace(options, gap=max(options.gap, _PRICED_GAP), work=work)
        builder = self._builder(repeats, costs, dearer=dearer)
        solution, choices = self._solve(builder, repeats, options, starts)
        self._known = [*self._known, choices][-_KNOWN:]
        return Priced(choices, solution.lower_bound, repeats, solution.reproducible)

    def starts(
        self,
        repeats: Repeats,
        costs: Sequence[Ints],
        dearer: Mapping[tuple[int, int], Ints] = _NONE,
    ) -> list[list[int]]:
        """The cheapest choices on coarser grids."""
        found: list[list[int]] = []
        for coarse in self._coarse:
            own = list(costs)
            for node in repeats.kept:
                own[node] = _of_kept(costs[node], coarse[node])
            found.append(self._solve(self._builder(repeats, own, dearer=dearer), repeats)[1])
        return found

    def _solve(
        self,
        builder: ProblemBuilder,
        repeats: Repeats,
        options: SolveOptions | None = None,
        starts: Iterable[Sequence[int]] = (),
    ) -> tuple[Solution, list[int]]:
        """Of a problem of the kept nodes: what the solver says, and the choices of all."""
        known = (builder.strategies([start[node] for node in repeats.kept]) for start in starts)
        solution = solve(
            builder.problem(),
            options or self._options,
            starts=[start for start in known if start is not None],
            progress=_tell_solving,
        )
        return solution, repeats.expanded(builder.choices(solution.strategies))

    def _copies(self, prices: Mapping[int, float]) -> dict[tuple[int, int], Ints]:
        """What copies cost at these prices, per edge."""
        found: dict[tuple[int, int], Ints] = {}
        for now, price in prices.items():
            for ends, used in self.footprint.copies_at(now).items():
                found[ends] = found.get(ends, 0) + _whole(price * used)
        return {ends: table for ends, table in found.items() if table.any()}

    def _constrained(self, limit: int | None, times: Sequence[int] = ()) -> Choices:
        """With some times as constraints, and those at which the plans before were above the
        limit."""
        spare = 0.0
        if limit is not None:
            left = limit - self.footprint.peak(self.footprint.least())
            spare = min(_NEGLIGIBLE[0] * limit, _NEGLIGIBLE[1] * left)
        met = list(times)
        while True:
            found = self._solved(limit, met, spare)
            used = self.footprint.over_time(found.of_node)
            worst = int(used.argmax())
            self._constrained_calls[0] += 1
            is_last = len(met) == len(times) + _ROUNDS - 1 or self._constrained_calls[0] >= _CALLS
            is_last = is_last and self._plugin is None
            if limit is None or used[worst] <= limit or worst in met or is_last:
                return found
            met.append(worst)

    def _solved(self, limit: int | None, times: Sequence[int], spare: float) -> Choices:
        rows = [_without_negligible(self._usages(time), spare) for time in times]
        usages = [_whole_rows(rows, node, costs.shape) for node, costs in enumerate(self._costs)]
        held = {ends: _whole_rows(rows, ends, self._shape(ends)) for ends in _pairs(rows)}
        kinds = [(kind, usage.tobytes()) for kind, usage in zip(self._kinds, usages, strict=True)]
        marks = {ends: usage.tobytes() for ends, usage in held.items()}
        coupled = {node for node, usage in enumerate(usages) if usage.any()}.union(*held)
        repeats = self._repeater.find(kinds, coupled, marks)
        fixed = [ceil(always) for _, always in rows]
        builder = self._builder(repeats, self._costs, usages, held, fixed)
        problem = builder.problem(limit if fixed else None)
        solution = solve(problem, self._options, plugin=self._plugin, progress=_tell_solving)
        chosen = builder.choices(solution.strategies)
        choices = repeats.expanded(chosen[: len(repeats.kept)])
        return Choices(choices, solution, self.footprint.peak(choices))

    def _usages(self, time: int) -> dict[_Key, Bytes]:
        """The bytes in use at a time: of nodes, and of copies by their ends."""
        return {**self.footprint.at(time), **self.footprint.copies_at(time)}

    def _shape(self, ends: tuple[int, int]) -> tuple[int, ...]:
        return tuple(len(self._costs[end]) for end in ends)

    def _builder(
        self,
        repeats: Repeats,
        costs: Sequence[Ints],
        usages: Sequence[Ints] = (),
        held: Mapping[tuple[int, int], Ints] = _NONE,
        fixed: Sequence[int] = (),
        dearer: Mapping[tuple[int, int], Ints] = _NONE,
    ) -> ProblemBuilder:
        """The problem of the kept nodes; then come the nodes that only take memory."""
        kept = repeats.kept
        number = {node: index for index, node in enumerate(kept)}
        of = {copy: number[node] for node in kept for copy in repeats.stands_for[node]}
        builder = ProblemBuilder()
        for node in kept:
            count = len(repeats.stands_for[node])
            builder.add(multiplied(count, costs[node]))
        alike = Counter(
            (of[one], of[two], table) for (one, two), table in self._repeater.tables.items()
        )
        joined: set[tuple[int, int, int]] = set()
        for (one, two), table in self._repeater.tables.items():
            key = of[one], of[two], table
            if key not in joined:
                joined.add(key)
                builder.join(of[one], of[two], self._edges[one, two], alike[key])
        for (one, two), table in dearer.items():  # multiples of equal ones add up
            builder.join(of[one], of[two], table)
        for node in kept if fixed else ():
            count = len(repeats.stands_for[node])
            builder.take(number[node], count * usages[node])
        copies: dict[tuple[int, int], Ints] = {}
        for (one, two), usage in held.items():
            ends = of[one], of[two]
            copies[ends] = copies[ends] + usage if ends in copies else usage
        for ends, usage in copies.items():
            builder.hold(*ends, [(row, row + 1) for row in range(len(fixed))], usage)
        for row, size in enumerate(fixed):
            builder.occupy(builder.add(np.zeros(1, np.int64)), (row, row + 1), np.array([size]))
        return builder


def _tell_solving(text: str) -> None:
    tell(f"auto-shard: {text}")


def _of_kept(costs: Ints, kept: Kept) -> Ints:
    """The costs of a node where it has but these choices, if it has one of them."""
    own = np.where(kept, costs, FORBIDDEN)
    return own if (own < FORBIDDEN).any() else costs


def _whole(costs: Bytes) -> Ints:
    """Whole costs; those of very dear bytes are no dearer than what is forbidden."""
    return np.rint(np.minimum(costs, float(FORBIDDEN))).astype(np.int64)


def _whole_rows(
    rows: Sequence[tuple[dict[_Key, Bytes], float]], key: _Key, shape: tuple[int, ...]
) -> Ints:
    """(rows, choices) of a node, (rows, choices of one, choices of the other) of copies: the bytes
    at each of the times that count."""
    found = np.zeros((len(rows), *shape), np.int64)
    for row, (usages, _) in enumerate(rows):
        if key in usages:
            found[row] = np.ceil(usages[key])
    return found


def _pairs(rows: Sequence[tuple[dict[_Key, Bytes], float]]) -> list[tuple[int, int]]:
    """The ends of all copies."""
    return [*dict.fromkeys(key for usages, _ in rows for key in usages if isinstance(key, tuple))]


def _without_negligible(usages: dict[_Key, Bytes], spare: float) -> tuple[dict[_Key, Bytes], float]:
    """The bytes at a time without the nodes and copies that change least, and these at their
    most."""
    fixed = 0.0
    kept = dict(usages)
    swings = {key: float(np.ptp(usage)) for key, usage in usages.items()}
    for key in sorted(swings, key=lambda key: swings[key]):
        spare -= swings[key]
        if spare < 0:
            break
        fixed += float(kept.pop(key).max())
    return kept, fixed
