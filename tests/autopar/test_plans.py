"""Plans without our runtime, and what they tell."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import autopar
from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.cost.report import CollectiveUse
from autopar.passes.planning import auto_shard
from autopar.passes.planning.auto_shard import AutoShardPass
from autopar.passes.planning.planner import make_plan
from benchmarks.hlo_bytes import collectives
from tests.autopar.planned_steps import (
    DEVICES,
    assert_close,
    batch,
    loss,
    mesh,
    params,
    program,
    random,
    train,
)

# ---- shardings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dp", "zero3", "auto"])
def test_shardings_are_those_of_the_executable(method: str) -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh(), method=method)
    step = jax.jit(train, in_shardings=plan.in_shardings, out_shardings=plan.out_shardings)
    results = step(params(), batch())
    assert_close(results, jax.jit(train)(params(), batch()))
    ours = autopar.parallelize(train, mesh=mesh(), method=method)
    executable = ours.get_executable(params(), batch())
    assert plan.in_shardings == executable.input_shardings[0]
    assert plan.out_shardings == executable.output_shardings
    assert jax.tree.map(lambda x: x.sharding.spec, results) == jax.tree.map(
        lambda s: s.spec, plan.out_shardings
    )


def test_uneven_boundaries_are_whole() -> None:
    plan = autopar.plan(train, params(), batch(12), mesh=mesh(), method="dp")
    assert plan.in_shardings[1]["x"].spec == PartitionSpec()
    assert any("not divisible" in remark.text for remark in plan.remarks)
    jax.jit(train, in_shardings=plan.in_shardings)(params(), batch(12))


def test_keys_and_grids_of_two_axes() -> None:
    def noisy(keys: Any, x: Any) -> Any:
        return keys, x + jax.vmap(lambda k: jax.random.normal(k, (16,)))(keys)

    keys, x = jax.random.split(jax.random.key(0), 8), random(8, 16)
    plan = autopar.plan(noisy, keys, x, mesh=(2, 4), method="dp", batch_argnums=1)
    assert plan.in_shardings[1].spec == PartitionSpec(("data", "model"))
    step = jax.jit(noisy, in_shardings=plan.in_shardings, out_shardings=plan.out_shardings)
    assert_close(step(keys, x)[1], noisy(keys, x)[1])
    assert_close(jax.jit(plan.apply(noisy))(keys, x)[1], noisy(keys, x)[1])


@pytest.mark.parametrize("method", ["dp", "auto"])
def test_a_plan_with_a_key_is_used_again(method: str) -> None:
    def noisy(key: Any, x: Any) -> Any:
        return jax.random.split(key)[0], x * jax.random.bernoulli(key, 0.5, x.shape)

    key, x = jax.random.key(0), random(16, 16)
    plan = autopar.plan(noisy, key, x, mesh=mesh(), method=method)
    results = autopar.parallelize(noisy, method=plan)(key, x)
    assert results[0] == noisy(key, x)[0]
    assert_close(results[1], noisy(key, x)[1])


def test_keyword_arguments_have_no_shardings() -> None:
    lowered = autopar.parallelize(train, mesh=mesh(), method="dp").lower(params(), batch=batch())
    with pytest.raises(ValueError, match="none for keyword arguments"):
        _ = lowered.plan.in_shardings


# ---- apply ---------------------------------------------------------------------------------------


@jax.custom_vjp
def halved(x: Any) -> Any:
    return x / 2


halved.defvjp(lambda x: (x / 2, None), lambda _, g: (g / 2,))


def with_bodies(w: Any, x: Any) -> Any:
    @jax.checkpoint
    def block(x: Any) -> Any:
        return jax.nn.relu(halved(jnp.tanh(x @ w)))

    x, _ = lax.scan(lambda c, _: (block(c), None), x, None, length=3)
    x = lax.cond(x.sum() > 0, lambda x: jnp.sin(x) @ w, lambda x: jnp.cos(x), x)
    x = lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] @ w), (0, x))[1]
    return jax.jit(lambda x: jnp.sort(x, axis=1))(x)


def constraints_in(jaxpr: Any) -> int:
    return str(jaxpr).count("sharding_constraint")


def test_apply_constrains_inside_bodies() -> None:
    w, x = random(16, 16), random(32, 16)
    plan = autopar.plan(with_bodies, w, x, mesh=mesh(), method="dp", batch_argnums=1)
    applied = plan.apply(with_bodies)
    assert_close(jax.jit(applied)(w, x), with_bodies(w, x))
    jaxpr = jax.make_jaxpr(applied)(w, x)
    inner = {
        eqn.primitive.name: sum(
            constraints_in(eqn.params[name])
            for name in ("jaxpr", "body_jaxpr")
            if name in eqn.params
        )
        for eqn in jaxpr.eqns
    }
    assert inner["scan"] >= 2 and inner["while"] >= 1
    outside = sum(eqn.primitive.name == "sharding_constraint" for eqn in jaxpr.eqns)
    assert outside >= 5


def test_apply_is_differentiated_and_mapped() -> None:
    def function(w: Any, x: Any) -> Any:
        y, _ = lax.scan(lambda c, _: (halved(jnp.tanh(c @ w)), None), x, None, length=2)
        return jnp.sum(y**2)

    w, x = random(16, 16), random(32, 16)
    plan = autopar.plan(function, w, x, mesh=mesh(), method="dp", batch_argnums=1)
    applied = plan.apply(function)
    assert_close(jax.jit(jax.grad(applied))(w, x), jax.grad(function)(w, x))
    many = np.stack([x, -x, 2 * x])
    mapped = jax.jit(jax.vmap(applied, (None, 0)))(w, many)
    assert_close(mapped, jax.vmap(function, (None, 0))(w, many))


@pytest.mark.parametrize("planned_under", [None, "jax"])
@pytest.mark.parametrize("called_under", [None, "jax"])
def test_apply_under_another_mesh(planned_under: str | None, called_under: str | None) -> None:
    """JAX makes a reduction over no dimensions of the gradient of a scalar, but under a mesh only;
    a shape alone sets no mesh."""
    ours = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def scaled(w: Any, t: Any, x: Any) -> Any:
        return jax.grad(lambda w, t: ((x @ w) * jnp.exp(t)).sum(), (0, 1))(w, t)

    args = random(16, 8), np.float32(0.1), random(32, 16)
    plan = autopar.plan(scaled, *args, mesh=(2, 4) if planned_under is None else ours)
    with nullcontext() if called_under is None else jax.set_mesh(ours):
        found = jax.jit(plan.apply(scaled))(*args)
    assert_close(found, scaled(*args))


def test_apply_refuses_what_was_not_planned() -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh(), method="dp")

    def other(params: Any, batch: Any) -> Any:
        new, value = train(params, batch)
        return new, jnp.sin(value)

    with pytest.raises(autopar.StalePlanError, match=r"sine .*, in the plan func\.return.*\.save"):
        plan.apply(other)(params(), batch())
    with pytest.raises(autopar.StalePlanError, match=r"batch\['x'\] has the shape \(16, 64\), in"):
        plan.apply(train)(params(), batch(16))
    with pytest.raises(autopar.StalePlanError, match=r"is for 5 arrays, .* called with 3"):
        plan.apply(lambda p: p)(params())

    def rate(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, grads), value

    with pytest.raises(autopar.StalePlanError, match="the same operations, with other constants"):
        plan.apply(rate)(params(), batch())
    parts = autopar.plan(train, params(), batch(), mesh=mesh(), method="dp", num_micro_batches=2)
    with pytest.raises(autopar.StalePlanError, match="2 microbatches"):
        parts.apply(train)


def test_apply_refuses_traced_values_from_around() -> None:
    def function(x: Any) -> Any:
        return jnp.sin(x)

    plan = autopar.plan(function, random(32, 4), mesh=mesh(), method="dp")

    def outer(x: Any, y: Any) -> Any:
        return plan.apply(lambda x: jnp.sin(x) + y)(x)

    with pytest.raises(ValueError, match="make them its arguments"):
        jax.jit(outer)(random(32, 4), random(32, 4))


@pytest.mark.parametrize("method", ["dp", "zero2", "auto"])
@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_xla_communicates_as_planned(name: str, method: str) -> None:
    """Ring bytes of XLA's partitioner, on CPU, where it makes an all-reduce (of twice the bytes)
    and a slice in the place of each reduce-scatter."""
    step, state, examples = program(name)
    plan = autopar.plan(step, state, examples, mesh=mesh(), method=method)
    applied = jax.jit(
        plan.apply(step), in_shardings=plan.in_shardings, out_shardings=plan.out_shardings
    )
    compiled = applied.lower(state, examples).compile()
    found = list(collectives(compiled.as_text() or "", DEVICES))
    planned = {use.kind: 0.0 for use in plan.collectives}
    for use in plan.collectives:
        planned[use.kind] += use.num_bytes * use.times
    assert {kind for kind, _ in found} <= planned.keys()
    on_cpu = sum(planned.values()) + planned.get("reduce_scatter", 0.0)
    actual = sum(num_bytes for _, num_bytes in found)
    assert 0.7 * sum(planned.values()) <= actual <= 1.1 * on_cpu
    assert_close(applied(state, examples), jax.jit(step)(state, examples))


def _decode(weights: Any, cache: Any, x: Any, position: Any) -> Any:
    """One token of a layer with a cache; the logits are moved, not the head's weights."""
    heads, width = cache.shape[2:]
    query = (x @ weights["query"]).reshape(-1, 1, heads, width)
    key = (x @ weights["key"]).reshape(-1, 1, heads, width)
    cache = jax.lax.dynamic_update_slice(cache, key, (0, position, 0, 0))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, cache)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), cache).reshape(x.shape)
    logits = mixed @ weights["out"] @ weights["head"].T
    return cache, jnp.argmax(logits, -1), logits


