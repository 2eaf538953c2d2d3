"""Every model at its smallest size, with a step, a state and a batch."""

from __future__ import annotations

import dataclasses
import importlib
import math
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


def random_params(abstract: Any) -> Any:
    """Parameters with nothing at zero or one, where initial ones hide what depends on them."""
    random = np.random.default_rng(0)

    def of(path: Any, leaf: Any) -> Any:
        normal = random.standard_normal(leaf.shape, np.float32)
        if "scale" in str(path[-1]):
            return 1 + 0.1 * normal
        return normal * (math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1)

    return jax.tree_util.tree_map_with_path(of, abstract)


@cache
def tiny(model: str) -> Tiny:
    """The optimizer is the one that such models are trained with."""
    module = module_of(model)
    config = module.SIZES["tiny"]
    if model == "gpt":
        config = dataclasses.replace(config, vocab_size=64, hidden_size=32, sequence_length=16)
    optimizer = optax.sgd(0.03, momentum=0.9)
    if model not in ("wide_resnet", "unet"):
        # A large eps: where gradients are rounding noise, Adam would scale it up to whole steps.
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3, eps=1e-3))
    state = module.abstract_state(config, optimizer)
    state["params"] = random_params(state["params"])
    state["opt_state"] = jax.tree.map(np.asarray, optimizer.init(state["params"]))
    for name, leaf in state.get("batch_stats", {}).items():
        state["batch_stats"][name] = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), leaf)
    batch = jax.tree.map(np.asarray, module.random_batch(config, BATCH))
    return Tiny(module, config, module.make_train_step(config, optimizer), state, batch)


def quickly(function: Any) -> Any:
    """Jitted; XLA is not to optimize what runs for milliseconds."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
