"""`num_micro_batches`: which arrays are split, and what is said where a microbatch does not fit."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autopar
from autopar.dialects.diagnostics import DiagnosticError

from .test_micro_batch_state import descend
from .test_micro_batches import PARAMS, batches, check, data, forward, parallel, squares
from .test_models import run
from .training_steps import Training


def _weighted(params: Any, batch: Any) -> Any:
    def loss(p: Any) -> Any:
        errors = ((forward(p, batch["x"]) - batch["y"]) ** 2).mean(-1)
        return (errors * batch["weights"][batch["kind"]]).mean()

    value, grads = jax.value_and_grad(loss)(params)
    return descend(params, grads), value


def with_weights(classes: int, kinds: bool = True) -> Any:
    rng = np.random.default_rng(0)
    extra: dict[str, Any] = {"weights": np.arange(1.0, classes + 1, dtype=np.float32)}
    if kinds:
        extra["kind"] = rng.integers(0, classes, 32).astype(np.int32)
    return [batch | extra for batch in batches()]


@pytest.mark.parametrize("method", ["dp", "zero3"])
@pytest.mark.parametrize("classes", [12, 3])
def test_an_array_without_examples_in_the_batch(classes: int, method: str) -> None:
    model = Training(_weighted, PARAMS, with_weights(classes))
    step = check(model, method)
    whole = f"whole in every microbatch, of another first dimension: batch['weights'] ({classes})"
    assert whole in str(step.plan)


@pytest.mark.parametrize("classes", [12, 64])
def test_the_batchs_size_is_ambiguous(classes: int) -> None:
    """One array against one, or a larger one that could be split as well."""
    batch = with_weights(classes)[0]
    if classes == 12:
        batch = {"x": batch["x"], "weights": batch["weights"]}

    def loss(params: Any, batch: Any) -> Any:
        return params["b"].sum() * batch["x"].mean() * batch["weights"].mean()

    step = autopar.parallelize(loss, num_micro_batches=4, batch_argnums=1)
    with pytest.raises(ValueError, match=r"ambiguous.*batch\['weights'\].*batch_argnums"):
        step(PARAMS, batch)


def test_state_as_long_as_the_batch() -> None:
    def step(state: Any, batch: Any) -> Any:
        params, hidden = state

        def loss(p: Any) -> Any:
            new = jnp.tanh(forward(p, batch["x"]) + hidden)
            return jnp.mean((new - batch["y"]) ** 2), new

        (value, hidden), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return (descend(params, grads), hidden), value

    model = Training(step, (PARAMS, np.zeros((32, 3), np.float32)), batches())
    place = rf"num_micro_batches=4: {re.escape(__file__)}:\d+: "
    with pytest.raises(ValueError, match=rf"{place}.*state\[1\] \(32, 3\).*batch_argnums") as info:
        run(model, parallel(model))
    assert isinstance(info.value.__cause__, TypeError)


CLOSED = data(32, 3, seed=5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, b: jnp.mean((forward(p, b["x"]) - CLOSED) ** 2),
        lambda p, b: jnp.mean(forward(p, b["x"].reshape(32, 6)) ** 2),
    ],
    ids=["array", "shape"],
)
def test_sizes_of_the_whole_batch_in_the_step(loss: Any) -> None:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return descend(params, grads), value

    model = Training(step, PARAMS, batches())
    with pytest.raises(ValueError, match=r"num_micro_batches=4: .*microbatch of 8 of the 32 exam"):
        run(model, parallel(model))


def test_the_size_of_a_teacher() -> None:
    """A dimension that happens to be a microbatch's is none of the batch."""

    def step(params: Any, batch: Any, teacher: Any) -> Any:
        def loss(p: Any) -> Any:
            return squares(p, batch) + jnp.mean((batch["x"] @ teacher["a"] @ teacher["b"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        return descend(params, grads), value

    teacher = {"a": data(6, 8, seed=1), "b": data(8, 32, seed=2)}
    args = (PARAMS, batches()[0], teacher)
    ours = autopar.parallelize(step, num_micro_batches=4, batch_argnums=1)(*args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ours,
        jax.jit(step)(*args),
    )


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "before"])
def test_rows_by_an_index_of_the_batch_are_refused(inside: bool) -> None:
    """A permutation of the batch (mixup): JAX would clamp what a microbatch does not have."""

    def mixed(batch: Any) -> Any:
        return {n: 0.5 * (batch[n] + batch[n][batch["perm"]]) for n in ("x", "y")}

    def step(params: Any, batch: Any) -> Any:
        if not inside:
            batch = mixed(batch)
        value, grads = jax.value_and_grad(lambda p: squares(p, mixed(batch) if inside else batch))(
            params
        )
        return descend(params, grads), value

    perm = np.random.default_rng(0).permutation(32).astype(np.int32)
    model = Training(step, PARAMS, [batch | {"perm": perm} for batch in batches()])
    with pytest.raises(DiagnosticError, match=rf"{re.escape(__file__)}:.*index that comes with"):
        run(model, parallel(model))


def test_rows_by_an_index_of_the_microbatch() -> None:
    """Own rows, and an example's place in another array, are told by the batch as well."""

    def step(params: Any, batch: Any) -> Any:
        def loss(p: Any) -> Any:
            out = forward(p, batch["x"])
            own = out[jnp.arange(len(out)), batch["kind"] % 3]
            return jnp.mean(own**2) + jnp.mean(p["w"][batch["kind"] % 6] ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        return descend(params, grads), value

    check(Training(step, PARAMS, with_weights(12)))
