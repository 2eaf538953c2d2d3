"""Decoding with the KV cache says what the whole GPT says, token by token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

import autopar
from models import gpt_decode
from models.gpt import GPT

from .reference import gpt_logits
from .tiny import quickly, random_params, tiny

CASE = tiny("gpt")
CONFIG = dataclasses.replace(CASE.config, sequence_length=8)
PARAMS: Any = random_params(gpt_decode.abstract_params(CONFIG))
LOGITS: Any = quickly(lambda tokens: GPT(CONFIG).apply({"params": PARAMS}, tokens))


def test_logits_of_each_token() -> None:
    tokens = CASE.batch["tokens"][:4, :8]
    whole = LOGITS(tokens)
    np.testing.assert_allclose(
        whole, gpt_logits(jax.tree.map(np.asarray, PARAMS), tokens, CONFIG.num_layers), atol=1e-4
    )
    step = quickly(lambda *args: gpt_decode.decode_logits(CONFIG, *args))
    cache = gpt_decode.init_cache(CONFIG, 4)
    for position in range(8):
        logits, cache = step(PARAMS, cache, tokens[:, position])
        np.testing.assert_allclose(logits, whole[:, position], rtol=1e-4, atol=1e-5)
    assert int(cache["position"]) == 8


def generate(step: Any, tokens: Any) -> list[list[int]]:
    """Seven greedy tokens after each of `tokens`."""
    cache, found = gpt_decode.init_cache(CONFIG, len(tokens)), []
    for _ in range(7):
        tokens, cache = step(PARAMS, cache, tokens)
        found.append(np.asarray(tokens).tolist())
    return found


def test_greedy_tokens() -> None:
    """Every token is the most likely one after the text before it, here and on eight devices."""
    first = CASE.batch["tokens"][:, 0]
    step = gpt_decode.make_decode_step(CONFIG)
    found = generate(quickly(step), first)
    text = np.stack([first, *found], 1)
    whole = LOGITS(text[:, :-1])
    np.testing.assert_array_equal(text[:, 1:], whole.argmax(-1))
    parallel = autopar.parallelize(step, method="dp", batch_argnums=(1, 2))
    assert generate(parallel, first) == found


def test_abstract_arguments() -> None:
    """They are made without computing anything, and the step gives what it takes."""
    config = dataclasses.replace(gpt_decode.SIZES["76B"], num_layers=2)
    cache = gpt_decode.abstract_cache(config, 4)
    key = cache["blocks"]["block_0"]["attention"]["cached_key"]
    assert key.shape == (4, 1024, 80, 128) and key.dtype == "bfloat16"
    arguments = (gpt_decode.abstract_params(config), cache, gpt_decode.abstract_tokens(4))
    tokens, after = jax.eval_shape(gpt_decode.make_decode_step(config), *arguments)
    assert tokens == arguments[2] and after == cache
