"""Small training steps as users write them: flax linen and nnx, equinox, plain pytrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

BATCH = 40
"""Examples a step. No other dimension of these models is a multiple of it, so that a gathered
dimension that is one holds the batch."""


@dataclass(frozen=True)
class Training:
    """`step(state, batch) -> (state, metrics)`, with a fresh state and batches."""

    step: Callable[[Any, Any], Any]
    state: Any
    batches: list[Any]


def _optimizer() -> optax.GradientTransformation:
    # A large eps: where gradients are rounding noise, Adam would scale it up to whole steps.
    schedule = optax.warmup_cosine_decay_schedule(1e-3, 1e-2, 2, 10)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, eps=1e-3))


def _supervised(model: nn.Module, shape: tuple[int, ...], classes: int = 10) -> Training:
    """A classifier in linen, batch statistics included where the model has them."""
    random = np.random.default_rng(0)
    batches = [
        {
            "x": random.normal(size=(BATCH, *shape)).astype(np.float32),
            "y": random.integers(0, classes, BATCH).astype(np.int32),
        }
        for _ in range(3)
    ]
    variables = model.init(jax.random.key(0), batches[0]["x"])
    optimizer = _optimizer()
    params = variables["params"]
    statistics = variables.get("batch_stats", {})

    def step(state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, written = model.apply(
                {"params": params, "batch_stats": state["statistics"]},
                batch["x"],
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            return losses.mean(), (logits, written.get("batch_stats", {}))

        (value, (logits, written)), grads = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        accuracy = (logits.argmax(-1) == batch["y"]).mean()
        new = {
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "statistics": written,
        }
        return new, {"loss": value, "accuracy": accuracy}

    state = {"params": params, "opt_state": optimizer.init(params), "statistics": statistics}
    return Training(step, state, batches)


# ---- images --------------------------------------------------------------------------------------


class _ResidualBlock(nn.Module):
    features: int
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Conv(self.features, (3, 3), self.strides, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=False, momentum=0.9)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), self.strides, use_bias=False)(x)
        return nn.relu(x + y)


class _ResNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (3, 3), (1, 1), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        x = _ResidualBlock(8)(x)
        x = _ResidualBlock(16, (2, 2))(x)
        return nn.Dense(10)(x.mean((1, 2)))


def resnet() -> Training:
    return _supervised(_ResNet(), (16, 16, 3))


class _ViT(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(32, (4, 4), (4, 4), padding="VALID")(x)
        x = x.reshape(x.shape[0], -1, 32)
        token = self.param("token", nn.initializers.zeros, (1, 1, 32))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], 32))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x)[:, 0])


def vit() -> Training:
    return _supervised(_ViT(), (16, 16, 3))


class _UNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        a = nn.relu(nn.Conv(8, (3, 3))(x))
        b = nn.relu(nn.GroupNorm(4)(nn.Conv(16, (3, 3), (2, 2))(a)))
        c = nn.relu(nn.Conv(16, (3, 3))(nn.avg_pool(b, (2, 2), (2, 2))))
        up = nn.relu(nn.ConvTranspose(16, (2, 2), (2, 2))(c))
        up = jnp.concatenate([up, b], -1)
        up = nn.relu(nn.ConvTranspose(8, (3, 3), (2, 2))(up))
        out = nn.Conv(3, (3, 3))(jnp.concatenate([up, a], -1))
        scaled = jax.image.resize(out, (*out.shape[:1], 8, 8, 3), "bilinear")
        return nn.Dense(10)(scaled.mean((1, 2)))


def unet() -> Training:
    return _supervised(_UNet(), (16, 16, 3))


# ---- language ------------------------------------------------------------------------------------

VOCAB, LENGTH, WIDTH, HEADS = 64, 16, 32, 4


def _tokens(seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, (BATCH, LENGTH + 1)).astype(np.int32) for _ in range(3)]


def _layer_norm(x: Any, scale: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def _transformer_layer(layer: Any, h: Any, mask: Any = None) -> Any:
    y = _layer_norm(h, layer["norm1"])
    q, k, v = jnp.split(jnp.einsum("btd,dk->btk", y, layer["qkv"]), 3, -1)
    q, k, v = (a.reshape(*a.shape[:2], HEADS, -1) for a in (q, k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 3
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(h.shape)
    h = h + mixed @ layer["out"]
    return h + jax.nn.gelu(_layer_norm(h, layer["norm2"]) @ layer["up"]) @ layer["down"]


def _layer_params(random: np.random.Generator, layers: tuple[int, ...]) -> dict[str, Any]:
    def normal(*shape: int) -> Any:
        return (random.normal(size=(*layers, *shape)) * 0.1).astype(np.float32)

    return {
        "qkv": normal(WIDTH, 3 * WIDTH),
        "out": normal(WIDTH, WIDTH),
        "up": normal(WIDTH, 4 * WIDTH),
        "down": normal(4 * WIDTH, WIDTH),
        "norm1": np.ones((*layers, WIDTH), np.float32),
        "norm2": np.ones((*layers, WIDTH), np.float32),
    }


def _training(loss: Callable[[Any, Any], Any], params: Any, batches: list[Any]) -> Training:
    optimizer = _optimizer()

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value}

    return Training(step, (params, optimizer.init(params)), batches)


def scanned_gpt(num_layers: int = 3) -> Training:
    """GPT: layers in a scan, each under jax.checkpoint; tied embedding."""
    random = np.random.default_rng(1)
    params = {
        "embed": (random.normal(size=(VOCAB, WIDTH)) * 0.3).astype(np.float32),
        "positions": (random.normal(size=(LENGTH, WIDTH)) * 0.1).astype(np.float32),
        "layers": _layer_params(random, (num_layers,)),
    }

    def loss(params: Any, tokens: Any) -> Any:
        mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))

        @jax.checkpoint
        def body(h: Any, layer: Any) -> Any:
            return _transformer_layer(layer, h, mask), None

        h = params["embed"][tokens[:, :-1]] + params["positions"]
        h = lax.scan(body, h, params["layers"])[0]
        logits = h @ params["embed"].T
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1)
        return -picked.mean()

    return _training(loss, params, _tokens())


def masked_lm() -> Training:
    """BERT-like: random masking by a key in the batch, dropout, a loss over the masked places."""
    random = np.random.default_rng(2)
    params = {
        "embed": (random.normal(size=(VOCAB, WIDTH)) * 0.3).astype(np.float32),
        "segments": (random.normal(size=(2, WIDTH)) * 0.1).astype(np.float32),
        "layers": [_layer_params(random, ()) for _ in range(2)],
        "bias": np.zeros(VOCAB, np.float32),
    }
    batches = [
        {"tokens": t, "segments": (np.arange(LENGTH + 1) > 5).astype(np.int32) + 0 * t,
         "seed": np.array([0, i], np.uint32)}
        for i, t in enumerate(_tokens(3))
    ]  # fmt: skip

    def loss(params: Any, batch: Any) -> Any:
        mask_key, drop_key = jax.random.split(jax.random.wrap_key_data(batch["seed"]))
        tokens = batch["tokens"]
        masked = jax.random.bernoulli(mask_key, 0.15, tokens.shape)
        h = params["embed"][jnp.where(masked, 0, tokens)] + params["segments"][batch["segments"]]
        keep = jax.random.bernoulli(drop_key, 0.9, h.shape)
        h = jnp.where(keep, h / 0.9, 0.0)
        for layer in params["layers"]:
            h = _transformer_layer(layer, h)
        logits = h @ params["embed"].T + params["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        return jnp.sum(losses * masked) / jnp.maximum(masked.sum(), 1)

    return _training(loss, params, batches)


EXPERTS, CAPACITY = 4, 6


def _expert_params() -> dict[str, Any]:
    random = np.random.default_rng(4)

    def normal(*shape: int) -> Any:
        return (random.normal(size=shape) * 0.2).astype(np.float32)

    return {
        "embed": normal(VOCAB, WIDTH),
        "router": normal(WIDTH, EXPERTS),
        "up": normal(EXPERTS, WIDTH, 2 * WIDTH),
        "down": normal(EXPERTS, 2 * WIDTH, WIDTH),
    }


def _routes(params: Any, h: Any) -> Any:
    """The two best experts of each token, their weights, and the place in the expert's queue."""
    probabilities = jax.nn.softmax(h @ params["router"])
    weights, experts = lax.top_k(probabilities, 2)
    chosen = jax.nn.one_hot(experts, EXPERTS, dtype=jnp.int32)  # [b, t, 2, e]
    queue = jnp.cumsum(chosen.reshape(h.shape[0], -1, EXPERTS), 1).reshape(chosen.shape)
    place = (queue * chosen).sum(-1) - 1
    balance = (probabilities.mean((0, 1)) * chosen.mean((0, 1, 2))).sum() * EXPERTS
    return weights / weights.sum(-1, keepdims=True), experts, place, balance