def test_xla_moves_what_the_plan_moves() -> None:
    """Not the larger operand of a matmul whose result lies otherwise than it is made."""
    shape = partial(jax.ShapeDtypeStruct, dtype=np.float32)
    weights = {name: shape((1024, 1024)) for name in ("query", "key", "out")}
    weights["head"] = shape((32000, 1024))
    arguments = weights, shape((32, 2048, 16, 64)), shape((32, 1024)), np.int32(3)
    line = Mesh(np.array(jax.devices()), ("x",))
    plan = autopar.plan(
        _decode,
        *arguments,
        mesh=line,
        method=autopar.AutoShardParallel(options={"cluster": "8xh100"}),
        donate_argnums=1,
        in_shardings=(
            {**dict.fromkeys(weights), "head": NamedSharding(line, PartitionSpec("x"))},
            NamedSharding(line, PartitionSpec(None, None, "x")),
            None,
            None,
        ),
    )
    applied = jax.jit(
        plan.apply(_decode), in_shardings=plan.in_shardings, out_shardings=plan.out_shardings
    )
    found = Counter[str]()
    for kind, num_bytes in collectives(applied.lower(*arguments).compile().as_text(), DEVICES):
        found[kind] += num_bytes
    planned = Counter[str]()
    for use in plan.collectives:
        planned[use.kind] += use.num_bytes * use.times
    assert planned and found == planned


