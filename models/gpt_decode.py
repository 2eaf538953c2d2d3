"""One step of greedy decoding by a GPT (models/gpt.py) with a KV cache.

The cache is a dict: the keys and values of every block, [batch, sequence, heads, width / heads] of
the config's dtype each, in "blocks", and how many tokens are in it, int32 [], in "position".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .gpt import GPT, SIZES, GPTConfig
from .training import abstract, init_variables

__all__ = [
    "SIZES",
    "abstract_cache",
    "abstract_params",
    "abstract_tokens",
    "decode_logits",
    "init_cache",
    "init_params",
    "make_decode_step",
]

Cache = dict[str, Any]


def init_params(config: GPTConfig, seed: int = 0) -> Any:
    """Fresh parameters, those of `models.gpt.init_state`."""
    tokens = jnp.zeros((1, config.sequence_length), jnp.int32)
    return init_variables(GPT(config), seed, tokens)["params"]


def init_cache(config: GPTConfig, batch_size: int) -> Cache:
    """The cache before the first token."""
    tokens, position = jnp.zeros((batch_size, 1), jnp.int32), jnp.int32(0)
    blocks = abstract(GPT(config).init, jax.random.key(0), tokens, position)["cache"]
    return {
        "blocks": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blocks),
        "position": position,
    }


def abstract_params(config: GPTConfig) -> Any:
    """Shapes and dtypes of the parameters."""
    return abstract(init_params, config)


def abstract_cache(config: GPTConfig, batch_size: int) -> Cache:
    """Shapes and dtypes of the cache."""
    return abstract(init_cache, config, batch_size)


def abstract_tokens(batch_size: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a step's tokens."""
    return jax.ShapeDtypeStruct((batch_size,), jnp.int32)


def decode_logits(
    config: GPTConfig, params: Any, cache: Cache, tokens: jax.Array
) -> tuple[jax.Array, Cache]:
    """Logits, float32 [batch, vocab], of what follows int32 tokens [batch]; the cache with them."""
    position = cache["position"]
    logits, written = GPT(config).apply(
        {"params": params, "cache": cache["blocks"]}, tokens[:, None], position, mutable=["cache"]
    )
    return logits[:, 0], {"blocks": written["cache"], "position": position + 1}


def make_decode_step(config: GPTConfig) -> Callable[[Any, Cache, jax.Array], Any]:
    """`step(params, cache, tokens) -> (next_tokens, cache)`; tokens: int32 [batch].

    At most `config.sequence_length` steps: a further one would overwrite the last place.
    """

    def decode_step(params: Any, cache: Cache, tokens: jax.Array) -> tuple[jax.Array, Cache]:
        logits, cache = decode_logits(config, params, cache, tokens)
        return logits.argmax(-1).astype(jnp.int32), cache

    return decode_step
