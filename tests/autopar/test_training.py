"""Training steps of the common libraries give the losses of one device, under every method."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autopar

from .families import FAMILIES

TOLERANCE = {"bf16": 1e-3}
"""bf16 rounds each device's part of a gradient; the others hold 1e-4."""


@cache
def single_device(family: str) -> list[float]:
    step, state, batches = FAMILIES[family]()
    return losses(jax.jit(step), state, batches)


def losses(step: Any, state: Any, batches: list[Any]) -> list[float]:
    found: list[float] = []
    for batch in batches:
        state, loss = step(state, batch)
        found.append(float(loss))
    return found


def two_axes(leaf: Any, mesh: Mesh) -> NamedSharding:
    """A layout as a user might write it: the last dimension of matrices on "model"."""
    divisible = np.ndim(leaf) >= 2 and np.shape(leaf)[-1] % mesh.shape["model"] == 0
    return NamedSharding(mesh, P(*[None] * (np.ndim(leaf) - 1), "model") if divisible else P())


@pytest.mark.parametrize("method", autopar.method_names())
@pytest.mark.parametrize("family", FAMILIES)
def test_losses(family: str, method: str) -> None:
    step, state, batches = FAMILIES[family]()
    state = jax.tree.map(jnp.copy, state)
    options: dict[str, Any] = {"batch_argnums": 1}
    if method == "shard":
        mesh = Mesh(np.array(autopar.local_devices()[:8]).reshape(2, 4), ("data", "model"))
        state = jax.device_put(state, jax.tree.map(lambda x: two_axes(x, mesh), state))
        size = len(jax.tree.leaves(batches[0])[0])
        spec = NamedSharding(mesh, P("data") if size % 2 == 0 else P())
        batches = [jax.device_put(batch, spec) for batch in batches]
        options = {}
    parallel = autopar.parallelize(step, method=method, donate_argnums=0, **options)
    found = losses(parallel, state, batches)
    np.testing.assert_allclose(
        found, single_device(family), rtol=TOLERANCE.get(family, 1e-4), atol=1e-6
    )
