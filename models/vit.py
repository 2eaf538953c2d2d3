"""Vision transformer (Dosovitskiy et al. 2021), image classification, in flax linen.

Patches are embedded by a convolution of their own size, a class token goes before them, learned
positions are added; pre-norm blocks, and a linear head on the class token. Images are NHWC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .training import (
    Batch,
    State,
    TrainStep,
    abstract,
    cross_entropy,
    fresh_state,
    init_variables,
    random_images,
    train_step_of,
)
from .transformer import Block


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT."""

    num_layers: int = 4
    num_heads: int = 8
    hidden_size: int = 64
    patch_size: int = 4
    image_size: int = 32
    num_classes: int = 10
    dtype: Any = jnp.float32
    """Type of activations; parameters are float32."""
    remat: bool = False
    """Whether the backward phase computes each block again rather than keep its activations."""


SIZES: dict[str, ViTConfig] = {
    "tiny": ViTConfig(1, 4, 32, 4, 16),
    "mini": ViTConfig(),
    "B16": ViTConfig(12, 12, 768, 16, 224, 1000, jnp.bfloat16),
    "L16": ViTConfig(24, 16, 1024, 16, 224, 1000, jnp.bfloat16),
    "H14": ViTConfig(32, 16, 1280, 14, 224, 1000, jnp.bfloat16),
}
"""B16, L16 and H14 are the paper's ViT-B/16 (86M parameters), L/16 (307M) and H/14 (632M)."""


class ViT(nn.Module):
    config: ViTConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, float32 [batch, classes], of images [batch, height, width, 3]."""
        c = self.config
        patch = (c.patch_size, c.patch_size)
        x = images.astype(c.dtype)
        x = nn.Conv(c.hidden_size, patch, patch, "VALID", dtype=c.dtype, name="patches")(x)
        x = x.reshape(x.shape[0], -1, c.hidden_size)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, c.hidden_size))
        token = jnp.broadcast_to(token.astype(c.dtype), (x.shape[0], 1, c.hidden_size))
        x = jnp.concatenate([token, x], 1)
        shape = (1, x.shape[1], c.hidden_size)
        x += self.param("positions", nn.initializers.normal(0.02), shape).astype(c.dtype)
        block = nn.remat(Block) if c.remat else Block
        for layer in range(c.num_layers):
            x = block(c.num_heads, 4 * c.hidden_size, c.dtype, name=f"block_{layer}")(x)
        x = nn.LayerNorm(dtype=c.dtype, name="head_norm")(x[:, 0])
        return nn.Dense(c.num_classes, name="head")(x.astype(jnp.float32))


def init_state(config: ViTConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "opt_state"}."""
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    return fresh_state(init_variables(ViT(config), seed, images), optimizer)


def random_batch(config: ViTConfig, batch_size: int, seed: int = 0) -> Batch:
    """{"images": float32 [batch, height, width, 3], "labels": int32 [batch]}."""
    return random_images(config, batch_size, seed)


def abstract_state(config: ViTConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: ViTConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(config: ViTConfig, params: Any, batch: Batch) -> jax.Array:
    """Mean cross entropy, float32 []."""
    logits: Any = ViT(config).apply({"params": params}, batch["images"])
    return cross_entropy(logits, batch["labels"]).mean()


def make_train_step(config: ViTConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; the batch as in `random_batch`."""
    return train_step_of(partial(loss, config), optimizer)
