"""`num_micro_batches`: what is state, what is none, and that all read one value of it.

State is what stands at an argument's place among the results, whatever its type.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autopar
from autopar.dialects.diagnostics import DiagnosticError

from .test_micro_batches import PARAMS, batches, check, forward, parallel, squares
from .test_models import assert_equal, run
from .training_steps import Training


def descend(params: Any, grads: Any, rate: Any = 0.1) -> Any:
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def penalty(params: Any) -> Any:
    return sum((p**2).sum() for p in jax.tree.leaves(params))


def same(step: Any, *args: Any, batch: int, **options: Any) -> None:
    """One call equals jax.jit of the whole batch; fresh arrays, since they may be donated."""
    expected = jax.jit(step)(*args)
    ours = autopar.parallelize(step, num_micro_batches=4, batch_argnums=batch, **options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        ours(*jax.tree.map(jnp.array, args)),
        expected,
    )


# ---- what is no state ----------------------------------------------------------------------------


def _weight_as_argument(params: Any, batch: Any, weight: Any) -> Any:
    def loss(p: Any) -> Any:
        return squares(p, batch) + weight * penalty(p)

    value, grads = jax.value_and_grad(loss)(params)
    return descend(params, grads), value


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
def test_a_scalar_of_the_loss_is_no_state(method: str) -> None:
    same(_weight_as_argument, PARAMS, batches()[0], np.float32(0.1), batch=1, method=method)


def _beta_in_the_state(state: Any, batch: Any) -> Any:
    params, beta = state

    def loss(p: Any) -> Any:
        out = forward(p, batch["x"])
        error, size = jnp.mean((out - batch["y"]) ** 2), jnp.mean(jnp.abs(out))
        return error + beta * size, {"error": error, "size": size}

    (value, parts), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return (descend(params, grads), beta * 1.1), (value, parts)


def _weight_whose_place_the_loss_takes(state: Any, batch: Any) -> Any:
    params, weight = state
    value, grads = jax.value_and_grad(lambda p: squares(p, batch) + weight * penalty(p))(params)
    return descend(params, grads), value


def _scaled_loss(state: Any, batch: Any) -> Any:
    params, scale = state

    def loss(p: Any) -> Any:
        value = squares(p, batch)
        return value * scale, (value, value * scale * 2)

    (value, parts), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return (descend(params, grads, 0.1 / scale), scale), (value, parts)


def _learned_scale(state: Any, batch: Any) -> Any:
    def loss(s: Any) -> Any:
        return squares(s[0], batch) + 0.1 * s[1] ** 2

    value, grads = jax.value_and_grad(loss)(state)
    return descend(state, grads), value


def _last_loss(state: Any, batch: Any) -> Any:
    params, before = state
    value, grads = jax.value_and_grad(squares)(params, batch)
    return (descend(params, grads), value), value - before


def _average_inside(state: Any, batch: Any) -> Any:
    params, average = state

    def loss(p: Any) -> Any:
        value = squares(p, batch)
        return value, 0.9 * average + 0.1 * value

    (value, average), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return (descend(params, grads), average), value


@pytest.mark.parametrize("donated", [(), (0,)], ids=["kept", "donated"])
@pytest.mark.parametrize(
    "step", [_beta_in_the_state, _scaled_loss, _learned_scale, _last_loss, _average_inside]
)
def test_scalars_of_the_state(step: Any, donated: Any) -> None:
    model = Training(step, (PARAMS, np.float32(0.5)), batches())
    ours = parallel(model, donate_argnums=donated)
    assert_equal(run(model, ours), run(model, jax.jit(step)))


def test_a_weight_whose_place_the_loss_takes() -> None:
    step = _weight_whose_place_the_loss_takes
    same(step, (PARAMS, np.float32(0.1)), batches()[0], batch=1)


def test_a_scalar_leaf_of_the_batch() -> None:
    def step(params: Any, batch: Any) -> Any:
        return _weight_as_argument(params, batch, batch["weight"])

    same(step, PARAMS, batches()[0] | {"weight": np.float32(0.1)}, batch=1)


def test_the_loss_in_the_buffer_of_a_donated_scalar() -> None:
    def step(params: Any, rate: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(squares)(params, batch)
        return descend(params, grads, rate), value

    same(step, PARAMS, np.float32(0.1), batches()[0], batch=2, donate_argnums=(0, 1))


def test_a_loss_of_two_donated_scalars() -> None:
    def step(state: Any, batch: Any) -> Any:
        params, scale, other = state
        value, grads = jax.value_and_grad(lambda p: squares(p, batch) * scale)(params)
        return {"a_loss": value, "p": descend(params, grads), "z": (scale * 0.9, other)}

    state = (PARAMS, np.float32(3), np.float32(1))
    same(step, state, batches()[0], batch=1, donate_argnums=0)


def test_a_statistic_of_an_arguments_type_is_refused() -> None:
    """x.mean(0) @ w + b is of b's type, and made of it alone."""

    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            return squares(p, batch), forward(p, batch["x"]).mean(0) + p["b"]

        (value, mean), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return descend(params, grads), (value, mean)

    model = Training(step, PARAMS, batches())
    with pytest.raises(DiagnosticError, match=r"result 4 at \[1\]\[1\] .*neither a scalar"):
        run(model, parallel(model))


