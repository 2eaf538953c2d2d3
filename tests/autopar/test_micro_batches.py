"""`num_micro_batches`: a plain step, cut into microbatches and an update.

The reference runs what the cut means on one device: microbatch i holds the examples i, i + m, ...
(m microbatches); gradients and float scalars are averaged, state goes from one to the next.
"""

from __future__ import annotations

import re
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import autopar
from autopar.dialects.diagnostics import DiagnosticError

from .families import nnx_step
from .test_models import assert_equal, run
from .training_steps import Training, scanned_gpt

COUNT = 4
BATCH = 32


def data(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batches(size: int = BATCH) -> list[Any]:
    return [{"x": data(size, 6, seed=i), "y": data(size, 3, seed=9 + i)} for i in range(2)]


PARAMS = {"w": data(6, 5, seed=20), "v": data(5, 3, seed=21), "b": data(3, seed=22)}


def forward(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"]) @ params["v"] + params["b"]


def squares(params: Any, batch: Any) -> Any:
    return jnp.mean((forward(params, batch["x"]) - batch["y"]) ** 2)


def parallel(model: Training, method: str = "dp", count: int = COUNT, **options: Any) -> Any:
    options = {"batch_argnums": 1, **options}
    return autopar.parallelize(model.step, method=method, num_micro_batches=count, **options)


def check(model: Training, method: str = "dp", count: int = COUNT, reference: Any = None) -> Any:
    """Equal to one device; `reference` is a step on the whole batch where that is not the step."""
    step = parallel(model, method, count)
    assert_equal(run(model, step), run(model, jax.jit(reference or model.step)))
    return step


def plain(optimizer: optax.GradientTransformation, loss: Any = squares) -> Training:
    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return Training(step, (PARAMS, optimizer.init(PARAMS)), batches())


OPTIMIZERS = {
    "clip": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.3, momentum=0.9)),
    "adamw": optax.adamw(optax.cosine_decay_schedule(0.01, 10), eps=1e-3),
    "multi_steps": optax.MultiSteps(optax.adam(0.01, eps=1e-3), 2).gradient_transformation(),
    "lion": optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-0.1)),
}


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str, method: str) -> None:
    check(plain(OPTIMIZERS[name]), method)


@pytest.mark.parametrize("method", ["dp", "zero2"])
def test_gradients_are_reduced_once(method: str) -> None:
    optimizer = OPTIMIZERS["adamw"]
    params = {"w": data(6, 96, seed=20), "v": data(96, 3, seed=21), "b": data(3, seed=22)}
    model = Training(plain(optimizer).step, (params, optimizer.init(params)), batches())
    collectives = check(model, method).plan.collectives
    assert {c.times for c in collectives} == {1}  # and not COUNT, in the loop
    sums = [c for c in collectives if c.kind != "all_gather"]
    assert sum(c.local_bytes for c in sums) == 4 * (6 * 96 + 96 * 3 + 3 + 1)  # and the loss
    assert {c.kind for c in sums} == {"all_reduce", *["reduce_scatter"] * (method == "zero2")}


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
def test_scan_over_layers_with_remat(method: str) -> None:
    step = check(scanned_gpt(), method, 5)
    # of the microbatches, and of the layers in them
    in_loops = {c.times for c in step.plan.collectives} - {1}
    assert bool(in_loops) == (method == "zero3")


def test_one_example_a_microbatch() -> None:
    model = plain(OPTIMIZERS["adamw"])
    model = Training(model.step, model.state, batches(8))
    check(model, count=8)


def test_sum_instead_of_mean() -> None:
    model = plain(optax.sgd(0.1), lambda p, b: squares(p, b) * 0.25)
    summed = plain(optax.sgd(0.1), squares)
    method = autopar.DataParallel(num_micro_batches=COUNT, micro_batch_reduction="sum")
    step = autopar.parallelize(model.step, method=method, batch_argnums=1)
    assert_equal(run(model, step), run(summed, jax.jit(summed.step)))


def test_results_of_every_kind() -> None:
    def step(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            out = forward(params, batch["x"])
            losses = jnp.mean((out - batch["y"]) ** 2, -1)
            return losses.mean(), (losses, out, {"largest": jnp.abs(out).mean()})

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), (
            value,
            aux,
            params["w"].sum(),
        )

    check(Training(step, PARAMS, batches()))


