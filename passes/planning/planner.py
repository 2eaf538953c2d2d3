"""A plan for a module: searched, written into it, and held against the partitioned program."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, OpResult, SSAValue

from autopar.dialects.diagnostics import DiagnosticError, collect_remarks, remark
from autopar.dialects.shard import grid_of
from autopar.passes.cost.fusion import Fusions
from autopar.passes.cost.liveness import Memory, memory_of
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price, price_of
from autopar.passes.cost.report import CollectiveUse, collectives_of
from autopar.passes.importing.arguments import main_function
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import DECIDE, PARTITION
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.problem import FORBIDDEN
from autopar.passes.solver.solve import Plugin, SolveOptions

from .demands import Demands
from .plan_graph import PlanGraph
from .search import Choices, Search
from .writing import Attributes, write_choices

_TRIALS = 8
"""How many plans are tried before that of the least footprint."""
_SURE = 0.6
"""A plan whose footprint is below this share of the limit is not partitioned to see if it fits."""
_STEP = 0.005
"""The least share by which the next plan is sought lower."""
_WORTH_SAYING = 1e-3
"""Gaps above this share are told."""
_HEAVIEST = 5
"""Tensors that are named where nothing fits."""


class Trial:
    """What a plan comes to: one device of the partitioned program.

    `module` is a copy of the program whose plan is written; it is partitioned.
    """

    def __init__(self, module: ModuleOp, context: Context, prices: CostModel) -> None:
        with collect_remarks():  # those of the real partition tell the user
            run_passes(module, (*DECIDE, *PARTITION), context)
        self.module = module
        self._prices = prices
        self._fusions = Fusions()

    @cached_property
    def memory(self) -> Memory:
        """Of one device."""
        return memory_of(self.module, self._fusions)

    @cached_property
    def price(self) -> Price:
        """Seconds of one step."""
        return price_of(self.module, self._prices, self._fusions)

    @cached_property
    def collectives(self) -> list[CollectiveUse]:
        """All that it has."""
        return list(collectives_of(self.module))


@dataclass(frozen=True)
class Planned:
    """A plan that stands in its module."""

    graph: PlanGraph
    choices: Choices
    seconds: float
    """That planning took."""
    tried: Trial | None
    """The plan partitioned, where it had to be."""


def make_plan(
    module: ModuleOp,
    context: Context,
    prices: CostModel,
    options: SolveOptions,
    limit: int | None = None,
    demands: Demands | None = None,
    plugin: Plugin | None = None,
    progress: Callable[[str], None] | None = None,
) -> Planned:
    """Chooses and writes the shardings of @main, so that a device needs at most `limit` bytes.

    DiagnosticError, with the tensors that weigh most, where no plan is found that does.
    """
    start = time.perf_counter()
    func = main_function(module)
    graph = PlanGraph(func, AxisTable(grid_of(module), ()), prices, demands)
    search = Search(graph, options, plugin, progress)
    trial = None
    if limit is None:
        choices = search.run(None)
        _write(module, graph, choices.of_node)
    else:
        choices, trial = _fitting(module, context, prices, search, limit)
    if choices.solution.cost >= FORBIDDEN:
        raise DiagnosticError(
            func,
            "auto-shard: no plan does without the collectives that the options forbid: allow them, "
            "or take back shardings that demand them",
        )
    _tell(module, choices)
    return Planned(graph, choices, time.perf_counter() - start, trial)


def _fitting(
    module: ModuleOp, context: Context, prices: CostModel, search: Search, limit: int
) -> tuple[Choices, Trial | None]:
    """Writes the cheapest plan whose partitioned program fits.

    The footprint is an estimate: where the program is above it, the next plan is sought by as much
    lower, and at last the cheapest of those with the least footprint.
    """
    before = Attributes(module)
    least = search.footprint.peak(search.footprint.least())
    target, trials = max(limit, least), 0
    while True:
        choices, trials = search.run(target), trials + 1
        _write(module, search.graph, choices.of_node)
        if choices.bytes <= _SURE * limit:
            return choices, None
        trial = Trial(module.clone(), context, prices)
        peak = trial.memory.peak
        if peak <= limit:
            return choices, trial
        if target == least:
            raise _too_large(module, search, choices.of_node, peak, limit)
        before.restore()
        lower = floor((1 - _STEP) * min(limit * choices.bytes / peak, choices.bytes))
        target = max(lower, least) if trials < _TRIALS else least


def _write(module: ModuleOp, graph: PlanGraph, chosen: Sequence[int]) -> None:
    write_choices(graph, chosen)
    propagate_shardings(module)  # constants, and what lies anyhow


def _tell(module: ModuleOp, choices: Choices) -> None:
    func, solution = main_function(module), choices.solution
    if solution.gap > _WORTH_SAYING:
        remark(func, f"auto-shard: the plan is within {solution.gap:.2%} of the cheapest")
    if not solution.reproducible:
        remark(func, "auto-shard: the time limit ended the search; the plan is not reproducible")


def _too_large(
    module: ModuleOp, search: Search, chosen: Sequence[int], needed: int, limit: int
) -> DiagnosticError:
    heaviest = search.footprint.heaviest(chosen, _HEAVIEST)
    return DiagnosticError(
        main_function(module),
        f"auto-shard: no plan found fits into {_gib(limit)} a device; the one that needs least "
        f"takes {_gib(needed)} ({_gib(needed - limit)} too much): use more devices, smaller "
        "batches, microbatches or rematerialisation, or raise memory-per-device",
        [(value, f"{_name(value)} takes {_gib(size)} a device") for value, size in heaviest],
    )


def _name(value: SSAValue) -> str:
    if isinstance(value, BlockArgument):
        return f"argument {value.index} : {value.type}"
    assert isinstance(value, OpResult)
    return f"'{value.op.name}' : {value.type}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**27 else f"{size / 2**20:.3g} MiB"
