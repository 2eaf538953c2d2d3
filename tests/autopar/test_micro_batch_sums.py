"""`num_micro_batches`: what the update reads of the batch is what the whole batch gives.

Sums over the batch are summed up, means averaged, and what comes of the batch's size is of the
whole batch, wherever the update puts them together.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import autopar
from autopar.dialects.diagnostics import DiagnosticError

from .test_micro_batch_state import descend, penalty, positives
from .test_micro_batches import PARAMS, batches, check, forward, parallel, squares
from .test_models import assert_equal, run
from .training_steps import Training


def with_update(update: Any) -> Training:
    """`update(params, grads, batch, value) -> (params, results)`."""

    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        return update(params, grads, batch, value)

    return Training(step, PARAMS, batches())


# ---- the batch's size ----------------------------------------------------------------------------


def noise(grads: Any) -> Any:
    return jax.tree.map(lambda g: jax.random.normal(jax.random.key(1), g.shape), grads)


SIZES: dict[str, Any] = {
    "noise_by_number": lambda p, g, b, v: (
        descend(p, jax.tree.map(lambda g, n: g + n * (1.1 / len(b["x"])), g, noise(g))),
        v,
    ),
    "noise_by_array": lambda p, g, b, v: (
        descend(p, jax.tree.map(lambda g, n: g + n / b["x"].shape[0], g, noise(g))),
        v,
    ),
    "prior": lambda p, g, b, v: (
        descend(p, jax.tree.map(lambda g, p: g + p / b["x"].shape[0], g, p)),
        v,
    ),
    "returned": lambda p, g, b, v: (descend(p, g), {"loss": v, "examples": b["x"].shape[0]}),
    "rate": lambda p, g, b, v: (descend(p, g, b["x"].shape[0] / 256), v),
    "less_one": lambda p, g, b, v: (descend(p, g), b["x"].sum() / (b["x"].shape[0] - 1)),
    "ones": lambda p, g, b, v: (descend(p, g), jnp.abs(b["x"]).sum() / jnp.ones(len(b["x"])).sum()),
    "gradient_by_it": lambda p, g, b, v: (
        descend(p, jax.tree.map(lambda g: g / b["x"].shape[0], g), 3.0),
        v,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_batchs_size_is_that_of_the_whole(name: str) -> None:
    check(with_update(SIZES[name]))


def test_the_size_out_of_the_loss_function() -> None:
    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            errors = (forward(p, batch["x"]) - batch["y"]) ** 2
            return errors.sum(), (batch["x"].shape[0], jnp.ones(len(errors)).sum())

        (value, (size, same)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        grads = jax.tree.map(lambda g: g / size, grads)
        return descend(params, grads), (value / size, value / same, size)

    check(Training(step, PARAMS, batches()))


def test_a_nan_in_the_update() -> None:
    check(with_update(lambda p, g, b, v: (descend(p, g), jnp.where(v > 1e9, jnp.nan, v))))
    optimizer = optax.contrib.schedule_free_sgd(0.1)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    check(Training(step, (PARAMS, optimizer.init(PARAMS)), batches()))


def test_a_loop_as_long_as_the_batch_is_refused() -> None:
    def update(p: Any, g: Any, b: Any, v: Any) -> Any:
        return descend(p, g), jax.lax.fori_loop(0, len(b["x"]), lambda i, a: a * 0.9, v)

    model = with_update(update)
    message = rf"{re.escape(__file__)}:.*length=32 of the whole batch is 8"
    with pytest.raises(ValueError, match=message):
        run(model, parallel(model))


def test_another_course_for_a_microbatch_is_refused() -> None:
    def update(p: Any, g: Any, b: Any, v: Any) -> Any:
        return descend(p, g), v if len(b["x"]) > 16 else jnp.sin(v)

    model = with_update(update)
    message = rf"{re.escape(__file__)}:.*another course for a microbatch.*num_micro_batches=4"
    with pytest.raises(ValueError, match=message):
        run(model, parallel(model))


# ---- sums ----------------------------------------------------------------------------------------

SUMS: dict[str, Any] = {
    "count": lambda b: positives(b).sum(dtype=jnp.float32).astype(jnp.int32),
    "histogram": lambda b: (
        jnp.zeros(4).at[positives(b).astype(jnp.int32)].add(1.0).astype(jnp.int32)
    ),
    "bools": lambda b: b["x"].sum(0) > 5,
    "largest": lambda b: jnp.argmax(b["x"].sum(0)),
    "quotient": lambda b: positives(b).sum() / (b["x"][:, 1] > 0).sum(),
    "of_an_integer": lambda b: 1.0 / jnp.maximum(positives(b).sum(), 1),
    "threshold": lambda b: jnp.where(positives(b).sum() > 9, 1.0, 0.0),
    "squared_mean": lambda b: b["x"].mean() ** 2 + (b["x"] ** 2).mean(),
}


@pytest.mark.parametrize("name", SUMS)
def test_what_the_update_makes_of_sums(name: str) -> None:
    check(with_update(lambda p, g, b, v: (descend(p, g), SUMS[name](b))))


STATES: dict[str, tuple[Any, Any]] = {
    "decayed": (np.ones(3), lambda h, b: 0.9 * h + jax.nn.one_hot(b["y"].argmax(-1), 3).sum(0)),
    "minus": (np.ones(6), lambda h, b: b["x"].sum(0) - h),
    "replaced": (np.ones(6), lambda h, b: b["x"].sum(0)),
    "mean": (np.ones(6), lambda h, b: h + 0.1 * (b["x"] - h).mean(0)),
    "by_constant": (np.ones(6), lambda h, b: 0.5 * h + b["x"].sum(0) / 32.0),
    "scalar": (np.float32(1), lambda h, b: 0.9 * h + positives(b).sum(dtype=jnp.float32)),
    "integer": (np.int32(1), lambda h, b: h // 2 + positives(b).sum()),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_sums(name: str) -> None:
    start, follow = STATES[name]

    def step(state: Any, batch: Any) -> Any:
        params, kept = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        return (descend(params, grads), follow(kept, batch)), value

    check(Training(step, (PARAMS, jnp.asarray(start)), batches()))


def _tokens(batch: Any) -> Any:
    return (batch["x"] > 0).astype(jnp.int32) + (batch["x"] > 1)


COUNTS: dict[str, Any] = {
    "table": lambda t: jnp.zeros(3, jnp.int32).at[t].add(1),
    "flat": lambda t: jnp.zeros(3, jnp.int32).at[t.reshape(-1)].add(1),
    "flat_floats": lambda t: jnp.zeros(3).at[t.reshape(-1)].add(0.5),
    "batch_minor": lambda t: jnp.zeros(3, jnp.int32).at[t.T.reshape(-1)].add(2),
    "bincount": lambda t: jnp.bincount(t.reshape(-1), length=3),
    "segments": lambda t: jax.ops.segment_sum(jnp.ones(t.size), t.reshape(-1), num_segments=3),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("in_loss", [False, True])
def test_counts_of_the_tokens_of_examples(name: str, in_loss: bool) -> None:
    """As the bias of an expert that is chosen too often has them: read by the update."""

    def step(state: Any, batch: Any) -> Any:
        params, total = state

        def loss(p: Any) -> Any:
            return squares(p, batch), COUNTS[name](_tokens(batch))

        (value, counts), grads = jax.value_and_grad(loss, has_aux=True)(params)
        if not in_loss:
            counts = COUNTS[name](_tokens(batch))
        bias = jnp.sign(counts.mean() - counts)
        return (descend(params, grads), total + bias), value

    check(Training(step, (PARAMS, np.zeros(3, np.float32)), batches()))


@pytest.mark.parametrize(
    "places",
    [
        lambda t: jnp.zeros(3, jnp.int32).at[t.reshape(-1)].add(jnp.arange(t.size)),
        lambda t: jnp.zeros(3).at[t].add(jnp.arange(len(t))[:, None] / 8.0),
        lambda t: jnp.arange(float(len(t))) @ t,
    ],
)
def test_sums_by_positions_in_the_batch_are_refused(places: Any) -> None:
    """A microbatch does not know where its examples stand."""

    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        return descend(params, grads, 500.0 / (1 + places(_tokens(batch))[0])), value

    with pytest.raises(DiagnosticError, match=r"'stablehlo.*' makes"):
        run(model := Training(step, PARAMS, batches()), parallel(model, "dp", 4))


def test_gradients_of_examples() -> None:
    """Clipped one by one and summed up by hand, divided by a number."""

    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any, x: Any, y: Any) -> Any:
            return jnp.mean((forward(p, x[None]) - y) ** 2)

        grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, batch["x"], batch["y"])
        norms = jnp.sqrt(sum((g**2).sum(range(1, g.ndim)) for g in jax.tree.leaves(grads)))
        scale = jnp.minimum(1, 0.5 / norms)
        grads = jax.tree.map(lambda g: jnp.tensordot(scale, g, 1) / 32.0, grads)
        return descend(params, grads), norms.mean()

    check(Training(step, PARAMS, batches()))


def test_statistics_of_statistics_are_refused() -> None:
    """Outside of the loss function; a variance is no mean of variances."""

    def step(state: Any, batch: Any) -> Any:
        params, spread = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        return (descend(params, grads), 0.9 * spread + 0.1 * batch["x"].std(0)), value

    model = Training(step, (PARAMS, jnp.ones(6)), batches())
    with pytest.raises(DiagnosticError, match=rf"{re.escape(__file__)}:.*statistics of the batch"):
        run(model, parallel(model))


# ---- losses that are sums ------------------------------------------------------------------------


def summed(params: Any, batch: Any) -> Any:
    return ((forward(params, batch["x"]) - batch["y"]) ** 2).sum()


def masked(params: Any, batch: Any) -> Any:
    """A sum, and how many it is of: tokens that count."""
    keep = batch["y"] > -0.5
    return jnp.where(keep, (forward(params, batch["x"]) - batch["y"]) ** 2, 0).sum(), keep.sum()


@pytest.mark.parametrize("kind", [jnp.int32, jnp.float32])
def test_a_sum_divided_by_its_count(kind: Any) -> None:
    def step(params: Any, batch: Any) -> Any:
        (value, count), grads = jax.value_and_grad(masked, has_aux=True)(params, batch)
        count = count.astype(kind)
        return descend(params, jax.tree.map(lambda g: g / count, grads)), value / count

    check(Training(step, PARAMS, batches()))


def test_functions_of_sums_are_of_the_whole_batch() -> None:
    """A sum itself is averaged; what its square, or a norm, averages to is no function of it."""

    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        out = forward(params, batch["x"])
        made = jnp.linalg.norm(out), out.sum() ** 2, (out.sum(0) ** 2).sum(), 1 / (out**2).sum()
        return descend(params, grads), {"loss": value, "made": made}

    check(Training(step, PARAMS, batches()))


def test_a_loss_that_is_a_sum_is_averaged() -> None:
    """With clipping and momentum, in whatever the update makes of it."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01, momentum=0.9))

    def make(scale: float) -> Training:
        def step(state: Any, batch: Any) -> Any:
            params, opt_state = state
            value, grads = jax.value_and_grad(lambda p: summed(p, batch) * scale)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), (value, grads)

        return Training(step, (PARAMS, optimizer.init(PARAMS)), batches())

    assert_equal(run(make(1.0), parallel(make(1.0))), run(make(0.25), jax.jit(make(0.25).step)))


