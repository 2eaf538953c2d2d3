"""Every model at its smallest size, with a step, a state and a batch."""

from __future__ import annotations

import dataclasses
import importlib
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

MODELS = ("gpt", "bert", "moe", "wide_resnet", "unet", "vit", "mlp")
BATCH = 8


def module_of(model: str) -> Any:
    return importlib.import_module(f"models.{model}")


class Tiny(NamedTuple):
    """A model's module, a config, its training step, and what the step takes, as NumPy arrays."""

    module: Any
    config: Any
    step: Any
    state: Any
    batch: Any


@cache
def tiny(model: str) -> Tiny:
    """The state is moved off its start, where many parameters are zero or one."""
    module = module_of(model)
    config = module.SIZES["tiny"]
    if model == "gpt":
        config = dataclasses.replace(config, vocab_size=64, hidden_size=32, sequence_length=16)
    # A large eps: where gradients are rounding noise, Adam would scale it up to whole steps.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3, eps=1e-3))
    state = jax.tree.map(np.array, jax.jit(lambda: module.init_state(config, optimizer))())
    random = np.random.default_rng(0)
    state["params"] = jax.tree.map(
        lambda x: x + 0.1 * random.standard_normal(x.shape, np.float32), state["params"]
    )
    batch = jax.tree.map(np.array, module.random_batch(config, BATCH))
    return Tiny(module, config, module.make_train_step(config, optimizer), state, batch)
