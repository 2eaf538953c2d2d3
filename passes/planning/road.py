"""From a search to a plan that stands in the module, and to its partitioned program."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr

from autopar.dialects.autopar import FREE_EARLY
from autopar.passes.copying import copied
from autopar.passes.cost.op_kinds import LOOPS
from autopar.passes.cost.prices import CostModel
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.solve import SolveOptions

from .again import made_again
from .clock import Clock
from .coarse import Kept
from .problems import UNIT_S
from .search import Choices, Search
from .trial import Trial
from .writing import Unplanned, write_again, write_choices

_SMALL = 4000
"""Ops up to which a plan is held against its rivals, up to a second each, and under a limit more
plans are tried."""
_LOOPED = 16000
"""As `_SMALL`, of a plan and its rivals where there are loops: they are fewer, then."""
_TINY = 1000
"""Ops up to which the search is run twice for rivals, and these are more, as for short steps."""
_FEW_MESSAGES = 100
"""A step that takes no longer than so many messages of no bytes is short."""
_OFF = 1.1
"""Where the partitioned program takes that much longer than the search found, the search is off."""

_Key = tuple[tuple[int, ...], int | None, bool]
"""A plan: the choices, the limit that they were sought within, whether memory is freed early."""


@dataclass(frozen=True)
class Road:
    """From a search to a plan that stands in the module, with memory that is freed late or early
    (the pass `free-early`)."""

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

    @cached_property
    def early(self) -> Road:
        """Where memory is freed early, of a road on which it is freed late."""
        with self.clock("search", "counting memory that is freed early"):
            self.before.restore()  # a plan has copies of constants that are in no graph
            return replace(self, search=self.search.freeing_early(), late=self)

    def both_ways(self) -> Iterator[Road]:
        """This road, and that on which memory is freed the other way: counting it takes a while, so
        it is made when it is asked for."""
        yield self
        yield self.late or self.early

    @property
    def is_small(self) -> bool:
        return len(self.search.graph.places.ops) <= _SMALL

    @cached_property
    def has_loops(self) -> bool:
        """Whether some collectives are in loops, which the search takes to meet no others."""
        return any(op.name in LOOPS for op in self.search.graph.places.ops)

    @property
    def is_judged(self) -> bool:
        """Whether a plan is held against rivals."""
        return self.is_small or (self.has_loops and len(self.search.graph.places.ops) <= _LOOPED)

    @property
    def is_tiny(self) -> bool:
        return len(self.search.graph.places.ops) <= _TINY

    def is_short(self, choices: Choices) -> bool:
        """Whether messages make much of a step, whatever their bytes."""
        table = self.search.graph.table
        axes = table.axes(range(len(table.sizes)))
        message = self.prices.collective_seconds("all_reduce", 0.0, axes)
        return choices.solution.cost * UNIT_S < _FEW_MESSAGES * message

    def cheapest(self) -> Found:
        """Writes the cheapest plan of all."""
        return Found(self, self.written(None))

    def written(self, limit: int | None) -> Choices:
        """Writes the cheapest plan that the search finds within a limit."""
        return self.write(replace(self.searched(limit), limit=limit))

    def searched(self, limit: int | None) -> Choices:
        with self.clock("search", "searching"):
            return self.search.run(limit)

    def completed(self, bound: Mapping[int, Kept], search: Search) -> Choices:
        """The cheapest plan in which some nodes have but these choices."""
        with self.clock("search", "searching a plan of one kind"):
            return search.within(bound)

    def write(self, choices: Choices) -> Choices:
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

    def tried(self) -> Trial:
        """The plan that stands in the module, partitioned."""
        with self.clock("try", "partitioning a plan, to see what it takes"):
            return Trial(copied(self.module), self.context, self.prices)

    def forbidden_of(self, trial: Trial) -> frozenset[str]:
        """The collectives of a partitioned program that options forbid: the search knows of those
        that it prices."""
        forbidden = self.search.graph.forbidden
        return forbidden and forbidden.intersection(use.kind for use in trial.collectives)

    def key(self, choices: Choices) -> _Key:
        """What a plan is judged by."""
        return tuple(choices.of_node), choices.limit, self.search.frees_early


@dataclass(frozen=True)
class Found:
    """A plan, and the road on which it was found."""

    road: Road
    choices: Choices
    trial: Trial | None = None
    """Where one was needed."""

    @property
    def seconds(self) -> float:
        """Of a step: those of the partitioned program, where there is one."""
        return self._searched_seconds if self.trial is None else self.trial.price.total

    @cached_property
    def judged(self) -> float:
        """The seconds by which it is held against rivals: inf where options forbid what its
        partitioned program does."""
        does_wrong = self.trial is not None and self.road.forbidden_of(self.trial)
        return math.inf if does_wrong else self.seconds

    @property
    def all_reduced(self) -> float:
        """The ring bytes of the all_reduces of its partitioned program."""
        uses = () if self.trial is None else self.trial.collectives
        return sum(use.times * use.num_bytes for use in uses if use.kind == "all_reduce")

    @property
    def is_off(self) -> bool:
        """Whether the partitioned program takes longer than the search found."""
        return self.seconds > _OFF * self._searched_seconds

    @property
    def _searched_seconds(self) -> float:
        return self.choices.solution.cost * UNIT_S

    def written(self) -> Found:
        """The same; it stands in the module then."""
        return replace(self, choices=self.road.write(self.choices))

    def partitioned(self) -> Found:
        """The same with a trial, where plans are held against rivals, so that two compare alike."""
        if self.trial is not None or not self.road.is_judged:
            return self
        return replace(self.written(), trial=self.road.tried())
