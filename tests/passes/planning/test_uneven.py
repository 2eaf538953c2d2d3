"""The remark on what stays whole because no axis divides it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import autopar

SPLIT = "cannot be split over"


def _step(params: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        return jnp.mean((jnp.tanh(batch @ params["a"]) @ params["b"]) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def _arrays(rows: int = 32, width: int = 64, hidden: int = 256) -> Any:
    params = {"a": np.ones((width, hidden), np.float32), "b": np.ones((hidden, width), np.float32)}
    return params, np.ones((rows, width), np.float32)


def _lowered(mesh: Any, *arrays: Any, options: Any = None, **keywords: Any) -> Any:
    method = autopar.AutoShardParallel(options=options or {})
    step = autopar.parallelize(_step, mesh=mesh, method=method, donate_argnums=0, **keywords)
    return step.lower(*arrays)


def _remarks(mesh: Any, *arrays: Any, **keywords: Any) -> list[str]:
    plan = _lowered(mesh, *arrays, **keywords).plan
    return [one.message for one in plan.remarks if SPLIT in one.message]


def test_the_biggest_are_named_and_the_batch_is_to_be_padded() -> None:
    (remark,) = _remarks((3,), *_arrays())
    assert remark == (
        "auto-shard: params['b'] : tensor<256x64xf32>, params['a'] : tensor<64x256xf32>, batch : "
        "tensor<32x64xf32> (136 KiB in all) cannot be split over data: 3 divides "
        "none of their dimensions, and only even parts are planned; pad the batch, dimension 0 of "
        "batch, from 32 to 33, or take another grid, or the method dp or zero3, which pad"
    )


def test_one_axis_of_two() -> None:
    (remark,) = _remarks((2, 3), *_arrays())
    assert "cannot be split over model: 3 divides" in remark
    (remark,) = _remarks((3,), *_arrays(rows=33))
    assert remark.startswith("auto-shard: params['b'] : tensor<256x64xf32>, params['a']")
    assert "dimension 0 of params['b'], from 256 to 258" in remark


@pytest.mark.parametrize(
    ("mesh", "arrays"),
    [
        ((2, 4), _arrays()),
        ((3,), _arrays(rows=4, hidden=3 * 64)),  # the batch weighs little
        ((3,), _arrays(rows=4, width=4, hidden=4)),  # small tensors
    ],
)
def test_no_remark(mesh: Any, arrays: Any) -> None:
    assert not _remarks(mesh, *arrays)


def test_what_is_whole_by_wish_is_not_told() -> None:
    spec = PartitionSpec()
    assert not _remarks((3,), *_arrays(), in_shardings=(spec, spec))
    (remark,) = _remarks((3,), *_arrays(), options={"zero": 0})
    assert remark.startswith("auto-shard: batch :") and "(8 KiB in all)" in remark


def test_it_is_told_after_the_program_was_compiled() -> None:
    lowered = _lowered((3,), *_arrays())
    lowered.compile()
    assert any(SPLIT in one.message for one in lowered.plan.remarks)
