"""The models' losses in plain NumPy, float64, written from the papers' formulas.

They read the parameters by the names that flax gives them, and share nothing else with models/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


# ---- parts ---------------------------------------------------------------------------------------


def dense(p: Any, x: Array) -> Array:
    return x @ p["kernel"] + p["bias"]


def softmax(x: Array) -> Array:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def cross_entropy(logits: Array, labels: Array) -> Array:
    logits = logits - logits.max(-1, keepdims=True)
    log_normalizer = np.log(np.exp(logits).sum(-1))
    return log_normalizer - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def gelu(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swish(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def layer_norm(p: Any, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return centred / deviation * p["scale"] + p["bias"]


def group_norm(p: Any, x: Array, groups: int) -> Array:
    """Over height, width and the channels of a group, for each example."""
    out = np.empty_like(x)
    size = x.shape[-1] // groups
    for example in range(len(x)):
        for start in range(0, x.shape[-1], size):
            part = x[example, :, :, start : start + size]
            normal = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
            out[example, :, :, start : start + size] = normal
    return out * p["scale"] + p["bias"]


def batch_norm(p: Any, x: Array) -> tuple[Array, dict[str, Array]]:
    """The normalised batch, and its mean and variance."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normal = (x - mean) / np.sqrt(var + 1e-5)
    return normal * p["scale"] + p["bias"], {"mean": mean, "var": var}


