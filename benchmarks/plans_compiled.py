"""auto-shard against experts, by what XLA compiles of both for 8 virtual CPU devices."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.diagnostics import DiagnosticError
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel

from .cases import (
    Case,
    Figures,
    Step,
    figures_of,
    kind_of,
    limit_of,
    lowered,
    step_of,
    without_plan,
)
from .experts import Expert, experts_of
from .hlo_price import Work, work_of
from .options import grid_text
from .plans_run import Compiled, compiled_jit, compiled_ours, measured

_APART = 0.1
"""What is modelled and what is compiled differ by so much, or are said to."""


class _Experts:
    """The experts of a case, each compiled when it is first asked for."""

    def __init__(self, model: str, step: Step, case: Case) -> None:
        self._step, self._case = step, case
        self._experts = {one.name: one for one in experts_of(case.grid, **kind_of(model))}
        self._modules = {name: case.expert(one) for name, one in self._experts.items()}
        self._compiled: dict[str, tuple[Compiled, Compiled]] = {}

    def figures(self, prices: CostModel) -> list[Figures]:
        """As the model has them, the best ones first."""
        found = [figures_of(name, module, prices) for name, module in self._modules.items()]
        return sorted(found, key=lambda figures: figures.price.total)

    def compiled(self, name: str) -> tuple[Compiled, Compiled]:
        """By our partitioner, and by plain jax.jit."""
        if name not in self._compiled:
            ours = compiled_ours(f"{name} by autopar", self._modules[name].clone())
            self._compiled[name] = ours, self._by_jit(self._experts[name])
        return self._compiled[name]

    def _by_jit(self, expert: Expert) -> Compiled:
        return compiled_jit(self._step, expert, self._case.grid)


class Row(NamedTuple):
    """A compiled plan at the rates of a cluster."""

    plan: Compiled
    work: Work
    modelled: Figures | None
    """None: not our partitioner's."""

    @property
    def seconds(self) -> float:
        return self.work.price.total

    def __str__(self) -> str:
        work, price = self.work, self.work.price
        sent = sorted(work.sent.items(), key=lambda item: -item[1])
        by_axes = ", ".join(
            f"{kind}({','.join(axes)}) {n / 2**20:.2f}" for (kind, axes), n in sent if n
        )
        parts = price.compute, price.memory, price.communication_total
        return (
            f"{self.plan.name:36} {1e3 * price.total:9.3f} ms compiled "
            f"({', '.join(f'{1e3 * part:.3f}' for part in parts)}), "
            f"{work.flops / 1e9:9.3f} GFLOP, {self.plan.peak / 2**20:9.2f} MiB, sent "
            f"{sum(work.sent.values()) / 2**20:8.2f} MiB in {work.messages:.0f}: {by_axes}"
        )

    def against_model(self) -> str:
        """Compiled / modelled."""
        found = self.modelled
        if found is None:
            return ""
        pairs = {
            "time": (self.seconds, found.price.total),
            "FLOPs": (self.work.flops, found.flops),
            "sent": (sum(self.work.sent.values()), found.ring_bytes),
            "memory": (self.plan.peak, found.memory),
        }
        texts: list[str] = []
        for name, (compiled, modelled) in pairs.items():
            share = compiled / modelled if modelled else 1.0
            texts.append(f"{name} {share:.3f}{'!' * (abs(share - 1) > _APART)}")
        return f"{1e3 * found.price.total:.3f} ms modelled; compiled / modelled: {', '.join(texts)}"


def compiled_ratios(args: argparse.Namespace) -> dict[str, float]:
    """auto / the best expert, as compiled."""
    ratios: dict[str, float] = {}
    for model, _, case, experts in _cases(args):
        for preset, memory in product(args.clusters, args.memory):
            title = f"{model} {grid_text(case.grid)} {preset} {memory}"
            prices = CostModel.of(read_cluster(preset), case.grid)
            print(title, flush=True)
            ratios[title] = _compare(case, experts, prices, memory, args.best)
    return ratios


def _cases(args: argparse.Namespace) -> Iterator[tuple[str, Step, Case, _Experts]]:
    for model in args.models:
        step = step_of(model, args.layers or None, args.batch or 16, wide=True)
        module = import_module(lowered(step))
        for grid in args.grids:
            case = Case(module, step.paths, grid)
            yield model, step, case, _Experts(model, step, case)


def _compare(case: Case, experts: _Experts, prices: CostModel, memory: str, best: int) -> float:
    """Prints a case; gives the ratio of compiled prices, or what `without_plan` says."""
    figures = experts.figures(prices)
    limit = limit_of(memory, prices, figures)
    try:
        auto = case.auto(prices, limit)
    except DiagnosticError as error:
        return without_plan(error, figures, limit)
    rows = [_auto_row(auto, case, prices)]
    fitting = [one for one in figures if one.memory <= limit] or figures
    for one in fitting[: best or None]:
        ours, by_jit = experts.compiled(one.name)
        rows.append(Row(ours, work_of(ours.hlo, case.grid, prices), one))
        rows.append(Row(by_jit, work_of(by_jit.hlo, case.grid, prices), None))
    return _report(rows, fitting[0], limit)


def _auto_row(auto: ModuleOp, case: Case, prices: CostModel) -> Row:
    figures = figures_of("auto", auto, prices)
    plan = compiled_ours("auto", auto)
    return Row(plan, work_of(plan.hlo, case.grid, prices), figures)


def _report(rows: Sequence[Row], best: Figures, limit: int) -> float:
    """Prints the rows, auto's first; gives auto / the best of the others that fit as compiled."""
    for row in rows:
        mark = "" if row.plan.peak <= limit else f"   above {limit / 2**20:.2f} MiB"
        print(f"  {row}{mark}", flush=True)
        if row.modelled:
            print(f"      {row.against_model()}", flush=True)
    auto, *others = rows
    fitting = [row for row in others if row.plan.peak <= limit]
    judge = min(fitting or others, key=lambda row: row.seconds)
    assert auto.modelled is not None
    modelled = auto.modelled.price.total / best.price.total
    ratio = auto.seconds / judge.seconds
    print(
        f"  auto / best expert: {ratio:.4f} compiled ({judge.plan.name}), "
        f"{modelled:.4f} modelled ({best.name})",
        flush=True,
    )
    return ratio


def measured_ratios(args: argparse.Namespace) -> dict[str, float]:
    """auto / the fastest of the best experts by plain jax.jit, by the clock."""
    ratios: dict[str, float] = {}
    for model, step, case, experts in _cases(args):
        for preset in args.clusters:
            title = f"{model} {grid_text(case.grid)} {preset}"
            prices = CostModel.of(read_cluster(preset), case.grid)
            print(title, flush=True)
            plans = [compiled_ours("auto", case.auto(prices, None))]
            names = [figures.name for figures in experts.figures(prices)][: args.best or None]
            plans += [plan for name in names for plan in experts.compiled(name)]
            seconds = measured(plans, step, args.rounds)
            for plan, took in zip(plans, seconds, strict=True):
                print(f"  {plan.name:36} {1e3 * took:9.3f} ms measured", flush=True)
            by_jit = seconds[2::2]
            ratios[title] = seconds[0] / min(by_jit)
            print(f"  auto / fastest expert by jax.jit: {ratios[title]:.4f}", flush=True)
    return ratios
