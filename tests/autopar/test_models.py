"""Whole training steps through `parallelize` give what a single device gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

import autopar
from autopar.dialects.shard import AllGatherOp, AllToAllOp
from autopar.dialects.tensors import shape_of

from .training_steps import BATCH, MODELS, Training


@cache
def training(name: str) -> Training:
    return MODELS[name]()


@cache
def single_device(name: str) -> tuple[Any, list[Any]]:
    """State and metrics after all batches, on one device."""
    model = training(name)
    return run(model, jax.jit(model.step))


def run(model: Training, step: Any) -> tuple[Any, list[Any]]:
    state, metrics = jax.tree.map(np.asarray, model.state), []  # donated
    for batch in model.batches:
        state, values = step(state, batch)
        metrics.append(jax.tree.map(np.asarray, values))
    return state, metrics


def assert_equal(actual: tuple[Any, list[Any]], expected: tuple[Any, list[Any]]) -> None:
    def close(a: Any, b: Any) -> None:
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=2e-4)

    jax.tree.map(close, actual[1], expected[1])
    jax.tree.map(close, actual[0], expected[0])


def gathered_batches(step: Any, model: Training) -> list[str]:
    """Gathers of the batch dimension in the partitioned program."""
    module = step.lower(model.state, model.batches[0]).road.at("spmd")
    return [
        str(op)
        for op in module.walk()
        if isinstance(op, AllGatherOp | AllToAllOp)
        and any(
            old != new and new % BATCH == 0
            for old, new in zip(
                shape_of(op.operands[0].type), shape_of(op.results[0].type), strict=True
            )
        )
    ]


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_single_device(name: str, method: str) -> None:
    model = training(name)
    step = autopar.parallelize(model.step, method=method, batch_argnums=1, donate_argnums="auto")
    assert not gathered_batches(step, model)
    assert_equal(run(model, step), single_device(name))
