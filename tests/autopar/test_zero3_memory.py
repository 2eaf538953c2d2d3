"""ZeRO-3: what a device needs besides its arguments does not grow by whole parameters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import autopar

WIDTH, BATCH = 256, 512


def layer(w: Any, h: Any) -> Any:
    return h + jnp.tanh(h @ w["up"]) @ w["down"]


def unrolled(params: Any, x: Any) -> Any:
    for w in params:
        x = layer(w, x)
    return x


def scanned(params: Any, x: Any) -> Any:
    return lax.scan(lambda h, w: (jax.checkpoint(layer)(w, h), None), x, params)[0]


def make(form: str, count: int) -> tuple[Any, Any, int]:
    """(step, state, bytes of the parameters)."""
    layers = [
        {"up": np.full((WIDTH, 2 * WIDTH), 0.01 * i, np.float32),
         "down": np.full((2 * WIDTH, WIDTH), 0.01, np.float32)}
        for i in range(count)
    ]  # fmt: skip
    params: Any = layers
    if form == "scanned":
        params = jax.tree.map(lambda *a: np.stack(a), *layers)
    apply = scanned if form == "scanned" else unrolled
    optimizer = optax.adamw(1e-3)

    def step(state: Any, x: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(apply(p, x) ** 2))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return step, (params, optimizer.init(params)), size


def temporary(form: str, count: int) -> tuple[int, int]:
    """(temporary bytes of a device, bytes of all parameters)."""
    step, state, size = make(form, count)
    run = autopar.parallelize(step, method="zero3", batch_argnums=1, donate_argnums=0)
    x = np.ones((BATCH, WIDTH), np.float32)
    memory = run.get_executable(state, x).memory_analysis()
    return memory.temp_size_in_bytes, size


@pytest.mark.parametrize("form", ["unrolled", "scanned"])
def test_temporary_memory_does_not_grow_by_whole_parameters(form: str) -> None:
    """A layer more costs its gradient's shard (1/8) and activations, not its parameters."""
    points = [temporary(form, count) for count in (4, 8, 16)]
    for (less, smaller), (more, larger) in pairwise(points):
        assert more - less < 0.4 * (larger - smaller), points
