"""Wide ResNet (Zagoruyko and Komodakis 2016; bottleneck blocks of He et al. 2016) in flax linen.

As in Alpa's benchmark the width factor widens the 3x3 convolution of each bottleneck. Images are
NHWC; the running statistics of the batch norms are a part of the training state.
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
    update,
)


@dataclass(frozen=True)
class WideResNetConfig:
    """Sizes of a Wide ResNet."""

    stages: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each stage; each stage after the first halves height and width."""
    channels: int = 160
    """Channels of the first stage before the 4-fold expansion; each stage doubles them."""
    width_factor: int = 2
    num_classes: int = 1000
    image_size: int = 224
    dtype: Any = jnp.float32
    """Type of activations; parameters and statistics are float32."""


_DEPTH_50, _DEPTH_101 = (3, 4, 6, 3), (3, 4, 23, 3)
SIZES: dict[str, WideResNetConfig] = {
    "tiny": WideResNetConfig((1, 1), 8, 2, 10, 16),
    "mini": WideResNetConfig((2, 2, 2), 16, 2, 10, 32),
    "250M": WideResNetConfig(_DEPTH_50, 160, 2),
    "500M": WideResNetConfig(_DEPTH_50, 224, 2),
    "1B": WideResNetConfig(_DEPTH_50, 320, 2),
    "2B": WideResNetConfig(_DEPTH_50, 448, 2),
    "4B": WideResNetConfig(_DEPTH_50, 640, 2),
    "6.8B": WideResNetConfig(_DEPTH_50, 320, 16),
    "13B": WideResNetConfig(_DEPTH_101, 320, 16),
}
"""250M to 13B are the sizes of Alpa's weak-scaling runs (Zheng et al. 2022)."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each followed by batch norm, around a residual."""

    channels: int
    width_factor: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm, use_running_average=False, momentum=0.9, epsilon=1e-5, dtype=self.dtype
        )
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.channels, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.channels * self.width_factor, (3, 3), strides)(y)))
        y = norm(scale_init=nn.initializers.zeros)(conv(4 * self.channels, (1, 1))(y))
        if x.shape != y.shape:
            x = conv(4 * self.channels, (1, 1), strides, name="project")(x)
            x = norm(name="project_norm")(x)
        return nn.relu(x + y)


class WideResNet(nn.Module):
    config: WideResNetConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, float32 [batch, classes], of images [batch, height, width, 3].

        With the statistics of the batch, which move the running ones in "batch_stats".
        """
        c = self.config
        x = images.astype(c.dtype)
        x = nn.Conv(c.channels, (7, 7), (2, 2), use_bias=False, dtype=c.dtype, name="stem")(x)
        x = nn.BatchNorm(False, momentum=0.9, epsilon=1e-5, dtype=c.dtype, name="stem_norm")(x)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(c.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage_{stage}_block_{block}"
                channels = c.channels * 2**stage
                x = Bottleneck(channels, c.width_factor, stride, c.dtype, name=name)(x)
        x = x.mean((1, 2)).astype(jnp.float32)
        return nn.Dense(c.num_classes, name="head")(x)


def init_state(config: WideResNetConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "batch_stats", "opt_state"}."""
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    return fresh_state(init_variables(WideResNet(config), seed, images), optimizer)


def random_batch(config: WideResNetConfig, batch_size: int, seed: int = 0) -> Batch:
    """{"images": float32 [batch, height, width, 3], "labels": int32 [batch]}."""
    return random_images(config, batch_size, seed)


def abstract_state(config: WideResNetConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: WideResNetConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(
    config: WideResNetConfig, params: Any, batch: Batch, batch_stats: Any
) -> tuple[jax.Array, Any]:
    """Mean cross entropy, float32 [], and the new running statistics."""
    variables = {"params": params, "batch_stats": batch_stats}
    logits, written = WideResNet(config).apply(variables, batch["images"], mutable=["batch_stats"])
    return cross_entropy(logits, batch["labels"]).mean(), written["batch_stats"]


def make_train_step(config: WideResNetConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; the batch as in `random_batch`."""

    def train_step(state: State, batch: Batch) -> tuple[State, jax.Array]:
        loss_and_grads = jax.value_and_grad(partial(loss, config), has_aux=True)
        (value, stats), grads = loss_and_grads(state["params"], batch, state["batch_stats"])
        return update({**state, "batch_stats": stats}, grads, optimizer), value

    return train_step
