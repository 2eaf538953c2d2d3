"""What the models share around their mathematics: optimizer, state, step, abstract arguments.

Every model module has the same face, so that a script takes any of them:

    SIZES: dict[str, Config]                      named sizes, frozen dataclasses
    init_state(config, optimizer, seed=0)         {"params", "opt_state"}, more where it says so
    random_batch(config, batch_size, seed=0)      a dict of arrays, examples on dimension 0
    abstract_state(config, optimizer)             the same two as ShapeDtypeStructs: nothing is
    abstract_batch(config, batch_size)            computed, so that any size can be lowered
    loss(config, params, batch)                   float32 []
    make_train_step(config, optimizer)            step(state, batch) -> (state, loss)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

State = dict[str, Any]
Batch = dict[str, jax.Array]
TrainStep = Callable[[State, Batch], tuple[State, jax.Array]]


def make_optimizer(learning_rate: float = 3e-4, steps: int = 1000) -> optax.GradientTransformation:
    """AdamW with clipping by global norm and a warm-up cosine schedule."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, min(20, steps // 10)), max(2, steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))


def init_variables(module: Any, seed: int, *inputs: jax.Array) -> Any:
    """What `Module.init` gives, computed as one program: op by op each shape is compiled by itself,
    which takes longer."""
    return jax.jit(module.init)(jax.random.key(seed), *inputs)


def fresh_state(variables: Any, optimizer: Any) -> State:
    """The training state of what `Module.init` gives: its collections, and "opt_state"."""
    return {**variables, "opt_state": jax.jit(optimizer.init)(variables["params"])}


def update(state: State, grads: Any, optimizer: Any) -> State:
    """The state after one step of the optimizer; other collections are left as they are."""
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {**state, "params": params, "opt_state": opt_state}


def train_step_of(loss: Callable[[Any, Batch], jax.Array], optimizer: Any) -> TrainStep:
    """`step(state, batch) -> (state, loss)` for a loss of parameters and batch."""

    def train_step(state: State, batch: Batch) -> tuple[State, jax.Array]:
        value, grads = jax.value_and_grad(loss)(state["params"], batch)
        return update(state, grads, optimizer), value

    return train_step


def abstract(function: Callable[..., Any], *args: Any) -> Any:
    """Shapes and dtypes of `function(*args)`, which is not computed."""
    return jax.eval_shape(partial(function, *args))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[labels], float32; logits [..., classes], int32 labels [...]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def random_tokens(config: Any, batch_size: int, seed: int = 0) -> Batch:
    """{"tokens": int32 [batch, sequence + 1]}: inputs, and the same shifted by one as targets."""
    shape = (batch_size, config.sequence_length + 1)
    return {"tokens": jax.random.randint(jax.random.key(seed), shape, 0, config.vocab_size)}


def random_images(config: Any, batch_size: int, seed: int = 0) -> Batch:
    """{"images": float32 [batch, height, width, 3], "labels": int32 [batch]}."""
    image_key, label_key = jax.random.split(jax.random.key(seed))
    shape = (batch_size, config.image_size, config.image_size, 3)
    return {
        "images": jax.random.normal(image_key, shape),
        "labels": jax.random.randint(label_key, (batch_size,), 0, config.num_classes),
    }