def test_bfloat16() -> None:
    def loss(params: Any, batch: Any) -> Any:
        low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        out = forward(low, batch["x"].astype(jnp.bfloat16)).astype(jnp.float32)
        return jnp.mean((out - batch["y"]) ** 2)

    model = plain(optax.sgd(0.1), loss)
    actual, expected = run(model, parallel(model)), run(model, jax.jit(model.step))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.01), actual, expected
    )


def test_tied_weights_and_gradient_norm() -> None:
    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            h = jnp.tanh(batch["x"] @ p["w"])
            return jnp.mean((h @ p["w"].T - batch["x"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        norm = optax.tree.norm(grads)
        return jax.tree.map(lambda p, g: p - 0.1 * g / (1 + norm), params, grads), (value, norm)

    check(Training(step, {"w": PARAMS["w"]}, batches()))


def _with_result(make: Any) -> Any:
    """A step that also returns `make(outputs, losses, batch)`, made inside the loss or after it."""

    def step(params: Any, batch: Any, inside: bool) -> Any:
        def loss(params: Any) -> Any:
            out = forward(params, batch["x"])
            losses = jnp.mean((out - batch["y"]) ** 2, -1)
            made = make(out, losses, batch) if inside else (out, losses)
            return losses.mean(), made

        (value, made), grads = jax.value_and_grad(loss, has_aux=True)(params)
        new = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return new, {"loss": value, "made": made if inside else make(*made, batch)}

    return step


def _positions(h: Any) -> Any:
    return jnp.broadcast_to(jnp.arange(3.0), h.shape)


def _recurrence(h: Any) -> Any:
    """[steps, batch], flattened: the batch is no major dimension."""
    _, outs = jax.lax.scan(lambda c, v: (jnp.tanh(c + v),) * 2, h[:, 0], h.T)
    return outs, outs.reshape(-1)


BY_EXAMPLE: dict[str, Any] = {
    "tokens": lambda h, e, b: h.reshape(-1),
    "token_rows": lambda h, e, b: b["x"].reshape(-1, 2) * 2,
    "with_positions": lambda h, e, b: h.reshape(-1) + _positions(h).reshape(-1),
    "batch_last": lambda h, e, b: (h.T, h.T.reshape(-1), h[None] * 2),
    "own_label": lambda h, e, b: (
        h[jnp.arange(h.shape[0]), h.argmax(-1)],
        jnp.take_along_axis(h, h.argmax(-1)[:, None], 1),
    ),
    "along_features": lambda h, e, b: (
        jnp.sort(h, 1),
        jnp.cumsum(h, 1),
        jnp.roll(h, 1, 1),
        h[:, ::2],
        h[:, 1],
        jax.lax.top_k(h, 2),
        h.at[:, 0].set(0.0),
    ),
    "products": lambda h, e, b: (jnp.einsum("bi,bj->bij", h, h), h @ PARAMS["v"].T),
    "recurrence": lambda h, e, b: _recurrence(h),
    "loop": lambda h, e, b: jax.lax.fori_loop(0, 3, lambda i, v: jnp.tanh(v) + i, h),
    "branch": lambda h, e, b: jax.lax.cond(True, jnp.sin, jnp.cos, h),
    "batch": lambda h, e, b: (b["x"], b["y"] > 0),
}


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "after"])
@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_results_by_example(name: str, inside: bool) -> None:
    step = _with_result(BY_EXAMPLE[name])
    check(Training(lambda p, b: step(p, b, inside), PARAMS, batches()))


MIXED: dict[str, tuple[Any, str]] = {
    "two_an_element": (lambda h, e, b: h.reshape(-1, 6), "mixes examples"),
    "first": (lambda h, e, b: h[0], "a part of them"),
    "first_half": (lambda h, e, b: h[:16], r"has the shape \(16, 3\) of the whole batch"),
    "first_quarter_of_one": (lambda h, e, b: h[:4], "a part of them"),
    "top_k": (lambda h, e, b: jax.lax.top_k(e, 4)[0], "mixes examples"),
    "pairs": (lambda h, e, b: h @ h.T, "mixes examples"),
    "sort": (lambda h, e, b: jnp.sort(e), "mixes examples"),
    "roll": (lambda h, e, b: jnp.roll(e, 1), "mixes examples"),
    "reverse": (lambda h, e, b: h[::-1], "mixes examples"),
    "cumsum": (lambda h, e, b: jnp.cumsum(e), "mixes examples"),
    "taken": (lambda h, e, b: h[jnp.argsort(e)], "mixes examples"),
    "normalized": (lambda h, e, b: h - h.mean(0), "mixes examples"),
    "numbered": (lambda h, e, b: e + jnp.arange(e.shape[0]), "mixes examples"),
    "numbers": (lambda h, e, b: jnp.arange(e.shape[0]), "of the whole batch"),
    "covariance": (lambda h, e, b: h.T @ h, "neither a scalar nor a gradient"),
    "mean": (lambda h, e, b: h.mean(0), "neither a scalar nor a gradient"),
    "max": (lambda h, e, b: e.max(), "is the maximum over the batch"),
    "min": (lambda h, e, b: -jnp.sqrt(e.min()), "is the minimum over the batch"),
    "range": (lambda h, e, b: e.max() - e.min(), "is the m[a-z]*imum over the batch"),
    "median": (lambda h, e, b: jnp.median(e), "is a choice from the batch"),
    "one": (lambda h, e, b: e[0], "is a choice from the batch"),
    "count": (lambda h, e, b: (e > 1).sum(), "no float"),
}


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "after"])
@pytest.mark.parametrize("name", MIXED)
def test_result_that_mixes_examples_is_refused(name: str, inside: bool) -> None:
    make, message = MIXED[name]
    step = _with_result(make)
    model = Training(lambda p, b: step(p, b, inside), PARAMS, batches())
    with pytest.raises(DiagnosticError, match=rf"result 4 at \[1\]\['made'\] .*{message}"):
        run(model, parallel(model))


