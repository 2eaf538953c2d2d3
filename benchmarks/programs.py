"""Training steps that the benchmarks and tests compile: as a user writes them, with named sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GPTSizes:
    """A GPT's sizes."""

    layers: int = 24
    width: int = 256
    heads: int = 8
    sequence: int = 128
    vocabulary: int = 1024
    batch: int = 8


def gpt_step(sizes: GPTSizes | None = None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A flax linen GPT with optax.adamw: the step function and its abstract arguments."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    n = sizes or GPTSizes()

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            y = nn.LayerNorm()(x)
            q, k, v = (nn.DenseGeneral((n.heads, n.width // n.heads))(y) for _ in range(3))
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (n.width // n.heads) ** 0.5
            mask = jnp.tril(jnp.ones((n.sequence, n.sequence), bool))
            weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
            x = x + nn.DenseGeneral(n.width, axis=(-2, -1))(
                jnp.einsum("bhqk,bkhd->bqhd", weights, v)
            )
            y = nn.Dense(4 * n.width)(nn.LayerNorm()(x))
            return x + nn.Dense(n.width)(nn.gelu(y))

    class GPT(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any) -> Any:
            embed = nn.Embed(n.vocabulary, n.width)
            x = embed(tokens) + nn.Embed(n.sequence, n.width)(jnp.arange(n.sequence))
            for _ in range(n.layers):
                x = Block()(x)
            return embed.attend(nn.LayerNorm()(x))

    model, optimizer = GPT(), optax.adamw(1e-3)
    tokens = jax.ShapeDtypeStruct((n.batch, n.sequence), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    state = jax.eval_shape(optimizer.init, params)

    def step(params: Any, state: Any, tokens: Any, targets: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = model.apply(params, tokens)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, new_state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), new_state, value

    return step, (params, state, tokens, tokens)
