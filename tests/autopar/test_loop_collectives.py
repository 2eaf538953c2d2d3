"""What loops cost: weights are gathered and gradients reduced once, not in every iteration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autopar

WIDTH = 32
PARAMETER_BYTES = WIDTH * WIDTH * 4
SHARE = 7 / 8
"""Of a buffer's bytes that a device of 8 sends in an all_gather or reduce_scatter."""


def collectives(step: Any, *args: Any, **options: Any) -> tuple[Counter[str], float]:
    """Runs of each collective in a step on 8 devices, and the ring bytes of all of them."""
    plan = autopar.parallelize(step, **options).lower(*args).plan
    runs = Counter[str]()
    for use in plan.collectives:
        runs[use.kind] += use.times
    return runs, sum(use.num_bytes * use.times for use in plan.collectives)


def gradient_step(loss: Any) -> Any:
    def step(params: Any, x: Any) -> Any:
        gradients = jax.grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

    return step


def repeated(w: Any, x: Any) -> Any:
    return jnp.mean(jax.lax.fori_loop(0, 4, lambda _, h: jnp.tanh(h @ w), x) ** 2)


def test_zero3_gathers_a_repeated_weight_once_a_phase() -> None:
    arrays = jnp.ones((WIDTH, WIDTH)), jnp.ones((64, WIDTH))
    runs, size = collectives(gradient_step(repeated), *arrays, method="zero3", batch_argnums=1)
    assert runs == {"all_gather": 2, "reduce_scatter": 1}
    assert size == 3 * SHARE * PARAMETER_BYTES


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.GRUCell, nn.SimpleCell])
@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
def test_recurrent_gradients_are_reduced_once(cell: Any, method: str) -> None:
    model = nn.RNN(cell(24))
    x = jnp.ones((32, 9, 16))
    params = model.init(jax.random.key(0), x)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    step = gradient_step(lambda p, x: jnp.mean(model.apply(p, x) ** 2))
    _, moved = collectives(step, params, x, method=method, batch_argnums=1)
    # an all_reduce of each gradient; ZeRO-3's gathers for the backward phase come on top
    assert moved <= (3 if method == "zero3" else 2) * SHARE * size


def test_zero3_reduces_whole_tensors_once_a_step() -> None:
    def loss(params: Any, x: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ params["w"] + params["b"])) ** 2)

    params = {"w": jnp.ones((WIDTH, WIDTH)), "b": jnp.zeros(WIDTH)}
    options: dict[str, Any] = {"method": "zero3", "batch_argnums": 1, "num_micro_batches": 4}
    runs, _ = collectives(gradient_step(loss), params, jnp.ones((512, WIDTH)), **options)
    assert runs["all_reduce"] == 1  # the bias is too small to be sharded
    assert runs["reduce_scatter"] == 4  # a whole sum of the weight's gradient would not fit


def cast(dtype: Any, *arrays: Any) -> Any:
    return [array.astype(dtype) for array in arrays]


def squares(h: Any) -> Any:
    return jnp.mean(h.astype(jnp.float32) ** 2)


def dense(params: Any, x: Any, dtype: Any) -> Any:
    x, w = cast(dtype, x, params)
    return squares(jnp.tanh(x @ w))


def dense_transposed(params: Any, x: Any, dtype: Any) -> Any:
    x, w = cast(dtype, x, params)
    return squares(jnp.tanh(x @ w.T))


def used_twice(params: Any, x: Any, dtype: Any) -> Any:
    """Each use casts the weight: the sum of the two gradients is a wide one."""
    x, w, again = cast(dtype, x, params, params)
    return squares(jnp.tanh(x @ w) @ again)


def in_a_loop(params: Any, x: Any, dtype: Any) -> Any:
    (x,) = cast(dtype, x)
    return squares(jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ params.astype(dtype)), x))


def penalised(params: Any, x: Any, dtype: Any) -> Any:
    """The penalty's gradient is whole on every device: the sum of both is reduced at once."""
    penalty = 1e-3 * jnp.sum(params**2)
    return penalty + dense(params, x, dtype)


ACCUMULATED = [dense, dense_transposed, used_twice, in_a_loop, penalised]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["dp", "zero2"])
@pytest.mark.parametrize("loss", ACCUMULATED)
def test_16_bit_gradients_are_reduced_once_a_step(loss: Any, method: str, dtype: str) -> None:
    arrays = jnp.ones((WIDTH, WIDTH)), jnp.ones((64, WIDTH))
    step = gradient_step(lambda w, x: loss(w, x, dtype))
    options: dict[str, Any] = {"method": method, "batch_argnums": 1}
    runs, size = collectives(step, *arrays, num_micro_batches=4, **options)
    assert runs == {"all_reduce": 1}
    assert size == 2 * SHARE * PARAMETER_BYTES
    if loss in (dense, dense_transposed):  # outside of loops before it is made wider
        runs, size = collectives(step, *arrays, **options)
        assert runs == {"all_reduce": 1}
        assert size == SHARE * PARAMETER_BYTES


@pytest.mark.parametrize("method", ["dp", "zero2"])
@pytest.mark.parametrize("loss", ACCUMULATED)
def test_16_bit_microbatches_train_as_on_one_device(loss: Any, method: str) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(WIDTH, WIDTH)) * 0.2, rng.normal(size=(64, WIDTH))

    def step(w: Any, x: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(w, x, "bfloat16")
        return w - 0.5 * gradient, value

    parallel = autopar.parallelize(step, method=method, batch_argnums=1, num_micro_batches=4)
    ours = plain = jnp.asarray(w, jnp.float32)
    for _ in range(4):
        (ours, our_loss), (plain, plain_loss) = parallel(ours, x), jax.jit(step)(plain, x)
        np.testing.assert_allclose(our_loss, plain_loss, rtol=2e-3)
    np.testing.assert_allclose(ours, plain, atol=2e-3)


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
def test_repeated_weights_train_as_on_one_device(method: str) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(WIDTH, WIDTH)) * 0.2, rng.normal(size=(64, WIDTH))
    step = gradient_step(repeated)
    parallel = autopar.parallelize(step, method=method, batch_argnums=1)
    ours, plain = jnp.asarray(w), jnp.asarray(w)
    for _ in range(3):
        ours, plain = parallel(ours, x), jax.jit(step)(plain, x)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_a_barrier_in_a_small_loop() -> None:
    """XLA:CPU compiles loops of less than a KiB apart, and then without barriers."""

    def scaled(carry: Any, rows: Any) -> Any:
        def body(c: Any, row: Any) -> Any:
            c = 0.5 * c + jax.lax.optimization_barrier(row)[:1]
            return c, c * row

        return jax.lax.scan(body, carry, rows)

    args = jnp.ones(1), jnp.ones((12, 2))
    got, wanted = autopar.parallelize(scaled, method="shard")(*args), jax.jit(scaled)(*args)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