def test_results_keep_their_names_beside_the_batch_size() -> None:
    """A number that is a result itself is another variable once it is marked."""
    step = _with_result(lambda h, e, b: (jnp.arange(e.shape[0]), jnp.float32(e.shape[0])))
    model = Training(lambda p, b: step(p, b, False), PARAMS, batches())
    with pytest.raises(DiagnosticError, match=r"result 4 at \[1\]\['made'\]\[0\] has the shape"):
        run(model, parallel(model))


def test_gradients_as_results() -> None:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        return params, (value, grads, jax.tree.map(lambda g: 2 * g, grads))

    check(Training(step, PARAMS, batches()))


def test_dropout_before_a_result() -> None:
    """Random bits differ from those of one device, but belong to single examples."""

    def step(params: Any, batch: Any) -> Any:
        keep = jax.random.bernoulli(jax.random.key(3), 0.8, batch["x"].shape)
        out = forward(params, jnp.where(keep, batch["x"], 0))
        return params, out

    model = Training(step, PARAMS, batches())
    _, outs = run(model, parallel(model))
    expected = run(model, jax.jit(step))[1]
    assert [out.shape for out in outs] == [out.shape for out in expected]


def _in_shard_map(body: Any) -> Any:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    return mesh, jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec)


def test_result_of_a_shard_map() -> None:
    mesh, body = _in_shard_map(lambda h: (jnp.sin(h), h.sum(1)))
    step = _with_result(lambda h, e, b: body(h))
    model = Training(lambda p, b: step(p, b, True), PARAMS, batches())
    assert_equal(run(model, parallel(model, count=2, mesh=mesh)), run(model, jax.jit(model.step)))


@pytest.mark.parametrize("hidden", [4, 8, 7, 16])
def test_gradients_through_a_shard_map(hidden: int) -> None:
    """Also where a weight is as long as the batch, of a microbatch or of a device's part of it."""
    axes = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=axes)
    rows, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(12, hidden)), "b": rng.normal(size=(hidden, 5))}
    params = jax.tree.map(np.float32, params)
    x = rng.normal(size=(16, 12)).astype(np.float32)

    def loss(params: Any, x: Any) -> Any:
        local = jax.shard_map(
            lambda a, b, v: jnp.tanh(v @ a) @ b,
            mesh=mesh,
            in_specs=(whole, whole, rows),
            out_specs=rows,
        )
        return jnp.mean(local(params["a"], params["b"], x) ** 2)

    def step(params: Any, x: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    options: dict[str, Any] = {"method": "dp", "mesh": mesh, "batch_argnums": 1}
    parallel = autopar.parallelize(step, num_micro_batches=2, **options)
    ours, plain = parallel(params, x), jax.jit(step)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), ours, plain)


def test_shard_map_that_sends_examples_on_is_refused() -> None:
    ring = [(i, (i + 1) % 8) for i in range(8)]
    mesh, body = _in_shard_map(lambda h: jax.lax.ppermute(h, "d", ring))
    step = _with_result(lambda h, e, b: body(h))
    model = Training(lambda p, b: step(p, b, True), PARAMS, batches())
    with pytest.raises(DiagnosticError, match=r"result 4 at \[1\]\['made'\] .*mixes examples"):
        run(model, parallel(model, count=2, mesh=mesh))