def windows(x: Array, size: int, stride: int, fill: float) -> Array:
    """[batch, rows, columns, size, size, channels] of NHWC images, padded as "SAME"."""
    rows, columns = (math.ceil(n / stride) for n in x.shape[1:3])
    pads = [max(0, (o - 1) * stride + size - n)
            for o, n in zip((rows, columns), x.shape[1:3], strict=True)]  # fmt: skip
    around = [(0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)]
    x = np.pad(x, around, constant_values=fill)
    out = np.empty((len(x), rows, columns, size, size, x.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            out[:, i, j] = x[:, top : top + size, left : left + size]
    return out


def convolution(p: Any, x: Array, stride: int = 1) -> Array:
    kernel = p["kernel"]
    seen = windows(x, kernel.shape[0], stride, 0.0)
    return np.einsum("brcijk,ijko->brco", seen, kernel) + p.get("bias", 0.0)


def attention(p: Any, x: Array, mask: Array | bool = True) -> Array:
    """Head by head; `mask` [batch or 1, queries or 1, keys]."""
    out = np.zeros_like(x) + p["out"]["bias"]
    for head in range(p["query"]["kernel"].shape[1]):
        query, key, value = (
            x @ p[name]["kernel"][:, head] + p[name]["bias"][head]
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        weights = softmax(np.where(mask, scores, -np.inf))
        out += weights @ value @ p["out"]["kernel"][head]
    return out


def causal(length: int) -> Array:
    return np.arange(length)[:, None] >= np.arange(length)


def pre_norm_block(p: Any, x: Array, mask: Array | bool = True) -> Array:
    x = x + attention(p["attention"], layer_norm(p["LayerNorm_0"], x), mask)
    return x + dense(p["down"], gelu(dense(p["up"], layer_norm(p["LayerNorm_1"], x))))


# ---- models --------------------------------------------------------------------------------------


def gpt_logits(p: Any, tokens: Array, layers: int) -> Array:
    length = tokens.shape[1]
    x = p["embed"]["embedding"][tokens] + p["positions"]["embedding"][:length]
    for layer in range(layers):
        x = pre_norm_block(p[f"block_{layer}"], x, causal(length))
    return layer_norm(p["LayerNorm_0"], x) @ p["embed"]["embedding"].T


def gpt(config: Any, state: Any, batch: Any) -> float:
    tokens = batch["tokens"]
    logits = gpt_logits(state["params"], tokens[:, :-1], config.num_layers)
    return cross_entropy(logits, tokens[:, 1:]).mean()


def bert(config: Any, state: Any, batch: Any) -> float:
    p, tokens = state["params"], batch["tokens"]
    x = p["embed"]["embedding"][tokens] + p["types"]["embedding"][batch["types"]]
    x = layer_norm(p["embed_norm"], x + p["positions"]["embedding"][: tokens.shape[1]])
    for layer in range(config.num_layers):
        b = p[f"block_{layer}"]
        x = layer_norm(b["LayerNorm_0"], x + attention(b["attention"], x, batch["valid"][:, None]))
        x = layer_norm(b["LayerNorm_1"], x + dense(b["down"], gelu(dense(b["up"], x))))
    x = layer_norm(p["head_norm"], gelu(dense(p["head"], x)))
    losses = cross_entropy(x @ p["embed"]["embedding"].T + p["head_bias"], batch["targets"])
    return losses[batch["masked"]].mean()


def expert_layer(p: Any, tokens: Array, capacity: int) -> tuple[Array, float]:
    """GShard's algorithm 1 on one group [tokens, width], token by token."""
    experts = p["up"].shape[0]
    gates = softmax(tokens @ p["router"]["kernel"])
    order = np.argsort(-gates, -1, kind="stable")
    taken, out = np.zeros(experts, int), np.zeros_like(tokens)
    for choice in range(2):
        for s, token in enumerate(tokens):
            e = order[s, choice]
            if taken[e] < capacity:
                weight = gates[s, e] / (gates[s, order[s, 0]] + gates[s, order[s, 1]])
                out[s] += weight * (relu(token @ p["up"][e]) @ p["down"][e])
            taken[e] += 1
    share = np.bincount(order[:, 0], minlength=experts) / len(tokens)
    return out, experts * (share * gates.mean(0)).sum()


def moe(config: Any, state: Any, batch: Any) -> float:
    p, tokens = state["params"], batch["tokens"]
    inputs = tokens[:, :-1]
    length = inputs.shape[1]
    capacity = round(config.capacity_factor * config.group_size / config.num_experts)
    x = p["embed"]["embedding"][inputs] + p["positions"]["embedding"][:length]
    balances: list[float] = []
    for layer in range(config.num_layers):
        b = p[f"block_{layer}"]
        if layer % 2 == 0:
            x = pre_norm_block(b, x, causal(length))
            continue
        x = x + attention(b["attention"], layer_norm(b["LayerNorm_0"], x), causal(length))
        groups = layer_norm(b["LayerNorm_1"], x).reshape(-1, config.group_size, x.shape[-1])
        done = [expert_layer(b["experts"], group, capacity) for group in groups]
        x = x + np.stack([out for out, _ in done]).reshape(x.shape)
        balances += [balance for _, balance in done]
    logits = layer_norm(p["LayerNorm_0"], x) @ p["embed"]["embedding"].T
    return cross_entropy(logits, tokens[:, 1:]).mean() + config.balance_weight * np.mean(balances)


def wide_resnet_statistics(config: Any, state: Any, batch: Any) -> tuple[float, Any]:
    """The loss, and mean and variance of the batch in every norm."""
    p, statistics = state["params"], {}
    x = convolution(p["stem"], batch["images"], 2)
    x, statistics["stem_norm"] = batch_norm(p["stem_norm"], x)
    x = windows(relu(x), 3, 2, -np.inf).max((3, 4))
    for stage, blocks in enumerate(config.stages):
        for block in range(blocks):
            name = f"stage_{stage}_block_{block}"
            b, found = p[name], {}
            stride = 2 if stage and not block else 1
            y, found["BatchNorm_0"] = batch_norm(b["BatchNorm_0"], convolution(b["Conv_0"], x))
            y = convolution(b["Conv_1"], relu(y), stride)
            y, found["BatchNorm_1"] = batch_norm(b["BatchNorm_1"], y)
            y = convolution(b["Conv_2"], relu(y))
            y, found["BatchNorm_2"] = batch_norm(b["BatchNorm_2"], y)
            if "project" in b:
                x = convolution(b["project"], x, stride)
                x, found["project_norm"] = batch_norm(b["project_norm"], x)
            x, statistics[name] = relu(x + y), found
    return cross_entropy(dense(p["head"], x.mean((1, 2))), batch["labels"]).mean(), statistics


def wide_resnet(config: Any, state: Any, batch: Any) -> float:
    return wide_resnet_statistics(config, state, batch)[0]


def unet(config: Any, state: Any, batch: Any) -> float:
    p, groups = state["params"], config.num_groups
    beta = np.linspace(1e-4, 0.02, 1000)
    signal = np.array([np.prod(1 - beta[: t + 1]) for t in batch["times"]])[:, None, None, None]
    x = np.sqrt(signal) * batch["images"] + np.sqrt(1 - signal) * batch["noise"]
    half = config.channels // 2
    angles = batch["times"][:, None] / 10000 ** (np.arange(half) / (half - 1))
    time = dense(p["time_in"], np.concatenate([np.sin(angles), np.cos(angles)], 1))
    time = dense(p["time_out"], swish(time))

    def residual(name: str, x: Array) -> Array:
        b = p[name]
        y = convolution(b["Conv_0"], swish(group_norm(b["GroupNorm_0"], x, groups)))
        y = y + dense(b["time"], swish(time))[:, None, None, :]
        y = convolution(b["Conv_1"], swish(group_norm(b["GroupNorm_1"], y, groups)))
        return y + (convolution(b["project"], x) if "project" in b else x)

    def attend(name: str, x: Array) -> Array:
        y = group_norm(p[name]["GroupNorm_0"], x, groups).reshape(len(x), -1, x.shape[-1])
        return x + attention(p[name]["attention"], y).reshape(x.shape)

    def block(name: str, x: Array) -> Array:
        x = residual(name, x)
        return attend(f"{name}_attention", x) if x.shape[1] in config.attention else x

    x = convolution(p["stem"], x)
    skips, levels = [x], len(config.multipliers)
    for level in range(levels):
        for i in range(config.blocks):
            x = block(f"down_{level}_{i}", x)
            skips.append(x)
        if level < levels - 1:
            x = convolution(p[f"down_{level}_sample"], x, 2)
            skips.append(x)
    x = residual("middle_1", attend("middle_attention", residual("middle_0", x)))
    for level in range(levels - 1, -1, -1):
        for i in range(config.blocks + 1):
            x = block(f"up_{level}_{i}", np.concatenate([x, skips.pop()], -1))
        if level > 0:
            x = convolution(p[f"up_{level}_sample"], np.kron(x, np.ones((1, 2, 2, 1))))
    assert not skips
    x = convolution(p["head"], swish(group_norm(p["head_norm"], x, groups)))
    return ((batch["noise"] - x) ** 2).mean()


def vit(config: Any, state: Any, batch: Any) -> float:
    p, images, size = state["params"], batch["images"], config.patch_size
    count, side, width = len(images), config.image_size // size, config.hidden_size
    kernel = p["patches"]["kernel"].reshape(-1, width)
    x = np.empty((count, 1 + side * side, width))
    x[:, 0] = p["class_token"][0, 0]
    for i in range(side):
        for j in range(side):
            patch = images[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
            x[:, 1 + i * side + j] = patch.reshape(count, -1) @ kernel + p["patches"]["bias"]
    x = x + p["positions"]
    for layer in range(config.num_layers):
        x = pre_norm_block(p[f"block_{layer}"], x)
    logits = dense(p["head"], layer_norm(p["head_norm"], x)[:, 0])
    return cross_entropy(logits, batch["labels"]).mean()


def mlp(config: Any, state: Any, batch: Any) -> float:
    x = batch["inputs"]
    for layer in range(config.num_layers):
        x = dense(state["params"][f"layer_{layer}"], relu(x) if layer else x)
    return ((x - batch["targets"]) ** 2).mean()


LOSSES: dict[str, Callable[[Any, Any, Any], float]] = {
    f.__name__: f for f in (gpt, bert, moe, wide_resnet, unet, vit, mlp)
}
