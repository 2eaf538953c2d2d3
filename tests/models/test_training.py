"""Training steps: the loss falls, and autopar's are those of one device."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

import autopar

from .tiny import MODELS, tiny

STEPS = 30


def train(step: Any, model: str, steps: int) -> tuple[list[float], Any]:
    """Losses of each step, and the state after the last."""
    case = tiny(model)
    state, losses = case.state, []
    for _ in range(steps):
        state, loss = step(state, case.batch)
        losses.append(float(loss))
    return losses, jax.tree.map(np.asarray, state)


@cache
def plain(model: str) -> Any:
    return jax.jit(tiny(model).step)


@pytest.mark.parametrize("model", MODELS)
def test_loss_falls(model: str) -> None:
    losses, _ = train(plain(model), model, STEPS)
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("method", ["dp", "zero3"])
@pytest.mark.parametrize("model", MODELS)
def test_parallel_is_plain(model: str, method: str) -> None:
    step = autopar.parallelize(tiny(model).step, method=method, batch_argnums=1)
    losses, state = train(step, model, 3)
    wanted_losses, wanted = train(plain(model), model, 3)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, wanted)