def test_a_loss_that_is_a_sum_is_summed_up_by_option() -> None:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(summed)(params, batch)
        return descend(params, grads, 1e-3), value

    model = Training(step, PARAMS, batches())
    method = autopar.DataParallel(num_micro_batches=4, micro_batch_reduction="sum")
    ours = autopar.parallelize(step, method=method, batch_argnums=1)
    assert_equal(run(model, ours), run(model, jax.jit(step)))


def test_a_mean_and_a_penalty() -> None:
    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            return squares(p, batch) + 0.01 * penalty(p)

        value, grads = jax.value_and_grad(loss)(params)
        grads = jax.tree.map(lambda g: g / batch["x"].shape[0], grads)
        return descend(params, grads, 3.0), value

    check(Training(step, PARAMS, batches()))


def test_a_sum_and_a_penalty_by_the_size_are_refused() -> None:
    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            return summed(p, batch) + 0.01 * penalty(p)

        value, grads = jax.value_and_grad(loss)(params)
        return descend(params, jax.tree.map(lambda g: g / len(batch["x"]), grads)), value

    model = Training(step, PARAMS, batches())
    with pytest.raises(DiagnosticError, match=rf"{re.escape(__file__)}:.*divide inside the loss"):
        run(model, parallel(model))


# ---- what microbatches cannot tell ---------------------------------------------------------------