def _experts(params: Any, rows: Any) -> Any:
    hidden = jax.nn.relu(jnp.einsum("becd,edf->becf", rows, params["up"]))
    return jnp.einsum("becf,efd->becd", hidden, params["down"])


def _moe(dispatch: Callable[[Any, Any], Any]) -> Training:
    def loss(params: Any, tokens: Any) -> Any:
        h = params["embed"][tokens[:, :-1]]
        mixed, balance = dispatch(params, h)
        logits = (h + mixed) @ params["embed"].T
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean() + 0.01 * balance

    return _training(loss, _expert_params(), _tokens(5))


def moe_einsum() -> Training:
    """GShard's dispatch: one-hot masks of [batch, token, expert, place] and einsum."""

    def dispatch(params: Any, h: Any) -> Any:
        weights, experts, place, balance = _routes(params, h)
        mask = (
            jax.nn.one_hot(experts, EXPERTS)[..., None]
            * jax.nn.one_hot(place, CAPACITY)[..., None, :]
        )
        rows = jnp.einsum("btkec,btd->becd", mask, h)
        out = _experts(params, rows)
        return jnp.einsum("btkec,btk,becd->btd", mask, weights, out), balance

    return _moe(dispatch)


def moe_scatter() -> Training:
    """Tokens are scattered to the experts' rows and gathered back."""

    def dispatch(params: Any, h: Any) -> Any:
        weights, experts, place, balance = _routes(params, h)

        def one(h: Any, experts: Any, place: Any) -> Any:
            rows = jnp.zeros((EXPERTS, CAPACITY, WIDTH))
            return rows.at[experts, place].add(h[:, None], mode="drop")

        out = _experts(params, jax.vmap(one)(h, experts, place))
        back = jax.vmap(lambda o, e, p: o.at[e, p].get(mode="fill", fill_value=0))(
            out, experts, place
        )
        return (back * weights[..., None]).sum(2), balance

    return _moe(dispatch)


MODELS: dict[str, Callable[[], Training]] = {
    f.__name__: f for f in (resnet, vit, unet, scanned_gpt, masked_lm, moe_einsum, moe_scatter)
}