def test_one_example_a_microbatch_by_example() -> None:
    step = _with_result(lambda h, e, b: (e, h, h * 2))
    check(Training(lambda p, b: step(p, b, True), PARAMS, batches(8)), count=8)


# ---- what each microbatch sees for itself --------------------------------------------------------


def in_turn(loss: Any, count: int = COUNT) -> Any:
    """`(params, statistics, batch) -> (loss, grads, statistics)` over microbatches in turn."""

    def whole(params: Any, statistics: Any, batch: Any) -> Any:
        total: Any = None
        for i in range(count):
            part = jax.tree.map(lambda a, i=i: a[i::count], batch)
            (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(
                params, statistics, part
            )
            new = jax.tree.map(lambda a: a / count, (value, grads))
            total = new if total is None else jax.tree.map(jnp.add, total, new)
        return (*total, statistics)

    return whole


def test_dropout_key_is_the_same_for_every_microbatch() -> None:
    def loss(params: Any, key: Any, batch: Any) -> Any:
        h = jnp.tanh(batch["x"] @ params["w"])
        h = jnp.where(jax.random.bernoulli(key, 0.8, h.shape), h / 0.8, 0)
        return jnp.mean((h @ params["v"] - batch["y"]) ** 2), key

    def step(state: Any, batch: Any) -> Any:
        params, key = state
        key, use = jax.random.split(key)
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, use, batch)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), key), value

    def reference(state: Any, batch: Any) -> Any:
        params, key = state
        key, use = jax.random.split(key)
        value, grads, _ = in_turn(loss)(params, use, batch)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), key), value

    def of(function: Any, make: Any) -> Any:
        state, values = (PARAMS, jax.random.key(3)), []
        step = make(function)
        for batch in batches():
            state, value = step(state, batch)
            values.append(np.asarray(value))
        return state[0], values

    parallelized = of(
        step, lambda f: autopar.parallelize(f, num_micro_batches=COUNT, batch_argnums=1)
    )
    assert_equal(parallelized, of(reference, jax.jit))


