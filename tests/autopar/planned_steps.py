"""Small steps to plan, and the mesh that they are planned for."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from tests.models.tiny import tiny

DEVICES = 8


def mesh() -> Mesh:
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))


def random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32) / 4


def loss(params: Any, batch: Any) -> Any:
    hidden = jnp.tanh(batch["x"] @ params["in"] + params["bias"])
    return jnp.mean((hidden @ params["out"] - batch["y"]) ** 2)


def train(params: Any, batch: Any) -> Any:
    value, grads = jax.value_and_grad(loss)(params, batch)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def params() -> Any:
    return {"in": random(64, 128), "bias": random(128), "out": random(128, 64)}


def batch(size: int = 32) -> Any:
    return {"x": random(size, 64), "y": random(size, 64)}


def assert_close(actual: Any, expected: Any) -> None:
    def close(a: Any, b: Any) -> None:
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=2e-4)

    jax.tree.map(close, actual, expected)


@cache
def program(name: str) -> tuple[Callable[..., Any], Any, Any]:
    if name == "mlp":
        return train, params(), batch()
    model = tiny("gpt")
    return model.step, model.state, model.batch
