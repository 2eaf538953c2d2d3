"""The door of the solver: reductions, then exact methods where the core is small, search where not.

    problem = read_problem("A.json.gz")
    solution = solve(problem, SolveOptions(time_limit_s=60))

Anytime: there is a solution as soon as the problem is known to have one, and a lower bound with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np

from .arrays import Arrays, flatten
from .budget import UNITS_PER_SECOND, Budget
from .dual import Ascent
from .elimination import eliminate_all, elimination_order
from .enumeration import cheapest, is_for_trying
from .evaluate import evaluate, worst_overuse
from .exact import branch_and_bound
from .graph import Contradiction, Graph, build_graph, lost_bits, without_bits
from .local_search import Incumbent, LocalSearch
from .problem import FORBIDDEN, Ints, Problem, ProblemError
from .pruning import prune
from .reductions import reduce_graph

_EXACT_PAIRS = 60_000
"""Entries of all edges up to which branch and bound is tried,"""
_WORK_PER_PAIR = 1.5e4
"""if there is so much work left for each: no sooner is its first linear program solved."""
_TURNS = 16
"""Local searches in a phase, half of them from new starts."""
_MARGIN = 0.04
"""Share of the time limit that is kept for the last step and for what follows."""

_SHORT = 1.0e7
_SHORT_PER_PAIR = 2000.0
"""Work of each phase before branch and bound: these find and prune, and need not finish."""
_MOST_ENTRIES = 1 << 20
"""Of a table of dynamic programming."""

Plugin = Callable[[Problem], Sequence[int]]
"""A solver of one's own: a strategy for each node. `solve` checks its answers."""


class InfeasibleError(ProblemError):
    """Memory does not suffice whatever is chosen; says where, and which limit would do."""


