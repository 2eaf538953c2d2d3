"""Each example's own row: `h[arange(batch), i]` needs no communication, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autopar

autopar.init(devices=8)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

Function = Callable[[Any, Any, Any], Any]

BATCH = 16
ROWS = np.arange(BATCH)
FUNCTIONS: dict[str, Function] = {
    "labels": lambda h, i, w: h[jnp.arange(BATCH), i],
    "several": lambda h, i, w: h[jnp.arange(BATCH)[:, None], w],
    "last": lambda h, i, w: h[jnp.arange(BATCH), -1],
    "around": lambda h, i, w: h[jnp.arange(BATCH), i, jnp.arange(BATCH) % 6],
    "part of a row": lambda h, i, w: h[ROWS, i, :3],
    "two counted": lambda h, i, w: h[
        jnp.arange(BATCH)[:, None, None], w[:, :, None], jnp.arange(6)
    ],
    "negative": lambda h, i, w: h[jnp.arange(BATCH), -1 - i],
    "add": lambda h, i, w: h.at[jnp.arange(BATCH), i].add(2.0),
    "greatest": lambda h, i, w: h.at[jnp.arange(BATCH)[:, None], w].max(h[:, :3] + 1),
    "set": lambda h, i, w: h.at[ROWS, i, 2].set(i * 1.0),
}


def _gradient(function: Function) -> Function:
    return jax.grad(lambda h, i, w: (function(h, i, w) ** 2 * jnp.arange(1.0, 4.0)[:1]).sum())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("wrap", [lambda f: f, _gradient], ids=["forward", "gradient"])
def test_the_batch_passes_through(name: str, wrap: Callable[[Function], Function]) -> None:
    function = wrap(FUNCTIONS[name])
    rng = np.random.default_rng(0)
    h = rng.normal(size=(BATCH, 5, 6)).astype(np.float32)
    i = rng.integers(0, 5, BATCH).astype(np.int32)
    w = np.stack([rng.permutation(5)[:3] for _ in range(BATCH)]).astype(np.int32)
    step = autopar.parallelize(function, method="dp", batch_argnums=(0, 1, 2))
    found = step(h, i, w)
    np.testing.assert_allclose(found, jax.jit(function)(h, i, w), rtol=1e-6)
    assert not step.plan.collectives
    assert found.sharding.shard_shape(found.shape)[0] == BATCH // 8
