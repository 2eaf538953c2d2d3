"""A GPT language model (Radford et al. 2019) in flax linen, with named sizes.

Pre-norm transformer blocks, learned positions, tied input and output embedding. The model brings
its own tensor-parallel layout as NamedShardings (`state_shardings`), Megatron's (Shoeybi et al.
2019): attention heads, the wide layer of the MLP and the vocabulary on the mesh axis "model", the
batch on "data".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


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
}
"""nano to small are byte-level; the others are the sizes of Alpa's weak-scaling runs."""


class Attention(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        size = c.hidden_size // c.num_heads
        heads = [
            nn.DenseGeneral((c.num_heads, size), dtype=c.dtype, name=name)(x)
            for name in ("query", "key", "value")
        ]
        query, key, value = heads
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / size**0.5
        length = x.shape[1]
        mask = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(mask, scores.astype(jnp.float32), -1e9)
        weights = jax.nn.softmax(scores).astype(c.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return nn.DenseGeneral(c.hidden_size, axis=(-2, -1), dtype=c.dtype, name="out")(mixed)


class Block(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        x = x + Attention(c, name="attention")(nn.LayerNorm(dtype=c.dtype)(x))
        y = nn.Dense(4 * c.hidden_size, dtype=c.dtype, name="up")(nn.LayerNorm(dtype=c.dtype)(x))
        return x + nn.Dense(c.hidden_size, dtype=c.dtype, name="down")(nn.gelu(y))


class GPT(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits, float32 [batch, sequence, vocab], of int32 tokens [batch, sequence]."""
        c = self.config
        embed = nn.Embed(c.vocab_size, c.hidden_size, dtype=c.dtype, name="embed")
        positions = nn.Embed(c.sequence_length, c.hidden_size, dtype=c.dtype, name="positions")
        x = embed(tokens) + positions(jnp.arange(tokens.shape[1]))
        for layer in range(c.num_layers):
            x = Block(c, name=f"block_{layer}")(x)
        return embed.attend(nn.LayerNorm(dtype=c.dtype)(x)).astype(jnp.float32)


def make_optimizer(learning_rate: float = 3e-4, steps: int = 1000) -> optax.GradientTransformation:
    """AdamW with clipping by global norm and a warm-up cosine schedule."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, min(20, steps // 10)), max(2, steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))


def init_state(config: GPTConfig, optimizer: Any, seed: int = 0) -> dict[str, Any]:
    """Fresh training state: {"params", "opt_state"}."""
    tokens = jnp.zeros((1, config.sequence_length), jnp.int32)
    params = GPT(config).init(jax.random.key(seed), tokens)["params"]
    return {"params": params, "opt_state": optimizer.init(params)}


def make_train_step(config: GPTConfig, optimizer: Any) -> Callable[..., Any]:
    """`step(state, batch) -> (state, loss)`; batch: {"tokens": int32 [batch, sequence + 1]}."""
    model = GPT(config)

    def train_step(state: dict[str, Any], batch: dict[str, jax.Array]) -> Any:
        def loss_fn(params: Any) -> jax.Array:
            tokens = batch["tokens"]
            logits = model.apply({"params": params}, tokens[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean()

        loss, grads = jax.value_and_grad(loss_fn)(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt_state": opt_state}, loss

    return train_step


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
