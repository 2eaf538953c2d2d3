"""A mixture-of-experts language model in flax linen: GShard's layers (Lepikhin et al. 2021).

A decoder as models/gpt.py whose every second block has, for its MLP, experts of which each token
goes to two. Routing is the paper's algorithm 1: within groups of tokens, each expert takes its
first choices in order, then second choices, up to its capacity; what finds no room passes by on the
residual stream. As in Alpa's benchmark the second expert is always used (the paper drops it at
random when its gate is small), and all inner layers are 8 times as wide as the model.
"""

from __future__ import annotations

import math
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
    random_tokens,
    train_step_of,
)
from .transformer import Attention, Block, causal_mask


@dataclass(frozen=True)
class MoEConfig:
    """Sizes of a mixture-of-experts transformer."""

    vocab_size: int = 256
    num_layers: int = 4
    num_heads: int = 8
    hidden_size: int = 64
    sequence_length: int = 64
    num_experts: int = 8
    inner_size: int = 512
    """Width inside an MLP and inside an expert."""
    group_size: int = 64
    """Tokens that are routed together; a smaller batch is one group."""
    capacity_factor: float = 2.0
    """An expert takes capacity_factor * group_size / num_experts tokens of a group."""
    balance_weight: float = 0.01
    """Weight of the load-balancing loss."""
    dtype: Any = jnp.float32
    """Type of activations; parameters and routing are float32."""
    remat: bool = False
    """Whether the backward phase computes each block again rather than keep its activations."""


def _alpa(hidden_size: int, num_layers: int, num_experts: int) -> MoEConfig:
    return MoEConfig(
        vocab_size=32000,
        num_layers=num_layers,
        num_heads=16,
        hidden_size=hidden_size,
        sequence_length=1024,
        num_experts=num_experts,
        inner_size=8 * hidden_size,
        group_size=2048,
        dtype=jnp.bfloat16,
    )


SIZES: dict[str, MoEConfig] = {
    "tiny": MoEConfig(64, 2, 4, 32, 16, num_experts=4, inner_size=64, group_size=32),
    "mini": MoEConfig(),
    "380M": _alpa(768, 8, 8),
    "690M": _alpa(768, 8, 16),
    "1.3B": _alpa(768, 16, 16),
    "2.4B": _alpa(1024, 16, 16),
    "7.1B": _alpa(1280, 16, 32),
    "10B": _alpa(1536, 16, 32),
    "27B": _alpa(2048, 16, 48),
    "70B": _alpa(2048, 32, 64),
    "140B": _alpa(2048, 32, 128),
}
"""380M to 140B are the sizes of Alpa's weak-scaling runs (Zheng et al. 2022)."""