@dataclass(frozen=True)
class SolveOptions:
    """How long to search, and from which random numbers."""

    time_limit_s: float = 60.0
    """Seconds from the call on."""
    seed: int = 0
    work: float | None = None
    """Work units (`budget`); None: what `time_limit_s` is worth on a slow core."""
    gap: float = 0.0
    """How far above the bound, as a share of the cost, a solution may be for the search to end."""

    def __post_init__(self) -> None:
        if not (isfinite(self.time_limit_s) and self.time_limit_s > 0):
            raise ValueError(
                f"time-limit={self.time_limit_s:g}: expected a number of seconds above 0"
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected a whole number of at least 0")
        if self.work is not None and not self.work > 0:
            raise ValueError(f"work is {self.work}; it must be above 0, or None")
        if not 0 <= self.gap < 1:
            raise ValueError(f"gap is {self.gap}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class Solution:
    """A choice that fits into memory, and how good it is known to be."""

    strategies: list[int]
    """One for each node."""
    cost: int
    lower_bound: int
    """No choice that fits costs less."""
    seconds: float
    reproducible: bool
    """False if the clock, not the work, ended the search."""

    @property
    def optimal(self) -> bool:
        """Whether the bound proves that nothing is cheaper."""
        return self.cost <= self.lower_bound

    @property
    def gap(self) -> float:
        """(cost - bound) / |cost|, 0 when optimal."""
        if self.optimal:
            return 0.0
        return float((self.cost - self.lower_bound) / max(1, abs(self.cost)))


def solve(
    problem: Problem,
    options: SolveOptions | None = None,
    *,
    starts: Iterable[Sequence[int]] = (),
    plugin: Plugin | None = None,
    progress: Callable[[str], None] | None = None,
) -> Solution:
    """The cheapest choice found that fits into memory; `InfeasibleError` if there is none.

    The cheapest of `starts`, choices that are known, is improved beside others. `plugin` answers
    instead of our own search; ProblemError where its answer does not hold.
    `progress` is told what is being done.
    """
    options = options or SolveOptions()
    start = time.perf_counter()
    deadline = start + (1 - _MARGIN) * options.time_limit_s
    budget = Budget(options.work or options.time_limit_s * UNITS_PER_SECOND, deadline)
    run = _Run(problem, options, budget, progress or _silent)
    if plugin is None:
        run.begin(starts)
        run.search()
    else:
        run.take(plugin)
    return Solution(
        run.strategies,
        run.cost,
        min(run.bound, run.cost),
        time.perf_counter() - start,
        not budget.clock_bound,
    )


def check_memory(problem: Problem) -> Ints:
    """(n,): the strategies that take least memory; `InfeasibleError` if even these do not fit.

    A node's lifetime does not depend on its strategy, so that these take least at every time.
    """
    counts = problem.num_strategies
    order = np.lexsort((problem.node_usages, np.repeat(np.arange(problem.num_nodes), counts)))
    entries = order[problem.node_offsets[:-1]]
    over = worst_overuse(problem, problem.node_usages[entries])
    if over is not None:
        raise InfeasibleError(
            f"infeasible: at time {over.time} the values alive take {over.used} even where each "
            f"takes its least, {over.missing} above usage_limit {over.limit}; "
            f"the least limit that can be met is {over.used}"
        )
    return entries - problem.node_offsets[:-1]


class _Run:
    """One call of `solve`: the best solution and bound so far, in exact integers."""

    def __init__(
        self,
        problem: Problem,
        options: SolveOptions,
        budget: Budget,
        progress: Callable[[str], None],
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.random = np.random.default_rng(options.seed)
        self.progress = progress
        self.gap = options.gap
        self._options = options
        thrifty = check_memory(problem)
        self.strategies = thrifty.tolist()
        self.cost = evaluate(problem, thrifty).cost
        self.bound = _least_sum(problem)
        self.has_start = False

    def begin(self, starts: Iterable[Sequence[int]]) -> None:
        """Choices to improve."""
        for start in starts:
            self.offer(np.array(start, np.int64))
            self.has_start = True

    def take(self, plugin: Plugin) -> None:
        """The answer of a plug-in; ProblemError where it is none, or takes too much memory."""
        answer = plugin(self.problem)
        judged = evaluate(self.problem, list(answer))
        if judged.overuse is not None:
            raise ProblemError(f"the plug-in's solution does not fit: {judged.overuse}")
        self.strategies, self.cost = [int(strategy) for strategy in answer], judged.cost

    def search(self) -> None:
        """Tries all choices where they are few and costs large. Searches without the last bits of
        costs that floating point does not add exactly."""
        bits = lost_bits(self.problem)
        if is_for_trying(self.problem):
            self.offer(cheapest(self.problem))
            self.bound = self.cost
        elif bits:
            rounded = _Run(
                without_bits(self.problem, bits), self._options, self.budget, self.progress
            )
            rounded.begin([self.strategies] if self.has_start else ())
            rounded.search()
            self.offer(np.array(rounded.strategies, np.int64))
            self._raise(rounded.bound << bits, _least_with_forbidden(self.problem))
        else:
            self._search_exactly()

    def _search_exactly(self) -> None:
        """First without forbidden entries; with them, very dear, only if there is no other way."""
        dear = _least_with_forbidden(self.problem)
        budget = self.budget.part(0.9) if dear is not None else self.budget
        bound = _Core(self, forbid=True).solve(budget)
        if bound is not None:
            self._raise(bound, dear)
        if dear is not None and self.cost > max(dear, self.bound):
            core = _Core(self, forbid=False)
            core.solve(self.budget)
            if core.optimal:
                self.bound = self.cost

    def _raise(self, bound: int, dear: int | None) -> None:
        """By bounds on solutions without forbidden entries, and on those with one if there are."""
        self.bound = max(self.bound, bound if dear is None else min(bound, dear))

    def offer(self, strategies: Ints) -> None:
        """Takes a solution if it fits and is cheaper than the best."""
        judged = evaluate(self.problem, strategies)
        if judged.feasible and judged.cost < self.cost:
            self.strategies, self.cost = strategies.tolist(), judged.cost


class _Core:
    """The reduced problem of a run, with forbidden entries left out or merely dear."""

    def __init__(self, run: _Run, *, forbid: bool) -> None:
        self._run = run
        self._forbid = forbid
        self._bound = -np.inf
        self.optimal = False
        """Whether no better solution is left: the run's is the best, or there is none."""
        self._pruned = False
        """Whether the graph keeps only what beats the run's solution."""

    def solve(self, budget: Budget) -> int | None:
        """Offers solutions to the run; a lower bound on all of this core, None if none is known."""
        run = self._run
        run.progress("reducing the problem")
        try:
            graph = build_graph(run.problem, forbid=self._forbid)
            reduce_graph(graph)
            self._search(graph, budget)
        except Contradiction:
            self.optimal = True
        if self.optimal:
            return run.cost  # what this core has is no cheaper
        return _whole(self._bound)

    def _search(self, graph: Graph, budget: Budget) -> None:
        """Exact methods where they reach, local search where not."""
        if self._without_memory(graph, budget):
            return
        run = self._run
        arrays, steps = flatten(graph), len(graph.trace)
        incumbent = Incumbent(arrays, run.gap, graph.constant)
        pairs = _pairs(arrays)
        small = max(_SHORT, _SHORT_PER_PAIR * pairs) if pairs <= _EXACT_PAIRS else float("inf")
        run.progress(f"pricing the memory of {_described(arrays)}")
        ascent = Ascent(arrays, incumbent, run.random)
        if run.has_start:
            known = graph.project(np.array(run.strategies, np.int64))
            choice = np.array([known[node] for node in arrays.nodes.tolist()], np.int64)
            incumbent.offer(choice, arrays.load(choice))
        dual = ascent.run(budget.part(0.3, at_most=small))
        self._raise(dual.bound + graph.constant)
        self._offer(graph, arrays, incumbent.choice, steps)
        run.progress(f"searching {_described(arrays)}")
        self._explore(ascent, budget.part(0.8, at_most=small))
        self._offer(graph, arrays, incumbent.choice, steps)
        if run.gap and incumbent.meets(dual.bound):
            return
        if incumbent.feasible and graph.exact:
            self._pruned = True
            prune(graph, arrays, ascent.messages, dual, incumbent.cost)
            reduce_graph(graph)
        if not self._exactly(graph, budget):
            self._explore(ascent, budget)
            self._offer(graph, arrays, incumbent.choice, steps)

    def _explore(self, ascent: Ascent, budget: Budget) -> None:
        """Local searches by turns from the best choice and from new ones of the dual."""
        best, arrays, prices = ascent.incumbent, ascent.arrays, ascent.best.prices
        turn = budget.left / _TURNS
        while not budget.exhausted and not best.meets(ascent.best.bound):
            search = LocalSearch(arrays, best, prices, self._run.random)
            search.run(budget.part(1.0, at_most=turn), ascent.best.bound)
            other = Incumbent(arrays, best.gap, best.constant)
            ascent.candidate(budget, other)
            search = LocalSearch(arrays, other, prices, self._run.random)
            search.run(budget.part(1.0, at_most=turn), ascent.best.bound)
            best.take(other)

    def _without_memory(self, graph: Graph, budget: Budget) -> bool:
        """Dynamic programming where the width allows; whether that settles it."""
        order = elimination_order(graph, _MOST_ENTRIES)
        if order is None:
            return False
        chosen, cost = eliminate_all(graph, order, budget)
        self._raise(cost + graph.constant)
        strategies = self._expanded(graph, chosen, None)
        self._run.offer(strategies)
        self.optimal = graph.exact and evaluate(self._run.problem, strategies).feasible
        return self.optimal

    def _exactly(self, graph: Graph, budget: Budget) -> bool:
        """Branch and bound where the core is small; whether that settles it, or comes as near to
        the bound as the search is to."""
        arrays, steps = flatten(graph), len(graph.trace)
        most = min(_EXACT_PAIRS, budget.left / _WORK_PER_PAIR)
        if _pairs(arrays) > most or not graph.exact:
            return False
        self._run.progress(f"branch and bound on {_described(arrays)}")
        tolerance = self._run.gap * abs(self._run.cost)
        result = branch_and_bound(arrays, budget, 0.7 * budget.seconds_left, tolerance)
        if result.choice is not None:
            self._offer(graph, arrays, result.choice, steps)
        self.optimal = result.proved
        bound = result.bound + graph.constant
        self._raise(min(bound, self._run.cost) if self._pruned else bound)
        return result.proved or result.is_near

    def _raise(self, bound: float) -> None:
        self._bound = max(self._bound, bound)

    def _offer(self, graph: Graph, arrays: Arrays, choice: Ints, steps: int) -> None:
        chosen = dict(zip(arrays.nodes.tolist(), choice.tolist(), strict=True))
        self._run.offer(self._expanded(graph, chosen, steps))

    def _expanded(self, graph: Graph, chosen: dict[int, int], steps: int | None) -> Ints:
        """Strategies of the problem's own nodes."""
        return graph.expand(chosen, steps)[: self._run.problem.num_nodes]


def _least_sum(problem: Problem) -> int:
    """The least entries of all nodes and edges together: a bound that always holds."""
    return sum(sum(least.tolist()) for _, _, least in _places(problem))


def _least_with_forbidden(problem: Problem) -> int | None:
    """A bound on solutions with a forbidden entry; None if the problem has no such entry."""
    dearer: list[int] = []
    for flat, counts, least in _places(problem):
        huge = flat >= FORBIDDEN
        if huge.any():  # differences of 64-bit integers fit without their sign
            above = flat.astype(np.uint64) - np.repeat(least, counts).astype(np.uint64)
            dearer.append(int(above[huge].min()))
    return _least_sum(problem) + min(dearer) if dearer else None


def _places(problem: Problem) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Of the nodes, then of the edges: (all entries, entries of each, the least of each)."""
    for flat, offsets in (
        (problem.node_costs, problem.node_offsets),
        (problem.edge_costs, problem.cost_offsets),
    ):
        if len(flat):
            yield flat, np.diff(offsets), np.minimum.reduceat(flat, offsets[:-1])


def _whole(bound: float) -> int | None:
    """A bound on whole costs from one in floating point; None for none."""
    if not isfinite(bound):
        return None
    return ceil(bound - 1e-9 * max(1.0, abs(bound)))


def _pairs(arrays: Arrays) -> int:
    return len(arrays.entries) // 2


def _described(arrays: Arrays) -> str:
    return f"{arrays.num_nodes} nodes, {len(arrays.source) // 2} edges"


def _silent(_text: str) -> None:
    pass
