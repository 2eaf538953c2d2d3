"""A deep multi-layer perceptron for regression in flax linen: dense layers with ReLU between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .training import Batch, State, TrainStep, abstract, fresh_state, init_variables, train_step_of


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of an MLP."""

    num_layers: int = 4
    hidden_size: int = 256
    input_size: int = 256
    output_size: int = 256
    dtype: Any = jnp.float32
    """Type of activations; parameters are float32."""


SIZES: dict[str, MLPConfig] = {
    "tiny": MLPConfig(3, 32, 16, 8),
    "mini": MLPConfig(),
    "8M": MLPConfig(8, 1024, 1024, 1024),
    "134M": MLPConfig(8, 4096, 4096, 4096),
    "1.1B": MLPConfig(16, 8192, 8192, 8192),
}


class MLP(nn.Module):
    config: MLPConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Predictions, float32 [batch, output_size], of inputs [batch, input_size]."""
        c = self.config
        for layer in range(c.num_layers - 1):
            x = nn.relu(nn.Dense(c.hidden_size, dtype=c.dtype, name=f"layer_{layer}")(x))
        x = nn.Dense(c.output_size, dtype=c.dtype, name=f"layer_{c.num_layers - 1}")(x)
        return x.astype(jnp.float32)


def init_state(config: MLPConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "opt_state"}."""
    x = jnp.zeros((1, config.input_size))
    return fresh_state(init_variables(MLP(config), seed, x), optimizer)


def random_batch(config: MLPConfig, batch_size: int, seed: int = 0) -> Batch:
    """{"inputs": float32 [batch, input_size], "targets": float32 [batch, output_size]}."""
    input_key, target_key = jax.random.split(jax.random.key(seed))
    return {
        "inputs": jax.random.normal(input_key, (batch_size, config.input_size)),
        "targets": jax.random.normal(target_key, (batch_size, config.output_size)),
    }


def abstract_state(config: MLPConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: MLPConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(config: MLPConfig, params: Any, batch: Batch) -> jax.Array:
    """Mean squared error, float32 []."""
    predicted: Any = MLP(config).apply({"params": params}, batch["inputs"])
    return jnp.mean((predicted - batch["targets"]) ** 2)


def make_train_step(config: MLPConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; the batch as in `random_batch`."""
    return train_step_of(partial(loss, config), optimizer)
