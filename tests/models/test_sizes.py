"""The named sizes have the parameters that their names say, and all models have one face."""

from __future__ import annotations

import dataclasses
from math import prod
from typing import Any

import jax
import numpy as np
import pytest

from models.training import make_optimizer

from .tiny import MODELS, module_of

UNITS = {"M": 1e6, "B": 1e9}
PAPER = {"vit": {"B16": 86e6, "L16": 307e6, "H14": 632e6}}
"""Counts of the sizes that are named otherwise."""


def named() -> list[tuple[str, str, float]]:
    """Every size with a count of parameters: model, name, count."""
    found: list[tuple[str, str, float]] = []
    for model in MODELS:
        for size in module_of(model).SIZES:
            if size[0].isdigit():
                found.append((model, size, float(size[:-1]) * UNITS[size[-1]]))
            elif size in PAPER.get(model, {}):
                found.append((model, size, PAPER[model][size]))
    return found


def parameters(state: Any) -> int:
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(state["params"]))


@pytest.mark.parametrize(("model", "size", "count"), named())
def test_parameters(model: str, size: str, count: float) -> None:
    module = module_of(model)
    state = module.abstract_state(module.SIZES[size], make_optimizer())
    assert parameters(state) == pytest.approx(count, rel=0.05 if model == "gpt" else 0.1)


@pytest.mark.parametrize("model", MODELS)
def test_one_face(model: str) -> None:
    """Abstract arguments are the real ones' shapes; a step gives a state like the one it takes."""
    module, optimizer = module_of(model), make_optimizer()
    config = module.SIZES["tiny"]
    assert dataclasses.is_dataclass(config) and hash(config)
    state, batch = module.abstract_state(config, optimizer), module.abstract_batch(config, 4)
    assert {leaf.shape[0] for leaf in batch.values()} == {4}
    real = module.random_batch(config, 4)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), real) == jax.tree.map(
        lambda x: (x.shape, x.dtype), batch
    )
    after, loss = jax.eval_shape(module.make_train_step(config, optimizer), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(state)
    ]
    assert (loss.shape, loss.dtype) == ((), np.float32)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16(model: str) -> None:
    """Parameters, gradients and loss stay float32 where activations are bfloat16."""
    module, optimizer = module_of(model), make_optimizer()
    config = dataclasses.replace(module.SIZES["tiny"], dtype=jax.numpy.bfloat16)
    state, batch = module.abstract_state(config, optimizer), module.abstract_batch(config, 4)
    assert {x.dtype for x in jax.tree.leaves(state["params"])} == {np.dtype(np.float32)}
    step = module.make_train_step(config, optimizer)
    after, loss = jax.eval_shape(step, state, batch)
    assert loss.dtype == np.float32
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    assert "bf16" in str(jax.make_jaxpr(step)(state, batch))
