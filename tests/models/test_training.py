"""Training steps: the loss falls, and autopar's are those of one device."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import autopar

from .tiny import MODELS, quickly, tiny

STEPS = 30


def train(step: Any, model: str, steps: int) -> tuple[list[float], Any]:
    """Losses of each step, and the state after the last."""
    case = tiny(model)
    state, losses = case.state, []
    for _ in range(steps):
        state, loss = step(state, case.batch)
        losses.append(float(loss))
    return losses, jax.tree.map(np.asarray, state)


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_training(model: str) -> None:
    plain = quickly(tiny(model).step)
    losses, _ = train(plain, model, STEPS)
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
    expected = train(plain, model, 3)
    for method in ("dp", "zero3"):
        step = autopar.parallelize(tiny(model).step, method=method, batch_argnums=1)
        jax.tree.map(close, train(step, model, 3), expected)