@pytest.mark.parametrize("method", ["dp", "auto"])
def test_a_plan_tells_what_the_cost_model_makes_of_it(method: str) -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh(), method=method, donate_argnums=0)
    modelled = plan.modelled
    assert modelled is not None and modelled.limit_bytes is not None
    assert 0 < plan.argument_bytes < modelled.peak_bytes < modelled.limit_bytes
    seconds = modelled.seconds
    assert seconds.compute_s > 0
    assert (seconds.communication_s > 0) == (plan.collective_bytes > 0)
    told = str(plan).partition("\n\nby the cost model\n")[2].splitlines()
    assert told[0].startswith("  step ") and "communication " in told[0]
    assert told[1].startswith("  memory ") and " a device of " in told[1]


def test_collectives_of_no_axes_are_told_by_their_groups() -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh(), method="dp")
    plan.collectives[:] = [CollectiveUse("all_reduce", (), 2, 8.0)]
    assert "1 x all_reduce       over groups of 2 " in str(plan)


def test_a_plan_of_more_devices_than_the_cluster_has_is_not_priced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_few(*_: Any) -> Any:
        raise DiagnosticError(None, "the grid has 8 devices, the cluster 4")

    monkeypatch.setattr(AutoShardPass, "terms", too_few)
    plan = autopar.plan(train, params(), batch(), mesh=mesh(), method="dp", donate_argnums=0)
    assert plan.modelled is None and "cost model" not in str(plan)


