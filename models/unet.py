"""The UNet of denoising diffusion models (Ho, Jain and Abbeel 2020) in flax linen.

Residual blocks of GroupNorm, swish and 3x3 convolutions, which the time step shifts; self-attention
at low resolutions; sampling down by a convolution of stride 2 and up by a convolution after
repeating each pixel; every activation on the way down is concatenated on the way up. Images are
NHWC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .training import Batch, State, TrainStep, abstract, fresh_state, init_variables, train_step_of
from .transformer import Attention

NUM_TIMES = 1000
"""Diffusion steps; the variance of the noise grows linearly from 1e-4 to 0.02."""
_SIGNAL = np.cumprod(1 - np.linspace(1e-4, 0.02, NUM_TIMES)).astype(np.float32)
"""Share of the image's variance that is left at each time."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet."""

    image_size: int = 32
    image_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level over `channels`; each level after the first halves the resolution."""
    blocks: int = 2
    """Residual blocks of each level on the way down; one more on the way up."""
    attention: tuple[int, ...] = (16,)
    """Resolutions with self-attention; the lowest level has one more in the middle."""
    num_heads: int = 1
    num_groups: int = 32
    dtype: Any = jnp.float32
    """Type of activations; parameters and statistics are float32."""


def _alpa(channels: int) -> UNetConfig:
    return UNetConfig(32, 4, channels, (1, 2, 4, 4), 1, (32, 16, 8), num_heads=8)


SIZES: dict[str, UNetConfig] = {
    "tiny": UNetConfig(8, 3, 8, (1, 2), 1, (4,), num_heads=2, num_groups=4),
    "mini": UNetConfig(16, 3, 32, (1, 2, 2), 1, (8,), num_heads=4, num_groups=8),
    "36M": UNetConfig(),
    "470M": _alpa(320),
    "1B": _alpa(480),
    "1.2B": _alpa(512),
    "1.8B": _alpa(640),
    "2B": _alpa(672),
}
"""36M is the paper's model for CIFAR-10; 470M to 2B have the channels of Alpa's benchmark, whose
model has text cross-attention besides."""


class ResidualBlock(nn.Module):
    channels: int
    num_groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        norm = partial(nn.GroupNorm, self.num_groups, dtype=self.dtype)
        conv = partial(nn.Conv, self.channels, (3, 3), dtype=self.dtype)
        y = conv()(nn.swish(norm()(x)))
        y += nn.Dense(self.channels, dtype=self.dtype, name="time")(nn.swish(time))[:, None, None]
        y = conv(kernel_init=nn.initializers.zeros)(nn.swish(norm()(y)))
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="project")(x)
        return x + y


class PixelAttention(nn.Module):
    """Self-attention among the pixels of an image, around a residual."""

    num_heads: int
    num_groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pixels = nn.GroupNorm(self.num_groups, dtype=self.dtype)(x)
        pixels = pixels.reshape(x.shape[0], -1, x.shape[-1])
        return x + Attention(self.num_heads, self.dtype, name="attention")(pixels).reshape(x.shape)


def time_waves(times: jax.Array, size: int) -> jax.Array:
    """Sines and cosines of int32 times [batch], float32 [batch, size] (Vaswani et al. 2017)."""
    rates = np.exp(-np.log(10000) * np.arange(size // 2) / (size // 2 - 1)).astype(np.float32)
    angles = times[:, None].astype(jnp.float32) * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class UNet(nn.Module):
    config: UNetConfig

    @nn.compact
    def __call__(self, images: jax.Array, times: jax.Array) -> jax.Array:
        """The noise, float32, in noisy images [batch, height, width, image_channels] at int32 times
        [batch]."""
        c = self.config
        conv = partial(nn.Conv, kernel_size=(3, 3), dtype=c.dtype)

        def block(x: jax.Array, channels: int, name: str) -> jax.Array:
            x = ResidualBlock(channels, c.num_groups, c.dtype, name=name)(x, time)
            return attend(x, f"{name}_attention") if x.shape[1] in c.attention else x

        def attend(x: jax.Array, name: str) -> jax.Array:
            return PixelAttention(c.num_heads, c.num_groups, c.dtype, name=name)(x)

        dense = partial(nn.Dense, 4 * c.channels, dtype=c.dtype)
        time = dense(name="time_in")(time_waves(times, c.channels).astype(c.dtype))
        time = dense(name="time_out")(nn.swish(time))
        x = conv(c.channels, name="stem")(images.astype(c.dtype))
        skips = [x]
        for level, multiplier in enumerate(c.multipliers):
            for i in range(c.blocks):
                x = block(x, c.channels * multiplier, f"down_{level}_{i}")
                skips.append(x)
            if level + 1 < len(c.multipliers):
                x = conv(x.shape[-1], strides=(2, 2), name=f"down_{level}_sample")(x)
                skips.append(x)
        x = ResidualBlock(x.shape[-1], c.num_groups, c.dtype, name="middle_0")(x, time)
        x = attend(x, "middle_attention")
        x = ResidualBlock(x.shape[-1], c.num_groups, c.dtype, name="middle_1")(x, time)
        for level, multiplier in reversed(list(enumerate(c.multipliers))):
            for i in range(c.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], -1)
                x = block(x, c.channels * multiplier, f"up_{level}_{i}")
            if level:
                x = x.repeat(2, 1).repeat(2, 2)
                x = conv(x.shape[-1], name=f"up_{level}_sample")(x)
        x = nn.swish(nn.GroupNorm(c.num_groups, dtype=c.dtype, name="head_norm")(x))
        x = conv(c.image_channels, kernel_init=nn.initializers.zeros, name="head")(x)
        return x.astype(jnp.float32)


def _images(config: UNetConfig, batch_size: int) -> tuple[int, ...]:
    return (batch_size, config.image_size, config.image_size, config.image_channels)


def init_state(config: UNetConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "opt_state"}."""
    images, times = jnp.zeros(_images(config, 1)), jnp.zeros(1, jnp.int32)
    return fresh_state(init_variables(UNet(config), seed, images, times), optimizer)


def random_batch(config: UNetConfig, batch_size: int, seed: int = 0) -> Batch:
    """{"images", "noise": float32 [batch, height, width, image_channels], "times": int32 [batch]}:
    clean images, and the standard normal noise and the time at which to learn from them."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "images": jax.random.normal(keys[0], _images(config, batch_size)),
        "noise": jax.random.normal(keys[1], _images(config, batch_size)),
        "times": jax.random.randint(keys[2], (batch_size,), 0, NUM_TIMES),
    }


def abstract_state(config: UNetConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: UNetConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(config: UNetConfig, params: Any, batch: Batch) -> jax.Array:
    """Mean squared error of the predicted noise (the paper's L_simple), float32 []."""
    signal = jnp.asarray(_SIGNAL)[batch["times"]][:, None, None, None]
    noisy = jnp.sqrt(signal) * batch["images"] + jnp.sqrt(1 - signal) * batch["noise"]
    predicted: Any = UNet(config).apply({"params": params}, noisy, batch["times"])
    return jnp.mean((batch["noise"] - predicted) ** 2)


def make_train_step(config: UNetConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; the batch as in `random_batch`."""
    return train_step_of(partial(loss, config), optimizer)