def route(scores: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Top-2 routing of router scores, float32 [groups, tokens, experts].

    Gives the weight of each token at each place of each expert's queue, float32 [groups, tokens,
    experts, capacity], and the load-balancing loss, float32 []: the sum over experts of the share
    of tokens whose first choice it is times its mean gate, times the number of experts, so that
    1 is balanced.
    """
    gates = jax.nn.softmax(scores)
    experts = scores.shape[-1]
    first = jax.nn.one_hot(gates.argmax(-1), experts, dtype=jnp.int32)
    second = jax.nn.one_hot(jnp.where(first, -1, gates).argmax(-1), experts, dtype=jnp.int32)
    queued = (
        jnp.cumsum(first, 1) - first,
        jnp.cumsum(second, 1) - second + first.sum(1, keepdims=True),
    )
    weights = [(gates * chosen).sum(-1) for chosen in (first, second)]
    combine = jnp.zeros((*scores.shape, capacity))
    for chosen, before, weight in zip((first, second), queued, weights, strict=True):
        # a place beyond the capacity is a row of zeros: the token is dropped
        place = jax.nn.one_hot((before * chosen).sum(-1), capacity)
        share = weight / sum(weights)
        combine += (share[..., None] * chosen)[..., None] * place[..., None, :]
    balance = experts * (first.mean(1) * gates.mean(1)).sum(-1).mean()
    return combine, balance


class Experts(nn.Module):
    """The experts of a layer: their output [batch, length, width], and the load-balancing loss."""

    config: MoEConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        count, width = x.shape[0] * x.shape[1], x.shape[2]
        size = min(c.group_size, count)
        if count % size:
            raise ValueError(f"{count} tokens cannot be split into groups of {size}")
        capacity = max(1, math.ceil(c.capacity_factor * size / c.num_experts))
        init = nn.initializers.lecun_normal(batch_axis=(0,))
        up = self.param("up", init, (c.num_experts, width, c.inner_size))
        down = self.param("down", init, (c.num_experts, c.inner_size, width))

        groups = x.reshape(-1, size, width)
        router = nn.Dense(c.num_experts, use_bias=False, dtype=jnp.float32, name="router")
        combine, balance = route(router(groups.astype(jnp.float32)), capacity)
        dispatch = (combine > 0).astype(c.dtype)
        rows = jnp.einsum("gsec,gsm->egcm", dispatch, groups)
        inner = jax.nn.relu(jnp.einsum("egcm,emh->egch", rows, up.astype(c.dtype)))
        rows = jnp.einsum("egch,ehm->egcm", inner, down.astype(c.dtype))
        y = jnp.einsum("gsec,egcm->gsm", combine.astype(c.dtype), rows)
        return y.reshape(x.shape), balance


class ExpertBlock(nn.Module):
    """Pre-norm transformer block with experts for its MLP."""

    config: MoEConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        attention = Attention(c.num_heads, c.dtype, name="attention")
        x = x + attention(nn.LayerNorm(dtype=c.dtype)(x), mask)
        y, balance = Experts(c, name="experts")(nn.LayerNorm(dtype=c.dtype)(x))
        return x + y, balance


class MoE(nn.Module):
    config: MoEConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits, float32 [batch, length, vocab], of int32 tokens [batch, length], and the mean
        load-balancing loss of the layers with experts, float32 []."""
        c = self.config
        embed = nn.Embed(c.vocab_size, c.hidden_size, dtype=c.dtype, name="embed")
        positions = nn.Embed(c.sequence_length, c.hidden_size, dtype=c.dtype, name="positions")
        x = embed(tokens) + positions(jnp.arange(tokens.shape[1]))
        mask = causal_mask(tokens.shape[1])
        dense, expert = (
            (nn.remat(Block), nn.remat(ExpertBlock)) if c.remat else (Block, ExpertBlock)
        )
        balances: list[jax.Array] = []
        for layer in range(c.num_layers):
            name = f"block_{layer}"
            if layer % 2:
                x, balance = expert(c, name=name)(x, mask)
                balances.append(balance)
            else:
                x = dense(c.num_heads, c.inner_size, c.dtype, name=name)(x, mask)
        logits = embed.attend(nn.LayerNorm(dtype=c.dtype)(x)).astype(jnp.float32)
        return logits, sum(balances, jnp.float32(0)) / max(1, len(balances))


def init_state(config: MoEConfig, optimizer: Any, seed: int = 0) -> State:
    """Fresh training state: {"params", "opt_state"}."""
    tokens = jnp.zeros((1, config.sequence_length), jnp.int32)
    return fresh_state(init_variables(MoE(config), seed, tokens), optimizer)


def random_batch(config: MoEConfig, batch_size: int, seed: int = 0) -> Batch:
    """{"tokens": int32 [batch, sequence + 1]}: inputs, and the same shifted by one as targets."""
    return random_tokens(config, batch_size, seed)


def abstract_state(config: MoEConfig, optimizer: Any) -> State:
    """Shapes and dtypes of the training state."""
    return abstract(init_state, config, optimizer)


def abstract_batch(config: MoEConfig, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch."""
    return abstract(random_batch, config, batch_size)


def loss(config: MoEConfig, params: Any, batch: Batch) -> jax.Array:
    """Mean cross entropy of each next token plus the weighted load-balancing loss, float32 []."""
    tokens = batch["tokens"]
    output: Any = MoE(config).apply({"params": params}, tokens[:, :-1])
    logits, balance = output
    return cross_entropy(logits, tokens[:, 1:]).mean() + config.balance_weight * balance


def make_train_step(config: MoEConfig, optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)`; batch: {"tokens": int32 [batch, sequence + 1]}."""
    return train_step_of(partial(loss, config), optimizer)
