"""auto-shard: its plans are right, keep what the user says, and are no dearer than experts'.

The tables of the partitioner's tests run with it in the place of propagation.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import autopar
from autopar.dialects import make_context
from autopar.dialects.autopar import arg_shardings
from autopar.dialects.sharding import Grid
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price, price_of
from autopar.passes.entry import main_function
from autopar.passes.importing.methods import MethodOptions
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import BOUNDARY, DECIDE, IMPORT, PARTITION
from autopar.passes.planning.planner import make_plan
from autopar.passes.solver.solve import SolveOptions
from autopar.road import ArgumentInfo, Road, declare_mesh
from tests import oracle
from tests.passes import test_partition, test_partition_windows
from tests.passes.cases import GRID, Cases

LINE = Grid("mesh", (("x", 8),))
EVERY = 6
"""Of the partitioner's cases every sixth is run; all of them take minutes."""


def _some(table: Cases) -> list[str]:
    return table.names[::EVERY]


@pytest.mark.parametrize("name", _some(test_partition.table))
def test_equal_to_one_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "PROPAGATE", oracle.AUTO_SHARD)
    test_partition.table[name].run()


@pytest.mark.parametrize("name", _some(test_partition_windows.table))
def test_windows_equal_to_one_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "PROPAGATE", oracle.AUTO_SHARD)
    test_partition_windows.table[name].run()


def _scan_gradient(decay: Any, x: Any) -> Any:
    """Of a scan whose halves are cut down to nothing, and padded."""

    def join(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def loss(decay: Any) -> Any:
        return jnp.sum(lax.associative_scan(join, (x * decay, x), axis=1)[1] ** 2)

    return jax.grad(loss)(decay)


@pytest.mark.parametrize("steps", [2, 4])
def test_empty_values_equal_to_one_device(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "PROPAGATE", oracle.AUTO_SHARD)
    rng = np.random.default_rng(0)
    args = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((16,), (8, steps, 16))]
    oracle.check(_scan_gradient, args, GRID, [None, [["x"], ["y"], []]])


