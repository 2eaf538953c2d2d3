"""Stock Orbax saves sharded results and restores them, onto another mesh too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autopar

pytest.importorskip("orbax.checkpoint")

X = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)


def step(state: Any, x: Any) -> Any:
    def loss(w: Any) -> Any:
        return jnp.mean(jnp.tanh(x @ w) ** 2)

    value, grad = jax.value_and_grad(loss)(state["w"])
    return {"w": state["w"] - 0.1 * grad, "step": state["step"] + 1}, value


@pytest.mark.filterwarnings("ignore")  # orbax warns about its own interfaces
@pytest.mark.parametrize("mesh", [(8,), (4,), (2, 4)])
def test_round_trip(tmp_path: Path, mesh: tuple[int, ...]) -> None:
    import orbax.checkpoint as ocp

    state = {"w": jnp.ones((16, 64)) / 16, "step": jnp.int32(0)}
    saved, _ = autopar.parallelize(step, method="zero3", mesh=(8,))(state, X)
    expected = jax.jit(step)(*[jax.jit(step)(state, X)[0], X])
    other = autopar.parallelize(step, method="zero3", mesh=mesh)
    (layout, _), _ = other.get_executable(state, X).input_shardings
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", saved)
        checkpointer.wait_until_finished()
        wanted = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), saved, layout
        )
        restored = checkpointer.restore(tmp_path / "state", wanted)
    assert restored["w"].sharding == layout["w"]
    np.testing.assert_array_equal(np.asarray(restored["w"]), np.asarray(saved["w"]))
    found = other(restored, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