class _Normalized(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.BatchNorm(use_running_average=False, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.relu(x))


@pytest.mark.parametrize("method", ["dp", "zero3"])
def test_linen_batch_statistics_go_from_one_to_the_next(method: str) -> None:
    model = _Normalized()
    variables = model.init(jax.random.key(0), batches()[0]["x"])

    def loss(params: Any, statistics: Any, batch: Any) -> Any:
        out, written = model.apply(
            {"params": params, "batch_stats": statistics}, batch["x"], mutable=["batch_stats"]
        )
        return jnp.mean((out - batch["y"]) ** 2), written["batch_stats"]

    def update(params: Any, grads: Any) -> Any:
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    def step(state: Any, batch: Any) -> Any:
        params, statistics = state
        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(
            params, statistics, batch
        )
        return (update(params, grads), statistics), value

    def reference(state: Any, batch: Any) -> Any:
        value, grads, statistics = in_turn(loss)(*state, batch)
        return (update(state[0], grads), statistics), value

    training = Training(step, (variables["params"], variables["batch_stats"]), batches())
    step = parallel(training, method, donate_argnums=0)
    assert_equal(run(training, step), run(training, jax.jit(reference)))


@jax.custom_vjp
def _whitened(x: Any) -> Any:
    return _whitened_forward(x)[0]


def _whitened_forward(x: Any) -> Any:
    rate = jax.lax.rsqrt(x.var(0) + 1e-3)
    out = (x - x.mean(0)) * rate
    return out, (out, rate)


def _whitened_backward(kept: Any, g: Any) -> Any:
    out, rate = kept
    return ((g - g.mean(0) - out * (g * out).mean(0)) * rate,)


_whitened.defvjp(_whitened_forward, _whitened_backward)


@pytest.mark.parametrize("remat", [False, True])
def test_a_normalisation_with_a_gradient_of_its_own(remat: bool) -> None:
    """Sums over the batch go back into the batch, in the forward and in the backward phase."""

    def loss(params: Any, statistics: Any, batch: Any) -> Any:
        layer = jax.checkpoint(_whitened) if remat else _whitened
        h = layer(batch["x"] @ params["w"])
        return jnp.mean((jnp.tanh(h) @ params["v"] - batch["y"]) ** 2), statistics

    def step(params: Any, batch: Any) -> Any:
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, None, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    def reference(params: Any, batch: Any) -> Any:
        value, grads, _ = in_turn(loss)(params, None, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    check(Training(step, PARAMS, batches()), reference=reference)


def test_nnx() -> None:
    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(6, 8, rngs=rngs)
            self.second = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.second(nnx.relu(self.first(x)))

    graph, params = nnx.split(Network(nnx.Rngs(0)), nnx.Param)
    optimizer = optax.adam(0.01, eps=1e-3)
    step = nnx_step(graph, optimizer)
    check(Training(step, (params, optimizer.init(params)), batches()))


def test_equinox() -> None:
    network = eqx.nn.MLP(6, 3, 8, 2, key=jax.random.key(0))
    params, static = eqx.partition(network, eqx.is_array)
    optimizer = optax.sgd(0.1)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def loss(params: Any) -> Any:
            out = jax.vmap(eqx.combine(params, static))(batch["x"])
            return jnp.mean((out - batch["y"]) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (eqx.apply_updates(params, updates), opt_state), value

    check(Training(step, (params, optimizer.init(params)), batches()))


# ---- errors --------------------------------------------------------------------------------------


def _descend(params: Any, batch: Any, loss: Any = squares) -> Any:
    value, grads = jax.value_and_grad(loss)(params, batch)
    return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), value


def _loss_after_the_update(params: Any, batch: Any) -> Any:
    params, value = _descend(params, batch)
    return params, (value, squares(params, batch))


def _two_updates(params: Any, batch: Any) -> Any:
    params, value = _descend(params, batch)
    params, second = _descend(params, batch)
    return params, (value, second)


def _updates_in_a_loop(params: Any, batch: Any) -> Any:
    return jax.lax.scan(lambda p, _: _descend(p, batch), params, None, length=3)


def _one_network_after_the_other(params: Any, batch: Any) -> Any:
    def of_rest(rest: Any, batch: Any) -> Any:
        return squares({**rest, "v": critic["v"]}, batch)

    critic, value = _descend({"v": params["v"]}, batch, lambda p, b: squares({**params, **p}, b))
    rest, second = _descend({n: params[n] for n in ("w", "b")}, batch, of_rest)
    return {**critic, **rest}, (value, second)


def _gradient_of_a_step(params: Any, batch: Any) -> Any:
    return _descend(params, batch, lambda p, b: squares(_descend(p, b)[0], b))


def _along_the_gradient(params: Any, batch: Any) -> Any:
    value, grads = jax.value_and_grad(squares)(params, batch)
    slope = jax.jvp(lambda p: squares(p, batch), (params,), (grads,))[1]
    return jax.tree.map(lambda p, g: p - slope * g, params, grads), value


def _gradient_on_examples(params: Any, batch: Any) -> Any:
    value, grads = jax.value_and_grad(squares)(params, batch)
    return params, (value, jnp.mean(forward(grads, batch["x"])))


@pytest.mark.parametrize(
    "step",
    [
        _loss_after_the_update,
        _two_updates,
        _updates_in_a_loop,
        _one_network_after_the_other,
        _gradient_on_examples,
        _along_the_gradient,
    ],
)
def test_a_second_pass_over_the_batch_is_refused(step: Any) -> None:
    """One loop over microbatches cannot compute with the gradients of the whole batch."""
    model = Training(step, PARAMS, batches())
    assert_equal(run(model, parallel(model, count=1)), run(model, jax.jit(step)))
    with pytest.raises(DiagnosticError, match=rf"{re.escape(__file__)}:.* computes on the batch"):
        run(model, parallel(model))


def test_a_step_inside_the_model_sees_its_microbatch() -> None:
    def loss(params: Any, statistics: Any, batch: Any) -> Any:
        return squares(_descend(params, batch)[0], batch), statistics

    def step(params: Any, batch: Any) -> Any:
        return _gradient_of_a_step(params, batch)

    def reference(params: Any, batch: Any) -> Any:
        value, grads, _ = in_turn(loss)(params, None, batch)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), value

    check(Training(step, PARAMS, batches()), reference=reference)


# ---- what the update and the state read of the batch ---------------------------------------------


def _with_state(start: Any, follow: Any) -> Training:
    """A step whose update reads `follow(state, batch, losses) -> (state, rate)`."""

    def step(state: Any, batch: Any) -> Any:
        params, kept = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        kept, rate = follow(kept, batch, value)
        return (jax.tree.map(lambda p, g: p - 0.1 * rate * g, params, grads), kept), value

    return Training(step, (PARAMS, start), batches())


def _labels(batch: Any) -> Any:
    return batch["y"].argmax(-1)


READ: dict[str, tuple[Any, Any]] = {
    "counter": (jnp.int32(3), lambda c, b, v: (c + (b["x"][:, 0] > 0).sum(), 1.0)),
    "float_counter": (
        jnp.float32(3),
        lambda c, b, v: (c + (b["x"][:, 0] > 0).sum().astype(jnp.float32), 1.0),
    ),
    "histogram": (jnp.zeros(3), lambda h, b, v: (h + jax.nn.one_hot(_labels(b), 3).sum(0), 1.0)),
    "covariance": (jnp.zeros((6, 6)), lambda h, b, v: (h + b["x"].T @ b["x"], 1.0)),
    "maxima": (jnp.zeros(6), lambda h, b, v: (jnp.maximum(h, jnp.abs(b["x"]).max(0)), 1.0)),
    "minimum": (jnp.float32(0), lambda h, b, v: (h, 1 / -b["x"].min())),
    "finite": (
        jnp.float32(0),
        lambda h, b, v: (h, jnp.where(jnp.isfinite(b["x"]).all(), 1.0, 0.0)),
    ),
    "any": (jnp.float32(0), lambda h, b, v: (h, jnp.where((b["x"] > 3).any(), 1.0, 0.0))),
    "quotient_of_counts": (
        jnp.float32(0),
        lambda h, b, v: (h, (b["x"][:, 0] > 0).sum() / (b["x"][:, 1] > 0).sum()),
    ),
    "integer": (
        jnp.float32(0),
        lambda h, b, v: (h, 1.0 / jnp.maximum((b["x"][:, 0] > 0).sum(), 1)),
    ),
    "threshold": (
        jnp.float32(0),
        lambda h, b, v: (h, jnp.where((b["x"][:, 0] > 0).sum() > 9, 1.0, 0.0)),
    ),
    "size": (jnp.float32(0), lambda h, b, v: (h + b["x"].shape[0], b["x"].shape[0] / 256)),
    "mean": (jnp.float32(0), lambda h, b, v: (0.9 * h + 0.1 * v, jnp.abs(b["x"]).mean())),
}


@pytest.mark.parametrize("method", ["dp", "zero3"])
@pytest.mark.parametrize("name", READ)
def test_what_the_update_reads_is_that_of_the_whole_batch(name: str, method: str) -> None:
    start, follow = READ[name]
    model = _with_state(start, follow)
    model.batches[1]["x"][5, 2] = 4.0  # one example is enough for `any`
    if name == "finite":
        model.batches[0]["x"][7, 1] = np.nan
        check(
            Training(lambda s, b: model.step(s, b | {"x": b["x"]}), model.state, model.batches[1:])
        )
    check(model)


REFUSED: dict[str, tuple[Any, str]] = {
    "choice": (lambda h, b, v: (h, b["x"][0, 0]), "a choice from the batch, which the update"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_update_cannot_read_is_refused(name: str) -> None:
    follow, message = REFUSED[name]
    model = _with_state(jnp.float32(0), follow)
    with pytest.raises((DiagnosticError, ValueError), match=rf"{re.escape(__file__)}:.*{message}"):
        run(model, parallel(model))


def test_integer_result_is_refused() -> None:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        right = (forward(params, batch["x"]).argmax(-1) == 0).sum()
        return jax.tree.map(lambda p, g: p - g, params, grads), value, right

    with pytest.raises(DiagnosticError, match=r"result 4 .*is no float.*microbatches"):
        parallel(Training(step, PARAMS, batches())).lower(PARAMS, batches()[0]).compile()


def test_batch_that_does_not_divide() -> None:
    message = re.escape("num_micro_batches=4 does not divide the batch of 30")
    with pytest.raises(ValueError, match=message):
        parallel(plain(optax.sgd(0.1))).lower(*_arguments(30))


def test_batch_of_another_size_than_the_devices() -> None:
    """5 examples a microbatch on 8 devices."""
    model = plain(OPTIMIZERS["adamw"])
    check(Training(model.step, model.state, batches(20)))


def test_no_batch() -> None:
    step = autopar.parallelize(lambda p: p * 2, num_micro_batches=2, batch_argnums=())
    with pytest.raises(ValueError, match="batch"):
        step(PARAMS["w"])


def _arguments(size: int) -> tuple[Any, Any]:
    return plain(optax.sgd(0.1)).state, batches(size)[0]