def _mlp_step(params: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        h = batch
        for weight in params[:-1]:
            h = jax.nn.gelu(h @ weight)
        return jnp.mean((h @ params[-1] - batch) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def _mlp(width: int, rows: int) -> tuple[Any, list[ArgumentInfo]]:
    shapes = [(1024, width), (width, width), (width, 1024)]
    params = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    batch = jax.ShapeDtypeStruct((rows, 1024), np.float32)
    native = jax.jit(_mlp_step).lower(params, batch).compiler_ir("stablehlo")
    state = [ArgumentInfo("state", 0, index) for index in range(len(shapes))]
    return native, [*state, ArgumentInfo("batch")]


def _planned(native: Any, arguments: list[ArgumentInfo], grid: Grid, prices: CostModel) -> Any:
    road = Road(native, arguments, grid, MethodOptions("dp"))
    module = import_module(native)
    declare_mesh(module, grid)
    run_passes(module, IMPORT, make_context())
    road._describe_arguments(main_function(module))  # pyright: ignore[reportPrivateUsage]
    make_plan(module, make_context(), prices, SolveOptions(60))
    return module


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
@pytest.mark.parametrize(("width", "rows"), [(4096, 16384), (16384, 256)])
def test_no_dearer_than_the_experts(shape: tuple[int, ...], width: int, rows: int) -> None:
    """Of data parallelism and ZeRO; wide layers on a small batch want their weights to stay."""
    grid = Grid("mesh", tuple(zip("xy", shape, strict=False)))
    prices = CostModel.of(read_cluster("8xv100"), grid)
    native, arguments = _mlp(width, rows)
    module = _planned(native, arguments, grid, prices)
    run_passes(module, (*BOUNDARY, *DECIDE, *PARTITION), make_context())
    experts = (
        price_of(Road(native, arguments, grid, MethodOptions(method)).at("spmd"), prices).total
        for method in ("dp", "zero2", "zero3")
    )
    assert price_of(module, prices).total <= min(experts)


def test_the_same_plan_each_time(tmp_path: Path) -> None:
    """In whatever order sets are walked."""
    file = tmp_path / "mlp.mlir"
    file.write_text(str(_mlp(2048, 4096)[0]))
    command = [sys.executable, "-m", "autopar.opt", str(file), "--inline", "--auto-shard=grid=2x4"]
    runs = [
        subprocess.Popen(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in ("0", "1")
    ]
    plans = {run.communicate(timeout=60)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(plans) == 1 and b"autopar.strategy" in plans.pop()


def test_shardings_of_the_program_bind() -> None:
    grid = Grid("mesh", (("x", 8),))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    columns = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    weight = jax.ShapeDtypeStruct((64, 64), np.float32, sharding=columns)
    rows = jax.ShapeDtypeStruct((8192, 64), np.float32)
    native = jax.jit(lambda w, x: x @ w).lower(weight, rows).compiler_ir("stablehlo")
    module = import_module(native)
    run_passes(module, IMPORT, make_context())
    prices = CostModel.of(read_cluster("cpu"), grid)
    make_plan(module, make_context(), prices, SolveOptions(10))
    found = arg_shardings(main_function(module))[0]
    assert found is not None
    assert [[axis.name for axis in dim.axes] for dim in found.dims] == [[], ["x"]]


def _collectives(
    function: Any, *specs: tuple[tuple[int, ...], tuple[Any, ...]]
) -> tuple[float, float]:
    """Seconds of collectives of a function: what the planner takes them for, and what the
    partitioned program's take."""
    prices = CostModel.of(read_cluster("8xh100"), LINE, objective="communication")
    planned, actual = _priced(function, prices, *specs)
    return planned, actual.communication_total


def _priced(
    function: Any, prices: CostModel, *specs: tuple[tuple[int, ...], tuple[Any, ...]]
) -> tuple[float, Price]:
    """A function of float32 arguments that lie so on 8 devices: the planner's price of it, and that
    of the partitioned program."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    args = [
        jax.ShapeDtypeStruct(
            shape,
            np.float32,
            sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)),
        )
        for shape, spec in specs
    ]
    module = import_module(jax.jit(function).lower(*args).compiler_ir("stablehlo"))
    run_passes(module, IMPORT, make_context())
    cost = make_plan(module, make_context(), prices, SolveOptions(10)).choices.solution.cost
    run_passes(module, (*BOUNDARY, *DECIDE, *PARTITION), make_context())
    return cost * 1e-12, price_of(module, prices)


def test_what_is_converted_is_moved_in_the_narrower_type() -> None:
    def function(w: Any, x: Any) -> Any:
        return x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)

    planned, actual = _collectives(
        function, ((4096, 4096), (None, "x")), ((2**17, 4096), ("x", None))
    )
    assert planned == pytest.approx(actual, rel=0.01)
    assert actual < 4096 * 4096 * 4 / 357e9 / 1.5


def test_norms_of_gradients_wait_for_each_other() -> None:
    def function(*weights: Any) -> Any:
        norm = sum(jnp.sum(w**2) for w in weights) ** 0.5
        return [w / norm for w in weights]

    planned, actual = _collectives(function, *[((512, 512), ("x", None))] * 6)
    assert planned == pytest.approx(actual, rel=0.01)
    assert actual <= 2.1e-5


def _convolved(x: Any, w: Any, **groups: int) -> Any:
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **groups
    )


@pytest.mark.parametrize(
    ("features", "groups", "kernel"),
    [
        ((64, 64), {}, (None, None, None, "x")),
        ((64, 64), {}, ()),
        ((64, 128), {"feature_group_count": 16}, (None, None, None, "x")),
        ((64, 128), {"batch_group_count": 8}, (None, None, None, "x")),
    ],
)
def test_narrow_convolutions_cost_what_the_planner_says(
    features: tuple[int, int], groups: dict[str, int], kernel: tuple[Any, ...]
) -> None:
    """Splitting output features makes convolutions narrow, splitting groups does not. Images are of
    one pixel, so that nothing else can be split."""
    cluster = read_cluster("8xh100")
    device = replace(cluster.device, flops={"f32": 1e9}, convolution={1: 0.01, 64: 1.0})
    prices = CostModel.of(replace(cluster, device=device), LINE)
    narrow, wide = features[0] // groups.get("feature_group_count", 1), features[1]
    planned, actual = _priced(
        lambda x, w: _convolved(x, w, **groups),
        prices,
        ((groups.get("batch_group_count", 1), 1, 1, features[0]), ()),
        ((3, 3, narrow, wide), kernel),
    )
    assert planned == pytest.approx(actual.total, rel=0.01)
    assert actual.compute > 0
    if groups:
        assert actual.communication_total == 0, "nothing is gained by what is not a group"


def _auto(fn: Any, *args: Any, **options: Any) -> Any:
    return autopar.parallelize(fn, method="auto", mesh=MESH, **options)(*args)


MESH = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


@pytest.mark.parametrize("spec", [P("a"), P(), P(("b", "a")), P(None, ("b", "a"))])
def test_results_lie_where_the_user_says(spec: P) -> None:
    x = np.ones((64, 64), np.float32)
    result = _auto(lambda x: x @ x, x, out_shardings=spec)
    assert result.sharding.is_equivalent_to(jax.sharding.NamedSharding(MESH, spec), 2)


@pytest.mark.parametrize("spec", [P("a"), P()])
def test_donated_arguments_follow_their_results(spec: P) -> None:
    x = jnp.ones((512, 512), np.float32)
    step = autopar.parallelize(
        lambda p, x: p - 0.1 * (x.T @ x), mesh=MESH, donate_argnums=0, out_shardings=spec
    )
    result = step(jnp.ones((512, 512)), x)
    assert result.sharding.is_equivalent_to(jax.sharding.NamedSharding(MESH, spec), 2)


@pytest.mark.parametrize(
    "case",
    [
        (lambda x: x + 1, np.float32(2)),
        (lambda: jnp.arange(16.0),),
        (lambda: (),),
        (lambda a, b: a @ b, np.ones((64, 128), np.float32), np.ones((128, 64), np.float32)),
    ],
)
def test_functions_without_a_batch(case: Any) -> None:
    fn, *args = case
    jax.tree.map(np.testing.assert_allclose, _auto(fn, *args), fn(*args))


FAST = autopar.AutoShardParallel(options={"cluster": oracle.FAST_LINKS})


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_what_is_split_over_the_axes_of_a_partial_sum(shape: tuple[int, ...]) -> None:
    """A gather from a table whose rows are split leaves a partial sum, which the next op splits."""

    def contrastive(x: Any, y: Any, own: Any) -> Any:
        logits = x @ y.T
        return jax.nn.log_softmax(logits, 1)[own, own].sum()

    x, y = (np.random.default_rng(i).normal(size=(64, 16)).astype(np.float32) for i in range(2))
    args = x, y, np.random.default_rng(2).permutation(64)
    both = jax.value_and_grad(contrastive, (0, 1))
    step = autopar.parallelize(both, method=FAST, mesh=shape)
    (gather,) = re.findall(r'"stablehlo.gather".*', step.lower(*args).as_text("decided"))
    assert "partial={sum" in gather
    for ours, one in zip(jax.tree.leaves(step(*args)), jax.tree.leaves(both(*args)), strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-3, atol=1e-4)


def test_keys_stay_whole() -> None:
    def noisy(key: Any, x: Any) -> Any:
        new, own = jax.random.split(key)
        return new, x * jax.random.uniform(own, x.shape)

    key, x = jax.random.key(0), np.ones((512, 64), np.float32)
    step = autopar.parallelize(noisy, method=FAST, mesh=(2,))
    plan = step.lower(key, x).plan
    assert plan.shardings() == {"key": "whole", "x": "[data, -]"}
    assert [value.layout for value in plan.results] == ["whole", "[data, -]"]
    new, y = step(key, x)
    expected_key, expected = noisy(key, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert (jax.random.key_data(new) == jax.random.key_data(expected_key)).all()


def _fused(weights: Any, x: Any) -> Any:
    """Attention whose queries, keys and values are one product, cut in three."""

    def loss(weights: Any) -> Any:
        h = x
        for weight in weights:
            q, k, v = jnp.split(h @ weight["in"], 3, -1)
            h = h + jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v @ weight["out"]
        return (h**2).mean()

    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))


@pytest.mark.parametrize("preset", ["8xv100", "8xh100"])
def test_slices_along_a_split_dimension_have_their_price(preset: str) -> None:
    weights = [
        {
            "in": jax.ShapeDtypeStruct((512, 1536), np.float32),
            "out": jax.ShapeDtypeStruct((512, 512), np.float32),
        }
        for _ in range(2)
    ]
    x = jax.ShapeDtypeStruct((32, 128, 512), np.float32)

    def seconds(method: Any) -> float:
        plan = autopar.plan(_fused, weights, x, mesh=(8,), donate_argnums=0, method=method)
        return price_of(plan.road.at("spmd"), prices).total

    prices = CostModel.of(read_cluster(preset), Grid("mesh", (("data", 8),)))
    auto = autopar.AutoShardParallel(options={"cluster": preset, "memory_per_device": "16GB"})
    found = seconds(auto)
    for method in ("dp", "zero2", "zero3"):
        assert found <= 1.001 * seconds(method)


def _recurrent(weights: Any, x: Any) -> Any:
    def loss(weights: Any) -> Any:
        def cell(h: Any, now: Any) -> Any:
            h = jnp.tanh(now @ weights["in"] + h @ weights["own"])
            return h, h

        start = jnp.zeros((x.shape[1], x.shape[2]))
        return jax.lax.scan(cell, start, x)[1].mean()

    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))


def test_what_a_loop_adds_up_is_reduced_once() -> None:
    weights = {name: jax.ShapeDtypeStruct((1024, 1024), np.float32) for name in ("in", "own")}
    x = jax.ShapeDtypeStruct((64, 64, 1024), np.float32)
    auto = autopar.AutoShardParallel(options={"cluster": "8xh100"})
    plan = autopar.plan(_recurrent, weights, x, mesh=(8,), donate_argnums=0, method=auto)
    assert sum(use.times for use in plan.collectives) <= 8  # not one in each of 64 iterations


def _two_layers(weights: Any, batch: Any) -> Any:
    def loss(weights: Any) -> Any:
        h = jax.nn.gelu(batch["x"] @ weights["in"]) @ weights["out"]
        return jnp.mean((h - batch["y"]) ** 2)

    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))


def test_a_pinned_argument_is_gathered_once_for_all_its_readers() -> None:
    """Where the user says how it lies, forward and backward part still may read it whole."""
    shape = jax.ShapeDtypeStruct
    weights = {"in": shape((1024, 4096), np.float32), "out": shape((4096, 1024), np.float32)}
    batch = {name: shape((512, 1024), np.float32) for name in ("x", "y")}
    mesh = jax.make_mesh((2, 4), ("x", "y"))
    pinned = {"x": jax.NamedSharding(mesh, P("x")), "y": None}
    auto = autopar.AutoShardParallel(options={"cluster": "8xh100"})
    plan = autopar.plan(
        _two_layers,
        weights,
        batch,
        mesh=mesh,
        donate_argnums=0,
        method=auto,
        in_shardings=(None, pinned),
    )
    gathers = [use for use in plan.collectives if use.kind == "all_gather"]
    assert [(use.axes, use.times) for use in gathers] == [(("x",), 1)]


def test_small_gradients_and_the_loss_share_a_message() -> None:
    def function(x: Any, *weights: Any) -> Any:
        def loss(weights: Any) -> Any:
            h = x
            for w in weights:
                h = jnp.tanh(h @ w)
            return jnp.mean(h**2)

        value, grads = jax.value_and_grad(loss)(weights)
        return [w - g for w, g in zip(weights, grads, strict=True)], value

    for width, count in ((190, 1), (190, 3), (254, 2)):
        weights = [((width, width), ())] * count
        planned, actual = _collectives(function, ((2**17, width), ("x", None)), *weights)
        assert planned == pytest.approx(actual, rel=0.03)


def test_zeros_that_updates_are_added_to_are_written() -> None:
    def function(ids: Any, rows: Any) -> Any:
        return jnp.zeros((2**16, 64)).at[ids.astype(int)].add(rows)

    prices = CostModel.of(read_cluster("8xh100"), LINE)
    planned, actual = _priced(function, prices, ((512,), ()), ((512, 64), ()))
    assert planned == pytest.approx(actual.total, rel=0.03)
