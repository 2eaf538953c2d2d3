"""The named sizes have the parameters that their names say, and all models have one face."""

from __future__ import annotations

import dataclasses
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    state = module.abstract_state(module.SIZES[size], optax.identity())
    assert parameters(state) == pytest.approx(count, rel=0.05 if model == "gpt" else 0.1)


def types(tree: Any) -> Any:
    """Shapes and dtypes."""
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("model", MODELS)
def test_one_face(model: str) -> None:
    """Abstract arguments are the real ones' shapes; a step gives a state like the one it takes.
    Parameters, gradients and loss stay float32 where activations are bfloat16."""
    module, optimizer = module_of(model), optax.sgd(0.1, momentum=0.9)
    config = dataclasses.replace(module.SIZES["tiny"], dtype=jnp.bfloat16)
    assert hash(config) != hash(module.SIZES["tiny"])
    state, batch = module.abstract_state(config, optimizer), module.abstract_batch(config, 4)
    assert {x.dtype for x in jax.tree.leaves(state["params"])} == {np.dtype(np.float32)}
    assert {leaf.shape[0] for leaf in batch.values()} == {4}
    assert types(module.random_batch(config, 4)) == types(batch)
    step = module.make_train_step(config, optimizer)
    program, (after, loss) = jax.make_jaxpr(step, return_shape=True)(state, batch)
    assert types(after) == types(state) and types(loss) == ((), np.float32)
    assert "bf16" in str(program)


def test_init_state() -> None:
    """The same seed gives the same numbers."""
    module, optimizer = module_of("mlp"), make_optimizer()
    config = module.SIZES["tiny"]
    states = [module.init_state(config, optimizer, seed) for seed in (0, 0, 1)]
    assert types(states[0]) == types(module.abstract_state(config, optimizer))
    first, same, other = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(s)]) for s in states)
    assert (first == same).all() and (first != other).any() and np.isfinite(first).all()