MIXED: dict[str, Any] = {
    "neighbours": lambda x: (x[1:] * x[:-1]).sum(0),
    "part": lambda x: x[:4].sum(0),
    "rolled": lambda x: (jnp.roll(x, 1, 0) * x).sum(0),
}


@pytest.mark.parametrize("name", MIXED)
def test_sums_of_mixed_examples_are_refused(name: str) -> None:
    def step(state: Any, batch: Any) -> Any:
        params, kept = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        return (descend(params, grads), 0.9 * kept + MIXED[name](batch["x"])), value

    model = Training(step, (PARAMS, jnp.ones(6)), batches())
    with pytest.raises(DiagnosticError, match=rf"{re.escape(__file__)}:.*mixed examples"):
        run(model, parallel(model))


@pytest.mark.parametrize("divided", [False, True])
def test_a_loss_that_takes_another_course(divided: bool) -> None:
    """A microbatch sees its own size; how its gradients grow is not told then."""

    def loss(params: Any, batch: Any) -> Any:
        value = squares(params, batch)
        return value if len(batch["x"]) > 16 else value * jnp.exp(0.0 * params["b"].sum())

    def update(p: Any, g: Any, b: Any) -> Any:
        g = jax.tree.map(lambda g: g / len(b["x"]), g) if divided else g
        return descend(p, g)

    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return update(params, grads, batch), value

    model = Training(step, PARAMS, batches())
    if not divided:
        check(model)
        return
    with pytest.raises(DiagnosticError, match=rf"{re.escape(__file__)}:.*divide inside the loss"):
        run(model, parallel(model))