@pytest.mark.parametrize("method", ["dp", "auto"])
def test_ops_without_a_rule_are_told_once_of_each_kind(method: str) -> None:
    """auto-shard and insert-reshards both come to them."""

    def step(params: Any, batch: Any) -> Any:
        kind = jax.ShapeDtypeStruct((32, 64), jnp.float32)
        hidden = batch["x"]
        for name in ("mine", "other", "mine"):
            hidden = jax.ffi.ffi_call(name, kind)(hidden)
        return params["out"] - 0.1 * (hidden.T @ batch["y"]).sum()

    plan = autopar.plan(step, params(), batch(), mesh=mesh(), method=method, donate_argnums=0)
    told = [said.message for said in plan.remarks if "no sharding rule" in said.message]
    assert [text.count("@mine has") for text in told] == [1, 0]
    assert "(16384 result bytes each, of 2 such ops)" in told[0]
    assert "@other has" in told[1] and "(8192 result bytes each)" in told[1]


def test_one_search_serves_all_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []

    def counted(*args: Any, **keywords: Any) -> Any:
        searches.append(1)
        return make_plan(*args, **keywords)

    monkeypatch.setattr(auto_shard, "make_plan", counted)

    def step(w: Any, x: Any) -> Any:
        return w - jax.grad(lambda w: (jnp.tanh(x @ w) ** 2).sum())(w)

    w, x = np.ones((64, 32), np.float32), np.ones((16, 64), np.float32)
    lowered = autopar.parallelize(step, mesh=(2, 4)).lower(w, x)
    before = lowered.as_text("per-device")
    assert "auto" in str(lowered.plan)
    np.testing.assert_allclose(lowered.compile()(w, x), step(w, x), rtol=1e-5)
    assert lowered.as_text("per-device") == before
    assert len(searches) == 1


def test_a_found_plan_keeps_where_loops_carry_values() -> None:
    def step(w: Any, x: Any) -> Any:
        def cell(h: Any, row: Any) -> Any:
            h = jnp.tanh(row + h @ w)
            return h, h

        return jax.lax.scan(cell, jnp.zeros(x.shape[1:]), x)[1].sum()

    w, x = jnp.ones((1024, 1024)), jnp.ones((16, 64, 1024))
    line = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    lowered = autopar.parallelize(
        step,
        mesh=line,
        in_shardings=(NamedSharding(line, PartitionSpec("x")), None),
        method=autopar.AutoShardParallel(options={"cluster": "8xh100"}),
    ).lower(w, x)
    searched = lowered.as_text("spmd")
    gathers = [use.times for use in lowered.plan.collectives if use.kind == "all_gather"]
    assert gathers == [1]  # in front of the loop
    assert lowered.as_text("spmd") == searched


def test_a_lowered_program_is_shown_in_a_line() -> None:
    lowered = autopar.parallelize(train, mesh=mesh(), method="dp").lower(params(), batch())
    assert repr(lowered) == (
        "<LoweredProgram of method 'dp' on a mesh of data=8: 5 arguments, 4 results; "
        ".plan, .as_text(level), .compile()>"
    )


def test_an_executable_above_its_plans_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"memory_per_device": "64MiB"}
    step = autopar.parallelize(jnp.tanh, method=autopar.AutoShardParallel(options=options))
    lowered = step.lower(random(8, 8))
    with caplog.at_level(logging.WARNING, "autopar"):
        lowered.compile()
        assert not caplog.text
        monkeypatch.setattr("autopar.compiled.peak_bytes", lambda _: 128 * 2**20)
        lowered.compile()
    assert "planned for 64 MiB a device, and XLA's executable takes 128 MiB" in caplog.text
    assert f"memory_per_device={32 * 2**20} leaves room" in caplog.text
