"""BERT (Devlin et al. 2019), masked language modelling, in flax linen.

Bidirectional post-norm blocks; token, position and type embeddings; the head of the paper's code:
dense, GELU, layer norm, then the tied token embedding with a bias. No next-sentence prediction, no
dropout. The input pipeline masks the tokens, as in the paper's code.
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
    train_step_of,
)
from .transformer import Attention, feed_forward


@dataclass(frozen=True)
class BERTConfig:
    """Sizes of a BERT."""

    vocab_size: int = 256
    num_layers: int = 2
    num_heads: int = 8
    hidden_size: int = 64
    sequence_length: int = 64
    num_types: int = 2
    """Kinds of segments."""
    dtype: Any = jnp.float32
    """Type of activations; parameters are float32."""
    remat: bool = False
    """Whether the backward phase computes each block again rather than keep its activations."""


SIZES: dict[str, BERTConfig] = {
    "tiny": BERTConfig(64, 1, 4, 32, 16),
    "mini": BERTConfig(),
    "110M": BERTConfig(30522, 12, 12, 768, 512, dtype=jnp.bfloat16),
    "340M": BERTConfig(30522, 24, 16, 1024, 512, dtype=jnp.bfloat16),
}
"""110M and 340M are the paper's BERT-base and BERT-large."""


class Block(nn.Module):
    """Post-norm transformer block (Vaswani et al. 2017)."""

    config: BERTConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        c = self.config
        attention = Attention(c.num_heads, c.dtype, name="attention")
        x = nn.LayerNorm(dtype=c.dtype)(x + attention(x, mask))
        return nn.LayerNorm(dtype=c.dtype)(x + feed_forward(x, 4 * c.hidden_size, c.dtype))


class BERT(nn.Module):
    config: BERTConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, types: jax.Array, valid: jax.Array) -> jax.Array:
        """Logits, float32 [batch, length, vocab], of int32 tokens and types [batch, length].

        Where `valid` (bool [batch, length]) is false is padding, which nothing attends to.
        """
        c = self.config
        embed = nn.Embed(c.vocab_size, c.hidden_size, dtype=c.dtype, name="embed")
        positions = nn.Embed(c.sequence_length, c.hidden_size, dtype=c.dtype, name="positions")
        kinds = nn.Embed(c.num_types, c.hidden_size, dtype=c.dtype, name="types")
        x = embed(tokens) + positions(jnp.arange(tokens.shape[1])) + kinds(types)
        x = nn.LayerNorm(dtype=c.dtype, name="embed_norm")(x)
        block = nn.remat(Block) if c.remat else Block
        for layer in range(c.num_layers):
            x = block(c, name=f"block_{layer}")(x, valid[:, None, None, :])
        x = nn.gelu(nn.Dense(c.hidden_size, dtype=c.dtype, name="head")(x))
        x = nn.LayerNorm(dtype=c.dtype, name="head_norm")(x)
        bias = self.param("head_bias", nn.initializers.zeros, (c.vocab_size,))
        return embed.attend(x).astype(jnp.float32) + bias


def init_state(config: BERTConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "opt_state"}."""
    tokens = jnp.zeros((1, config.sequence_length), jnp.int32)
    variables = init_variables(BERT(config), seed, tokens, tokens, tokens == 0)
    return fresh_state(variables, optimizer)


def random_batch(config: BERTConfig, batch_size: int, seed: int = 0) -> Batch:
    """Each [batch, sequence]: "tokens" (int32; 0, the mask, at 15% of the places), "types" (int32),
    "valid" (bool, false at the padding), "targets" (int32, the tokens before masking) and "masked"
    (bool, the places that count)."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shape = (batch_size, config.sequence_length)
    lengths = jax.random.randint(keys[0], (batch_size, 1), shape[1] // 2, shape[1] + 1)
    places = jnp.arange(shape[1])
    valid = places < lengths
    targets = jax.random.randint(keys[1], shape, 1, config.vocab_size)
    masked = valid & jax.random.bernoulli(keys[2], 0.15, shape)
    return {
        "tokens": jnp.where(masked, 0, targets),
        "types": (2 * places > lengths).astype(jnp.int32),
        "valid": valid,
        "targets": targets,
        "masked": masked,
    }


def abstract_state(config: BERTConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: BERTConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(config: BERTConfig, params: Any, batch: Batch) -> jax.Array:
    """Cross entropy of the original tokens, the mean over the masked places, float32 []."""
    inputs = (batch["tokens"], batch["types"], batch["valid"])
    logits: Any = BERT(config).apply({"params": params}, *inputs)
    losses = cross_entropy(logits, batch["targets"])
    return jnp.sum(losses * batch["masked"]) / jnp.maximum(batch["masked"].sum(), 1)


def make_train_step(config: BERTConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; the batch as in `random_batch`."""
    return train_step_of(partial(loss, config), optimizer)