def test_a_sum_at_the_place_of_a_scalar_that_the_loss_reads_is_refused() -> None:
    def step(state: Any, batch: Any) -> Any:
        params, weight = state

        def loss(p: Any) -> Any:
            return ((forward(p, batch["x"]) - batch["y"]) ** 2).sum() + weight * penalty(p)

        value, grads = jax.value_and_grad(loss)(params)
        return descend(params, grads, 1e-3), value

    model = Training(step, (PARAMS, np.float32(0.1)), batches())
    with pytest.raises(DiagnosticError, match=r"result 3 at \[1\] .*argument 3 stands.*return it"):
        run(model, parallel(model))


# ---- what is state -------------------------------------------------------------------------------


def positives(batch: Any) -> Any:
    return batch["x"][:, 0] > 0


def _reads_the_old_count(state: Any, batch: Any) -> Any:
    params, seen = state

    def loss(p: Any) -> Any:
        return squares(p, batch) * jnp.minimum(seen / 100, 1.0)

    value, grads = jax.value_and_grad(loss)(params)
    return (descend(params, grads), seen + positives(batch).sum(dtype=seen.dtype)), value


def _reads_the_new_count(state: Any, batch: Any) -> Any:
    params, seen = state
    value, grads = jax.value_and_grad(squares)(params, batch)
    seen = seen + positives(batch).sum(dtype=seen.dtype)
    metrics = {"loss": value, "seen": seen, "thousands": seen / 1000}
    return (descend(params, grads, 1 / seen), seen), metrics


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize("step", [_reads_the_old_count, _reads_the_new_count])
def test_all_read_one_count(step: Any, kind: Any) -> None:
    check(Training(step, (PARAMS, kind(3)), batches()))


@pytest.mark.parametrize("axis", [0, None])
def test_a_running_maximum(axis: Any) -> None:
    def step(state: Any, batch: Any) -> Any:
        params, largest = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        largest = jnp.maximum(largest * 0.99, jnp.abs(batch["x"]).max(axis))
        return (descend(params, grads), largest), value

    start = np.zeros(() if axis is None else 6, np.float32)
    check(Training(step, (PARAMS, start), batches()))


TABLES: dict[str, tuple[Any, Any]] = {
    "added": (np.float32, lambda t, at, b: t.at[at].add(1)),
    "counted": (np.int32, lambda t, at, b: t.at[at].add(1)),
    "largest": (np.float32, lambda t, at, b: t.at[at].max(b["x"][:, 0])),
    "decayed": (np.float32, lambda t, at, b: 0.99 * t + 0.01 * t.at[at].add(b["x"][:, 0])),
    "read": (np.float32, lambda t, at, b: (new := t.at[at].add(1.0)) / new.max()),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_the_batch_adds_to(name: str) -> None:
    kind, follow = TABLES[name]

    def step(state: Any, batch: Any) -> Any:
        params, table = state
        value, grads = jax.value_and_grad(squares)(params, batch)
        at = batch["y"].argmax(-1)
        return (descend(params, grads), follow(table, at, batch)), value

    check(Training(step, (PARAMS, np.ones(5, kind)), batches()))


def test_arguments_of_their_own() -> None:
    """An array and an integer in results of their own positions; a float scalar is none."""

    def step(params: Any, seen: Any, mean: Any, average: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            return squares(p, batch) + (mean**2).sum() * average, batch["x"].mean(0)

        (value, now), grads = jax.value_and_grad(loss, has_aux=True)(params)
        count, mean = positives(batch).sum(), 0.9 * mean + 0.1 * now
        return descend(params, grads), count + 0 * seen, mean, 0.9 * average + 0.1 * value, value

    args = (PARAMS, np.int32(1), np.ones(6, np.float32), np.float32(1), batches()[0])
    same(step, *args, batch=4)
