"""Small training steps as users of the common libraries write them.

A family gives `(step, state, batches)`: `step(state, batch) -> (state, loss)` and numpy batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Family = tuple[Callable[..., Any], Any, list[Any]]

IN, HIDDEN, OUT, BATCH, STEPS = 16, 32, 8, 16, 5


def _batches(count: int = STEPS, batch: int = BATCH) -> list[Any]:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(IN, OUT)).astype(np.float32)
    xs = [rng.normal(size=(batch, IN)).astype(np.float32) for _ in range(count)]
    return [{"x": x, "y": np.tanh(x @ weight)} for x in xs]


def _params(hidden: int = HIDDEN, seed: int = 0, layers: int = 2) -> Any:
    keys = jax.random.split(jax.random.key(seed), layers)
    sizes = [IN, *[hidden] * (layers - 1), OUT]
    return [
        {"w": jax.random.normal(k, (a, b)) / a**0.5, "b": jnp.zeros(b)}
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def _forward(params: Any, x: Any) -> Any:
    for layer in params[:-1]:
        x = jax.nn.gelu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def plain(hidden: int = HIDDEN, batch: int = BATCH) -> Family:
    """Pytrees and SGD with momentum."""

    def step(state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.mean((_forward(params, batch["x"]) - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(state["params"])
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state["momentum"], grads)
        params = jax.tree.map(lambda p, m: p - 0.05 * m, state["params"], momentum)
        return {"params": params, "momentum": momentum}, value

    params = _params(hidden)
    state = {"params": params, "momentum": jax.tree.map(jnp.zeros_like, params)}
    return step, state, _batches(batch=batch)


def odd_sizes() -> Family:
    """Neither the batch nor the hidden size is divisible by 8."""
    return plain(hidden=33, batch=7)


def adamw() -> Family:
    """Optax: clipping by global norm, adamw, a schedule."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 10)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(schedule))

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def loss(params: Any) -> Any:
            return jnp.mean((_forward(params, batch["x"]) - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = _params()
    return step, (params, optimizer.init(params)), _batches()


def linen() -> Family:
    """Flax linen with a TrainState, layer norm and running statistics of a batch norm."""
    import flax.linen as nn
    from flax.training.train_state import TrainState

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = True) -> Any:
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(HIDDEN)(x)))
            return nn.Dense(OUT)(nn.LayerNorm()(x))

    class State(TrainState):
        batch_stats: Any

    net = Net()
    variables = net.init(jax.random.key(0), jnp.zeros((1, IN)))
    state = State.create(
        apply_fn=net.apply,
        params=variables["params"],
        tx=optax.adam(1e-2),
        batch_stats=variables["batch_stats"],
    )

    def step(state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            out, changed = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                batch["x"],
                mutable=["batch_stats"],
            )
            return jnp.mean((out - batch["y"]) ** 2), changed["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads).replace(batch_stats=stats), value

    return step, state, _batches()


def nnx_step(graph: Any, optimizer: optax.GradientTransformation) -> Any:
    """The training step of a network that `nnx.split` gave the graph of: mean squared error."""
    from flax import nnx

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def loss(params: Any) -> Any:
            return jnp.mean((nnx.merge(graph, params)(batch["x"]) - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step


def nnx() -> Family:
    """Flax nnx: the module is split outside and merged under the step."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(IN, HIDDEN, rngs=rngs)
            self.norm = nnx.LayerNorm(HIDDEN, rngs=rngs)
            self.second = nnx.Linear(HIDDEN, OUT, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.second(self.norm(nnx.relu(self.first(x))))

    graph, state = nnx.split(Net(nnx.Rngs(0)))
    optimizer = optax.adam(1e-2)

    return nnx_step(graph, optimizer), (state, optimizer.init(state)), _batches()


def equinox() -> Family:
    """Equinox: partition and combine, filter_value_and_grad."""
    import equinox as eqx

    model = eqx.nn.MLP(IN, OUT, HIDDEN, 2, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_array)
    optimizer = optax.adam(1e-2)

    def step(state: Any, batch: Any) -> Any:
        arrays, opt_state = state

        @eqx.filter_value_and_grad
        def loss(model: Any) -> Any:
            return jnp.mean((jax.vmap(model)(batch["x"]) - batch["y"]) ** 2)

        value, grads = loss(eqx.combine(arrays, static))
        updates, opt_state = optimizer.update(grads, opt_state, arrays)
        return (eqx.apply_updates(arrays, updates), opt_state), value

    return step, (arrays, optimizer.init(arrays)), _batches()


def dropout() -> Family:
    """A typed PRNG key in the state; the numbers are those of one device."""

    def step(state: Any, batch: Any) -> Any:
        params, key = state
        key, used = jax.random.split(key)

        def loss(params: Any) -> Any:
            hidden = jax.nn.gelu(batch["x"] @ params[0]["w"] + params[0]["b"])
            hidden = hidden * jax.random.bernoulli(used, 0.8, hidden.shape) / 0.8
            return jnp.mean((hidden @ params[1]["w"] + params[1]["b"] - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        return (jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), key), value

    return step, (_params(), jax.random.key(7)), _batches()


def tied_embeddings() -> Family:
    """One table embeds tokens and reads them out."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 64, size=(BATCH, 9)).astype(np.int32) for _ in range(STEPS)]
    optimizer = optax.adam(1e-2)

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state

        def loss(params: Any) -> Any:
            x = params["embed"][batch[:, :-1]]
            x = x + jnp.tanh(x @ params["w"])
            logits = x @ params["embed"].T
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "embed": 0.1 * jax.random.normal(keys[0], (64, HIDDEN)),
        "w": jax.random.normal(keys[1], (HIDDEN, HIDDEN)) / HIDDEN**0.5,
    }
    return step, (params, optimizer.init(params)), tokens


def bf16() -> Family:
    """Mixed precision: bf16 activations, float32 weights, a loss scale that adapts."""

    def step(state: Any, batch: Any) -> Any:
        params, scale = state

        def loss(params: Any) -> Any:
            half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
            out = _forward(half, batch["x"].astype(jnp.bfloat16)).astype(jnp.float32)
            value = jnp.mean((out - batch["y"]) ** 2)
            return value * scale, value

        grads, value = jax.grad(loss, has_aux=True)(params)
        grads = jax.tree.map(lambda g: g / scale, grads)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))
        params = jax.tree.map(lambda p, g: jnp.where(finite, p - 0.05 * g, p), params, grads)
        return (params, jnp.where(finite, scale * 2, scale / 2)), value

    return step, (_params(), jnp.float32(1024)), _batches()


def _deep(remat: bool) -> Family:
    def step(params: Any, batch: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            return x + jnp.tanh(x @ w), None

        body = jax.checkpoint(layer) if remat else layer

        def loss(params: Any) -> Any:
            x, _ = jax.lax.scan(body, batch["x"] @ params["in"], params["layers"])
            return jnp.mean((x @ params["out"] - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), value

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(keys[0], (IN, HIDDEN)) / IN**0.5,
        "layers": jax.random.normal(keys[1], (3, HIDDEN, HIDDEN)) / HIDDEN**0.5,
        "out": jax.random.normal(keys[2], (HIDDEN, OUT)) / HIDDEN**0.5,
    }
    return step, params, _batches()


def scan_over_layers() -> Family:
    return _deep(remat=False)


def remat() -> Family:
    return _deep(remat=True)


FAMILIES: dict[str, Callable[[], Family]] = {
    "plain": plain,
    "odd_sizes": odd_sizes,
    "adamw": adamw,
    "linen": linen,
    "nnx": nnx,
    "equinox": equinox,
    "dropout": dropout,
    "tied_embeddings": tied_embeddings,
    "bf16": bf16,
    "scan_over_layers": scan_over_layers,
    "remat": remat,
}