GUARDED: dict[str, Any] = {
    "maximum": lambda count: jnp.maximum(count, 1.0),
    "epsilon": lambda count: count + 1e-6,
    "clip": lambda count: jnp.clip(count, 1.0, None),
    "where": lambda count: jnp.where(count > 0, count, 1.0),
}


@pytest.mark.parametrize("name", GUARDED)
def test_a_sum_divided_by_a_guarded_count(name: str) -> None:
    def step(params: Any, batch: Any) -> Any:
        (value, count), grads = jax.value_and_grad(masked, has_aux=True)(params, batch)
        count = GUARDED[name](count.astype(jnp.float32))
        return descend(params, jax.tree.map(lambda g: g / count, grads)), value / count

    check(Training(step, PARAMS, batches()))


def test_an_averaged_gradient_divided_by_a_count_is_refused() -> None:
    def step(params: Any, batch: Any) -> Any:
        (value, count), grads = jax.value_and_grad(masked, has_aux=True)(params, batch)
        decayed = jax.tree.map(lambda g, p: g + 0.1 * p, grads, params)
        return descend(params, jax.tree.map(lambda g: g / count, decayed)), value

    model = Training(step, PARAMS, batches())
    with pytest.raises(DiagnosticError, match="divide the gradient by it first, or inside the"):
        run(model, parallel(model))


def test_a_complex_mean() -> None:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        return descend(params, grads), (value, (forward(params, batch["x"]) + 1j).mean())

    check(Training(step, PARAMS, batches()))
