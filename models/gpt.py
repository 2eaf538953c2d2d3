"""A GPT language model (Radford et al. 2019) in flax linen, with named sizes.

Pre-norm transformer blocks, learned positions, tied input and output embedding. The model brings
its own tensor-parallel layout as NamedShardings (`state_shardings`), Megatron's (Shoeybi et al.
2019): attention heads, the wide layer of the MLP and the vocabulary on the mesh axis "model", the
batch on "data".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .training import (
    Batch,
    State,
    TrainStep,
    abstract,
    cross_entropy,
    fresh_state,
    init_variables,
    make_optimizer,
    random_tokens,
    train_step_of,
)
from .transformer import Block, causal_mask

__all__ = [
    "GPT",
    "SIZES",
    "GPTConfig",
    "abstract_batch",
    "abstract_state",
    "batch_sharding",
    "init_state",
    "loss",
    "make_optimizer",
    "make_train_step",
    "random_batch",
    "state_shardings",
]


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT."""

    vocab_size: int = 256
    num_layers: int = 4
    num_heads: int = 8
    hidden_size: int = 128
    sequence_length: int = 128
    dtype: Any = jnp.float32
    """Type of activations; parameters are float32."""
    remat: bool = False
    """Whether the backward phase computes each block again rather than keep its activations."""


SIZES: dict[str, GPTConfig] = {
    "nano": GPTConfig(num_layers=2, num_heads=8, hidden_size=32, sequence_length=32),
    "tiny": GPTConfig(num_layers=2, num_heads=8, hidden_size=64, sequence_length=64),
    "mini": GPTConfig(),
    "small": GPTConfig(num_layers=8, num_heads=8, hidden_size=256, sequence_length=256),
    "125M": GPTConfig(51200, 12, 12, 768, 1024, jnp.bfloat16),
    "350M": GPTConfig(51200, 24, 16, 1024, 1024, jnp.bfloat16),
    "760M": GPTConfig(51200, 24, 16, 1536, 1024, jnp.bfloat16),
    "1.3B": GPTConfig(51200, 24, 32, 2048, 1024, jnp.bfloat16),
    "2.6B": GPTConfig(51200, 32, 32, 2560, 1024, jnp.bfloat16),
    "6.7B": GPTConfig(51200, 32, 32, 4096, 1024, jnp.bfloat16),
    "15B": GPTConfig(51200, 48, 40, 5120, 1024, jnp.bfloat16),
    "39B": GPTConfig(51200, 48, 64, 8192, 1024, jnp.bfloat16),
    "76B": GPTConfig(51200, 60, 80, 10240, 1024, jnp.bfloat16),
    "175B": GPTConfig(51200, 96, 96, 12288, 2048, jnp.bfloat16, remat=True),
}
"""nano to small are byte-level; 175B is GPT-3, the others are the sizes of Alpa's weak-scaling
runs."""


class GPT(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, position: jax.Array | None = None) -> jax.Array:
        """Logits, float32 [batch, length, vocab], of int32 tokens [batch, length].

        With `position` (int32 []) the tokens are what follows the first `position` ones, which the
        collection "cache" remembers (models/gpt_decode.py).
        """
        c = self.config
        embed = nn.Embed(c.vocab_size, c.hidden_size, dtype=c.dtype, name="embed")
        positions = nn.Embed(c.sequence_length, c.hidden_size, dtype=c.dtype, name="positions")
        places = jnp.arange(tokens.shape[1])
        mask = causal_mask(tokens.shape[1])
        if position is not None:
            places += position
            mask = jnp.arange(c.sequence_length) <= places[:, None]
        x = embed(tokens) + positions(places)
        block = nn.remat(Block) if c.remat else Block
        for layer in range(c.num_layers):
            x = block(c.num_heads, 4 * c.hidden_size, c.dtype, name=f"block_{layer}")(
                x, mask, position
            )
        return embed.attend(nn.LayerNorm(dtype=c.dtype)(x)).astype(jnp.float32)


def init_state(config: GPTConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "opt_state"}."""
    tokens = jnp.zeros((1, config.sequence_length), jnp.int32)
    return fresh_state(init_variables(GPT(config), seed, tokens), optimizer)


def random_batch(config: GPTConfig, batch_size: int, seed: int = 0) -> Batch:
    """{"tokens": int32 [batch, sequence + 1]}: inputs, and the same shifted by one as targets."""
    return random_tokens(config, batch_size, seed)


def abstract_state(config: GPTConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: GPTConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(config: GPTConfig, params: Any, batch: Batch) -> jax.Array:
    """Mean cross entropy of each next token, float32 []."""
    tokens = batch["tokens"]
    logits: Any = GPT(config).apply({"params": params}, tokens[:, :-1])
    return cross_entropy(logits, tokens[:, 1:]).mean()


def make_train_step(config: GPTConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; batch: {"tokens": int32 [batch, sequence + 1]}."""
    return train_step_of(partial(loss, config), optimizer)


_TENSOR_PARALLEL: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("query", "kernel"), (None, "model", None)),
    (("key", "kernel"), (None, "model", None)),
    (("value", "kernel"), (None, "model", None)),
    (("query", "bias"), ("model", None)),
    (("key", "bias"), ("model", None)),
    (("value", "bias"), ("model", None)),
    (("out", "kernel"), ("model", None, None)),
    (("up", "kernel"), (None, "model")),
    (("up", "bias"), ("model",)),
    (("down", "kernel"), ("model", None)),
    (("embed", "embedding"), ("model", None)),
)
"""Parameters that tensor parallelism splits, by the end of their path."""


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The model's own layout on a mesh with the axes "data" and "model": a NamedSharding a leaf.

    Optimizer state lies as the parameter that it belongs to.
    """

    def of(path: Any, leaf: Any) -> NamedSharding:
        names = tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
        for suffix, spec in _TENSOR_PARALLEL:
            if names[-len(suffix) :] == suffix and jnp.ndim(leaf) == len(spec):
                return NamedSharding(mesh, P(*spec))
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(of, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The batch on the axis "data"."""
    return NamedSharding(mesh, P("data"))
