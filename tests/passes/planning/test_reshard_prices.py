"""Prices of many reshardings at once are those of the steps that the partitioner would make."""

from __future__ import annotations

import random
from math import prod
from typing import Any

import pytest

from autopar.dialects.sharding import Grid
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.specs import AxisTable, Spec, merge_partial
from autopar.passes.planning.demands import Demands
from autopar.passes.planning.reshard_prices import ReshardPrices

_ITEM = 1 << 20
"""Bytes of an element: the start of a collective does not count."""


def _spec(table: AxisTable, rank: int, rng: random.Random, *, partial: bool) -> Spec:
    dims: list[list[int]] = [[] for _ in range(rank)]
    over: list[int] = []
    for axis in rng.sample(range(len(table.sizes)), len(table.sizes)):
        place = rng.random()
        if place < 0.65:
            rng.choice(dims).append(axis)
        elif partial and place < 0.8:
            over.append(axis)
    return Spec(tuple(map(tuple, dims)), merge_partial([("sum", over)]))


@pytest.mark.parametrize("grid", [(8,), (4, 2), (2, 2, 2), (2, 3, 2)])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, 0.0)])
def test_prices_are_those_of_the_steps(grid: tuple[int, ...], alpha: float, beta: float) -> None:
    """Each pair searched on its own, on the tensor's own shape."""
    rng = random.Random(0)
    table = AxisTable(Grid("mesh", tuple(zip("xyz", grid, strict=False))), ())
    # links that are all the same: steps of equal bytes may come in any order
    links = (alpha,) * len(grid), (beta,) * len(grid)
    model = CostModel.of(read_cluster("8xh100"), table.grid, *links)
    prices = ReshardPrices(table, model, Demands())
    priced = 0
    for _ in range(200):
        rank = rng.choice((1, 2, 3, 4))
        shape = [rng.choice((24, 48, 2 * 1009, 4 * 1009, 12 * 1009)) for _ in range(rank)]
        sources = [_spec(table, rank, rng, partial=True) for _ in range(2)]
        targets = [_spec(table, rank, rng, partial=rng.random() < 0.2) for _ in range(2)]
        evenly = [s for s in (*sources, *targets) if _divides(table, shape, s)]
        if len(evenly) < 4:
            continue
        priced += 1
        found: Any = prices.seconds(sources, targets, shape, _ITEM * prod(shape))
        for i, source in enumerate(sources):
            for j, target in enumerate(targets):
                assert found[i, j] == pytest.approx(_seconds(table, model, source, target, shape))
    assert priced > 30


def _seconds(
    table: AxisTable, model: CostModel, source: Spec, target: Spec, shape: list[int]
) -> float:
    """Of the steps that the partitioner takes."""
    seconds, spec = 0.0, source
    for step in ReshardPlanner(table).plan(source, target, shape, _ITEM):
        local = _ITEM * prod(table.local_shape(shape, spec))
        if step.kind == "window":
            seconds += model.collective_seconds("permute", local, table.axes(step.axes))
        elif step.kind not in ("all_slice", "to_partial"):
            seconds += model.collective_seconds(step.kind, local, table.axes(step.axes))
        spec = step.after
    return seconds


def test_searches_do_not_depend_on_those_before_them() -> None:
    rng = random.Random(1)
    table = AxisTable(Grid("mesh", (("x", 2), ("y", 2), ("z", 2))), ())
    planner = ReshardPlanner(table)
    target = _spec(table, 3, rng, partial=False)
    for _ in range(60):
        source = _spec(table, 3, rng, partial=True)
        alone = ReshardPlanner(table).plan(source, target, (64, 64, 64), 4)
        assert planner.plan(source, target, (64, 64, 64), 4) == alone


def test_small_collectives_share_a_message_but_permutes_do_not() -> None:
    table = AxisTable(Grid("mesh", (("x", 2), ("y", 4))), ())
    model = CostModel.of(read_cluster("8xh100"), table.grid, (1.0, 1.0), (0.0, 0.0))
    prices = ReshardPrices(table, model, Demands())
    split, other, whole = Spec(((0, 1),)), Spec(((1, 0),)), Spec(((),))
    for _ in range(3):
        prices.wait(2**18)
    for target, shares in ((whole, True), (other, False)):
        alone, combined = (
            float(prices.seconds([split], [target], (64,), 256, combined=combined)[0, 0])
            for combined in (False, True)
        )
        assert alone == 2.0
        assert combined == (pytest.approx(2.0 * 256 / 2**19) if shares else 2.0)


def _divides(table: AxisTable, shape: list[int], spec: Spec) -> bool:
    return all(table.is_divisible(n, axes) for n, axes in zip(shape, spec.dims, strict=True))
