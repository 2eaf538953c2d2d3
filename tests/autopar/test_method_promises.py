"""What each method promises of a training step: layouts, and which collectives weights go through.

A method without a row fails: losses that agree with one device's (test_training.py) say nothing of
where state lies and what is sent.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import autopar
from autopar.plans import Plan, PlannedValue

DEVICES = 8
WIDTH, HIDDEN = 64, 128
WEIGHT_BYTES = 4 * WIDTH * HIDDEN
"""Of each of the two weights, of its gradient and of its moments."""
BATCH = 1040
"""So many examples that to send weights is always cheaper than to send activations."""

WHOLE, SPLIT = 1, DEVICES


@dataclass(frozen=True)
class Promise:
    """In how many parts things lie, and what is sent."""

    parameters: int
    optimizer_state: int
    batch: int
    moved: dict[str, int]
    """How many whole weights or gradients go through each kind of collective; there is no other
    but those of scalars."""
    is_told: bool = False
    """Whether the user's shardings say that the batch is split."""


PROMISES = {
    "dp": Promise(WHOLE, WHOLE, SPLIT, {"all_reduce": 2}),
    # Two updated parameters are gathered.
    "zero2": Promise(WHOLE, SPLIT, SPLIT, {"reduce_scatter": 2, "all_gather": 2}),
    # Two gathers in the forward phase; the backward phase does not read the first weight.
    "zero3": Promise(SPLIT, SPLIT, SPLIT, {"reduce_scatter": 2, "all_gather": 3}),
    "shard": Promise(WHOLE, WHOLE, SPLIT, {"all_reduce": 2}, is_told=True),
}

NO_PROMISE = {"auto": "it promises the least cost, whatever the layouts (tests/passes/planning)"}

OPTIMIZER = optax.adam(1e-3)


def step(state: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        hidden = jax.nn.relu(batch["x"] @ params["up"])
        return ((hidden @ params["down"] - batch["y"]) ** 2).mean()

    params, moments = state
    value, gradients = jax.value_and_grad(loss)(params)
    updates, moments = OPTIMIZER.update(gradients, moments, params)
    return (optax.apply_updates(params, updates), moments), value


def plan_of(method: str, *, is_told: bool) -> Plan:
    params = {"up": jnp.ones((WIDTH, HIDDEN)), "down": jnp.ones((HIDDEN, WIDTH))}
    x = jnp.ones((BATCH, WIDTH))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    told = (None, NamedSharding(mesh, PartitionSpec("data"))) if is_told else None
    parallel = autopar.parallelize(
        step, method=method, mesh=mesh, donate_argnums=0, in_shardings=told
    )
    return parallel.lower((params, OPTIMIZER.init(params)), {"x": x, "y": x}).plan


def parts(values: list[PlannedValue], place: str) -> set[int]:
    """In how many parts the weight-like arrays at a place of the pytree lie."""
    return {
        prod(value.shape) // prod(value.local_shape)
        for value in values
        if value.name.startswith(place) and len(value.shape) == 2
    }


def weights_moved(plan: Plan) -> dict[str, float]:
    """How many whole weights go through each kind of collective."""
    moved: dict[str, float] = defaultdict(float)
    for use in plan.collectives:
        if use.local_bytes > 4:
            size = use.local_bytes * (use.group if use.kind == "all_gather" else 1)
            moved[use.kind] += use.times * size / WEIGHT_BYTES
    return moved


@pytest.mark.parametrize("method", sorted({*autopar.method_names()} - {*NO_PROMISE}))
def test_methods_keep_what_they_promise(method: str) -> None:
    assert method in PROMISES, (
        f"method {method!r} promises nothing: add a row to PROMISES of {__file__}"
    )
    promise = PROMISES[method]
    plan = plan_of(method, is_told=promise.is_told)
    assert parts(plan.arguments, "state[0]") == {promise.parameters}
    assert parts(plan.arguments, "state[1]") == {promise.optimizer_state}
    assert parts(plan.arguments, "batch") == {promise.batch}
    assert parts(plan.results, "result[0][0]") == {promise.parameters}
    assert parts(plan.results, "result[0][1]") == {promise.optimizer_state}
    assert weights_moved(plan) == promise.moved


def test_every_row_is_of_a_method() -> None:
    assert {*PROMISES, *NO_PROMISE} <= {*autopar.method_names()}
