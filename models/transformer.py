"""Parts of transformers (Vaswani et al. 2017) that the models share, in flax linen.

Activations are [batch, length, width] of `dtype`; parameters, softmax and the statistics of
layer norms are float32.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def causal_mask(length: int) -> jax.Array:
    """Bool [length, length]: row q may look at columns k <= q."""
    return jnp.tril(jnp.ones((length, length), bool))


class Attention(nn.Module):
    """Multi-head self-attention.

    `mask`: bool, broadcast to [batch, heads, queries, keys]; None: everything is seen.
    `position` (int32 []) says that x is what follows the first `position` tokens: their keys and
    values are read from the collection "cache" ([batch, length, heads, width / heads], length as in
    the mask), and those of x are written there.
    """

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, position: jax.Array | None = None
    ) -> jax.Array:
        width = x.shape[-1]
        size = width // self.num_heads
        query, key, value = (
            nn.DenseGeneral((self.num_heads, size), dtype=self.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        if position is not None:
            assert mask is not None, "decoding needs a mask over the whole cache"
            key = self._cached("cached_key", key, mask.shape[-1], position)
            value = self._cached("cached_value", value, mask.shape[-1], position)
        scores = (jnp.einsum("bqhd,bkhd->bhqk", query, key) / size**0.5).astype(jnp.float32)
        if mask is not None:
            scores = jnp.where(mask, scores, -1e9)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(mixed)

    def _cached(self, name: str, new: jax.Array, length: int, position: jax.Array) -> jax.Array:
        """All keys or values so far, the new ones written at `position`."""
        shape = (new.shape[0], length, *new.shape[2:])
        cache = self.variable("cache", name, jnp.zeros, shape, new.dtype)
        cache.value = lax.dynamic_update_slice(cache.value, new, (0, position, 0, 0))
        return cache.value


def feed_forward(x: jax.Array, inner_size: int, dtype: Any) -> jax.Array:
    """Dense "up", GELU (tanh approximation), dense "down", in the module that calls it."""
    y = nn.gelu(nn.Dense(inner_size, dtype=dtype, name="up")(x))
    return nn.Dense(x.shape[-1], dtype=dtype, name="down")(y)


class Block(nn.Module):
    """Pre-norm transformer block (Radford et al. 2019)."""

    num_heads: int
    inner_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, position: jax.Array | None = None
    ) -> jax.Array:
        attention = Attention(self.num_heads, self.dtype, name="attention")
        x = x + attention(nn.LayerNorm(dtype=self.dtype)(x), mask, position)
        return x + feed_forward(nn.LayerNorm(dtype=self.dtype)(x), self.inner_size, self.dtype)
