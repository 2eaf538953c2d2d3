"""The expert plans of benchmarks/plans.py are what their names say, and right."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import jax
import numpy as np
import pytest

from autopar.lowering.importer import import_module
from autopar.passes.cost.liveness import memory_of
from autopar.passes.cost.report import CollectiveUse, collectives_of
from autopar.passes.importing.grid_option import parse_grid
from benchmarks import cases
from benchmarks.experts import Expert, experts_of
from benchmarks.hlo_bytes import uses
from benchmarks.plans_run import compiled_jit, compiled_ours, random_arguments

BATCH = 8


@cache
def step_and_module(model: str, layers: int) -> tuple[cases.Step, Any]:
    step = cases.step_of(model, layers, BATCH)
    return step, import_module(cases.lowered(step))


def partitioned(model: str, layers: int, shape: str, name: str) -> Any:
    step, module = step_and_module(model, layers)
    return cases.Case(module, step.paths, parse_grid(shape)).expert(expert(model, shape, name))


def expert(model: str, shape: str, name: str) -> Expert:
    found = experts_of(parse_grid(shape), **cases.kind_of(model))
    return next(one for one in found if one.name == name)


def large(module: Any, size: float) -> list[CollectiveUse]:
    """The collectives of at least `size` bytes a device."""
    return [use for use in collectives_of(module) if use.local_bytes >= size]


def parameter_bytes(model: str, layers: int) -> int:
    step, _ = step_and_module(model, layers)
    leaves = jax.tree.leaves(step.args)
    pairs = zip(step.paths, leaves, strict=True)
    return sum(4 * prod(leaf.shape) for path, leaf in pairs if path.startswith("params/"))


def test_data_parallelism_reduces_gradients_alone() -> None:
    moved = list(collectives_of(partitioned("gpt-tiny", 2, "8", "dp(x)")))
    assert {use.kind for use in moved} == {"all_reduce"}
    scalars = sum(use.local_bytes for use in moved if use.local_bytes <= 4)
    assert sum(use.local_bytes for use in moved) - scalars == parameter_bytes("gpt-tiny", 2)


def test_tensor_parallelism_reduces_four_activations_a_layer() -> None:
    activation = 4 * BATCH * 64 * 64
    counts: list[int] = []
    for layers in (1, 2):
        moved = large(partitioned("gpt-tiny", layers, "8", "tp(x)"), activation)
        assert {(use.kind, use.local_bytes) for use in moved} == {("all_reduce", activation)}
        counts.append(len(moved))
    assert counts[1] - counts[0] == 4


def test_sequence_parallelism_scatters_and_gathers_them() -> None:
    """What is split along the sequence is gathered in front of column-parallel layers, forward
    and, for the gradients of rows, backward; nothing whole is reduced."""
    activation = 4 * BATCH * 64 * 64
    moved = large(partitioned("gpt-tiny", 2, "8", "tp+sp(x)"), activation / 8)
    assert not [u for u in moved if u.kind == "all_reduce" and u.local_bytes >= activation]
    assert len([u for u in moved if u.kind == "all_gather"]) >= 4
    assert len([u for u in moved if u.kind == "reduce_scatter"]) >= 4


def test_zero3_gathers_parameters_and_keeps_shards() -> None:
    module = partitioned("gpt-tiny", 2, "8", "zero3(x)")
    gathered = [use for use in collectives_of(module) if use.kind == "all_gather"]
    # once for the forward, once for the backward phase
    total = 8 * sum(use.local_bytes for use in gathered)
    assert 1.5 < total / parameter_bytes("gpt-tiny", 2) < 2.2
    whole = memory_of(partitioned("gpt-tiny", 2, "8", "dp(x)")).arguments
    assert memory_of(module).arguments < 0.2 * whole
    reduced = [use for use in collectives_of(module) if use.kind == "all_reduce"]
    assert max(use.local_bytes for use in reduced) <= 4 * 512


def test_zero2_keeps_shards_of_the_optimizer() -> None:
    module = partitioned("gpt-tiny", 2, "8", "zero2(x)")
    whole = memory_of(partitioned("gpt-tiny", 2, "8", "dp(x)")).arguments
    assert memory_of(module).arguments == pytest.approx(whole * (1 + 2 / 8) / 3, rel=0.1)
    assert "reduce_scatter" in {use.kind for use in collectives_of(module)}


def test_expert_parallelism_moves_rows() -> None:
    module = partitioned("moe-tiny", 2, "4", "dp(x) ep(x)")
    assert "all_to_all" in {use.kind for use in collectives_of(module)}


@pytest.mark.parametrize("name", ["hsdp[y](x,y)", "dp(y) tp(x) ep(x)", "zero3(x) tp+sp(y) ep(x)"])
def test_experts_compute_what_one_device_does(name: str) -> None:
    module = partitioned("moe-tiny", 2, "2x4", name)
    plan = compiled_ours(name, module)
    compare(plan, one_device())


def test_plain_jit_takes_the_same_experts() -> None:
    step, _ = step_and_module("moe-tiny", 2)
    grid = parse_grid("2x4")
    plan = compiled_jit(step, expert("moe-tiny", "2x4", "dp(y) tp(x) ep(x)"), grid)
    compare(plan, one_device())
    assert {use.axes for use in uses(plan.hlo, grid)} >= {("x",), ("y",)}


@cache
def one_device() -> list[np.ndarray[Any, Any]]:
    step, _ = step_and_module("moe-tiny", 2)
    args = jax.tree.unflatten(jax.tree.structure(step.args), random_arguments(step))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(step.function)(*args))]


def compare(plan: Any, expected: list[np.ndarray[Any, Any]]) -> None:
    step, _ = step_and_module("moe-tiny", 2)
    values = zip(random_arguments(step), plan.shardings, strict=True)
    results = plan.run([jax.device_put(value, sharding) for value, sharding in values])
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-3, atol=1e-5)


def test_grids() -> None:
    names = [one.name for one in experts_of(parse_grid("2x4"), **cases.kind_of("gpt"))]
    assert {"dp(x,y)", "zero3(x,y)", "hsdp[y](x,y)", "dp(x) tp+sp(y)", "dp(y) tp(x)"} <= {*names}
    assert len(names) == len(set(names)) == 19
